//! A cached program as a file: a header, and the program.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// Changes with the layout of the file and with anything about programs that no part of a key tells.
pub(super) const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"nxd-prog";
/// Magic, version, length of the program, its SHA-256.
pub(super) const HEADER_BYTES: usize = 8 + 4 + 8 + 32;

/// The size of the file of a program of so many bytes.
pub(super) fn size(program_bytes: usize) -> u64 {
    (HEADER_BYTES as u64).saturating_add(program_bytes as u64)
}

/// What stands before a program.
pub(super) fn header(program: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..20].copy_from_slice(&(program.len() as u64).to_le_bytes());
    header[20..].copy_from_slice(&Sha256::digest(program));
    header
}

/// The program of a file of so many bytes, or what is wrong with it.
pub(super) fn read(file: &mut impl Read, file_bytes: u64) -> io::Result<Vec<u8>> {
    let bad = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidData, text));
    let mut found = [0; HEADER_BYTES];
    if file_bytes < HEADER_BYTES as u64 {
        return bad("it is shorter than its header");
    }
    file.read_exact(&mut found)?;
    let program_bytes = file_bytes - HEADER_BYTES as u64;
    if found[..8] != MAGIC || found[8..12] != VERSION.to_le_bytes() {
        return bad("it is not a program of this version");
    }
    if found[12..20] != program_bytes.to_le_bytes() {
        return bad("its length is not the one in its header");
    }
    let mut program = Vec::new();
    let room = usize::try_from(program_bytes).ok().and_then(|bytes| program.try_reserve_exact(bytes).ok());
    if room.is_none() {
        return bad("it does not fit in memory");
    }
    file.take(program_bytes).read_to_end(&mut program)?;
    if found != header(&program) {
        return bad("its bytes are not those that were written");
    }
    Ok(program)
}
