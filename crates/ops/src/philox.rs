//! Random numbers without state: Philox4x32-10, a function from what a number is for to the number.
//!
//! The same request draws the same numbers in any batch, on any device and after any preemption, because nothing counts arrivals.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11, section 3.3 and table 2.

/// What a random number decides. Different purposes never share a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Purpose {
    /// The token at a position.
    Draw = 0,
    /// The token that a draft model proposes for a position.
    Propose = 1,
    /// Whether a proposed token is accepted.
    Accept = 2,
    /// The token that takes the place of a rejected one.
    Residual = 3,
}

/// A number in `[0, 1)`, a multiple of 2⁻⁵³. The seed is the key; choice, position and purpose are the counter.
pub fn uniform(seed: u64, choice: u32, position: u32, purpose: Purpose) -> f64 {
    let [a, b, ..] = philox([choice, position, purpose as u32, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = u64::from(a) << 21 | u64::from(b) >> 11;
    bits as f64 * (1.0 / (1_u64 << 53) as f64)
}

/// Philox4x32 with ten rounds.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k, mut l]) = (counter, key);
    for _ in 0..10 {
        let (p, q) = (u64::from(a) * 0xD251_1F53, u64::from(c) * 0xCD9E_8D57);
        [a, b, c, d] = [(q >> 32) as u32 ^ b ^ k, q as u32, (p >> 32) as u32 ^ d ^ l, p as u32];
        // Weyl steps: the golden ratio and the square root of three less one.
        k = k.wrapping_add(0x9E37_79B9);
        l = l.wrapping_add(0xBB67_AE85);
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        // Source: `tests/kat_vectors` of Random123, lines `philox4x32 10`.
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter, key), expected, "counter {counter:x?}, key {key:x?}");
        }
    }

    #[test]
    fn every_argument_changes_the_number() {
        let of = |seed, choice, position, purpose| uniform(seed, choice, position, purpose).to_bits();
        let numbers = [
            of(1, 0, 0, Purpose::Draw),
            of(1 << 32, 0, 0, Purpose::Draw),
            of(0, 1, 0, Purpose::Draw),
            of(0, 0, 1, Purpose::Draw),
            of(0, 0, 0, Purpose::Draw),
            of(0, 0, 0, Purpose::Propose),
            of(0, 0, 0, Purpose::Accept),
            of(0, 0, 0, Purpose::Residual),
        ];
        for (i, a) in numbers.iter().enumerate() {
            assert!(!numbers[..i].contains(a), "number {i} occurs twice");
        }
    }

    #[test]
    fn numbers_fill_the_unit_interval_evenly() {
        let mut tenths = [0_u32; 10];
        for position in 0..100_000 {
            let number = uniform(7, 0, position, Purpose::Draw);
            assert!((0.0..1.0).contains(&number), "{number}");
            tenths[(number * 10.0) as usize] += 1;
        }
        // Five standard deviations of a count of 10 000.
        assert!(tenths.iter().all(|count| count.abs_diff(10_000) < 475), "{tenths:?}");
    }
}
