//! The envelope round a saved executable: magic, length, checksum. XLA:CPU refuses most damaged bytes with an error, but a flipped
//! bit in the machine code either ends the process or goes unseen (tried with plugin 0.115), so damage must not reach it.

use super::PjrtError;

const MAGIC: [u8; 8] = *b"nxdpjrt1";
const HEAD_BYTES: usize = 24;

/// `bytes` in an envelope.
pub(super) fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + bytes.len());
    out.extend(MAGIC);
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(checksum(bytes).to_le_bytes());
    out.extend(bytes);
    out
}

/// The bytes in an envelope, when they are whole.
pub(super) fn open(sealed: &[u8]) -> Result<&[u8], PjrtError> {
    let wrong = |what| PjrtError::Saved { what };
    let (magic, rest) = sealed.split_first_chunk::<8>().ok_or_else(|| wrong("too short"))?;
    let (len, rest) = rest.split_first_chunk::<8>().ok_or_else(|| wrong("too short"))?;
    let (sum, bytes) = rest.split_first_chunk::<8>().ok_or_else(|| wrong("too short"))?;
    if *magic != MAGIC {
        return Err(wrong("the first bytes are not `nxdpjrt1`"));
    }
    if u64::from_le_bytes(*len) != bytes.len() as u64 {
        return Err(wrong("the length differs from the one written with them"));
    }
    if u64::from_le_bytes(*sum) != checksum(bytes) {
        return Err(wrong("the checksum differs"));
    }
    Ok(bytes)
}

/// FNV-1a over words of eight bytes: against damage, not against forgery.
fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
    let sum = words.iter().fold(0xCBF2_9CE4_8422_2325, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_comes_back() {
        for len in [0, 1, 7, 8, 9, 100] {
            let bytes: Vec<u8> = (0..len).collect();
            assert_eq!(open(&seal(&bytes)).unwrap(), bytes);
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_seen() {
        let sealed = seal(b"an executable, more or less");
        for end in 0..sealed.len() {
            assert!(open(&sealed[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&damaged).is_err(), "bit {bit}");
        }
    }
}
