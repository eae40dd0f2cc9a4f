//! Reading little-endian fields of bytes that nobody vouches for.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::GgufError;
use std::fmt::Arguments;
use std::ops::Range;

/// A position in a file's bytes. Every read is bounded by what is left.
pub(super) struct Reader<'b> {
    /// The file, or as much of its head as was read.
    bytes: &'b [u8],
    file_bytes: usize,
    at: usize,
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Reader::of_head(bytes, bytes.len())
    }

    /// A reader of the head of a file of `file_bytes` bytes: what lies behind it counts as left, and cannot be read.
    pub(super) fn of_head(head: &'b [u8], file_bytes: usize) -> Self {
        Reader { bytes: head, file_bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> u64 {
        self.file_bytes.saturating_sub(self.at) as u64
    }

    /// The next `len` bytes, a part of field `what`.
    pub(super) fn take(&mut self, len: u64, what: Arguments<'_>) -> Result<&'b [u8], GgufError> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let Some((end, bytes)) = end.and_then(|end| Some((end, self.bytes.get(self.at..end)?))) else {
            return Err(GgufError::Truncated {
                what: what.to_string(),
                offset: self.at,
                needed: len,
                left: self.left(),
            });
        };
        self.at = end;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self, what: Arguments<'_>) -> Result<[u8; N], GgufError> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("`take` gives as many bytes as were asked for"))
    }

    pub(super) fn u32(&mut self, what: Arguments<'_>) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: Arguments<'_>) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length and as many bytes, at most `limit`.
    pub(super) fn string(&mut self, limit: u64, what: Arguments<'_>) -> Result<&'b str, GgufError> {
        let len = self.u64(format_args!("the length of {what}"))?;
        self.check_length(len, len, limit, what)?;
        let start = self.at;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes)
            .map_err(|e| GgufError::Utf8 { what: what.to_string(), offset: start.saturating_add(e.valid_up_to()) })
    }

    /// Passes over `count` strings of at most `limit` bytes each. Where one is malformed it stays where it is: [`Reader::string`] says what
    /// is wrong.
    pub(super) fn pass_strings(&mut self, count: u64, limit: u64) -> bool {
        let is_text = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| std::str::from_utf8(bytes).is_ok());
        let (mut at, mut unchecked) = (self.at, self.at);
        for _ in 0..count {
            let Some((length, _)) = self.bytes.get(at..).and_then(<[u8]>::split_first_chunk) else { return false };
            let (len, start) = (u64::from_le_bytes(*length), at.saturating_add(length.len()));
            let end = usize::try_from(len).ok().filter(|_| len <= limit).and_then(|len| start.checked_add(len));
            let Some(end) = end else { return false };
            // The bytes of a lesser length are ASCII, which no character goes over: strings and lengths together are UTF-8 where each
            // string is, and many are looked at faster at once.
            if len >= 128 {
                if !is_text(self.bytes.get(unchecked..at)) || !is_text(self.bytes.get(start..end)) {
                    return false;
                }
                unchecked = end;
            }
            at = end;
        }
        let passed = is_text(self.bytes.get(unchecked..at));
        if passed {
            self.at = at;
        }
        passed
    }

    /// Fails when `found` things of `bytes` bytes in all are more than what is left, or than `limit` bytes.
    pub(super) fn check_length(
        &self,
        found: u64,
        bytes: u64,
        limit: u64,
        what: Arguments<'_>,
    ) -> Result<(), GgufError> {
        if bytes > self.left() {
            return Err(GgufError::Length { what: what.to_string(), found, left: self.left() });
        }
        if bytes > limit {
            return Err(GgufError::Limit { what: what.to_string(), found, limit });
        }
        Ok(())
    }

    /// A count of entries of at least `entry_bytes` each.
    pub(super) fn count(&mut self, what: &'static str, entry_bytes: u64, limit: u64) -> Result<u64, GgufError> {
        let found = self.u64(format_args!("the {what} count"))?;
        let max = self.left().checked_div(entry_bytes).unwrap_or(0);
        if found > max {
            return Err(GgufError::Count { what, found, file_bytes: self.file_bytes, max });
        }
        if found > limit {
            return Err(GgufError::TooMany { what, found, limit });
        }
        Ok(found)
    }

    /// What was read since `start`.
    pub(super) fn since(&self, start: usize) -> Range<usize> {
        start..self.at
    }
}
