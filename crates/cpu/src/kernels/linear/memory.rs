//! Memory for packed weights: pieces of many matrices, which the system is asked to back with huge pages.
//!
//! Written page by page, the weights of a model of 145 MB cost 36,000 faults, more than the packing itself; in huge pages a hundred. Each
//! matrix's panels are written first, and so placed, by the members that will read them, as far as 2 MiB allow.

use crate::kernels::zeroed::Zeroed;
use std::ops::Range;
use std::slice;
use std::sync::Arc;

/// Where matrices begin: kernels load halves of a cache line, which must not straddle two.
const LINE: usize = 64;
/// What a piece holds: large against a huge page, of which the last one may stay half empty. What is not written takes no memory.
const PIECE: usize = 32 << 20;

/// Hands out memory for one matrix after the other.
#[derive(Debug, Default)]
pub struct PackedMemory {
    /// The newest piece, and what of it is free.
    free: Option<(Arc<Zeroed>, Range<usize>)>,
}

impl PackedMemory {
    /// `len` zeroed bytes that begin at a cache line.
    pub(super) fn take(&mut self, len: usize) -> Span {
        let (piece, free) = match self.free.take() {
            Some((piece, free)) if free.len() >= len => (piece, free),
            _ => {
                let size = len.max(PIECE);
                (Arc::new(Zeroed::new(size).expect("memory for weights")), 0..size)
            }
        };
        let end = free.start + len;
        self.free = Some((Arc::clone(&piece), end.next_multiple_of(LINE).min(free.end)..free.end));
        Span { piece, range: free.start..end }
    }
}

/// The bytes of one matrix.
#[derive(Debug)]
pub(super) struct Span {
    piece: Arc<Zeroed>,
    range: Range<usize>,
}

impl Span {
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies within the piece, which is initialised and lives as long as the span; nobody else has these bytes.
        unsafe { slice::from_raw_parts(self.piece.start().as_ptr().add(self.range.start), self.range.len()) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for as long as the slice.
        unsafe { slice::from_raw_parts_mut(self.piece.start().as_ptr().add(self.range.start), self.range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_zeroed_begin_at_lines_and_do_not_overlap() {
        let mut memory = PackedMemory::default();
        let mut spans: Vec<Span> = [1, 64, 100, 5, PIECE - 200, 64, PIECE + 3, 7].map(|len| memory.take(len)).into();
        for span in &mut spans {
            assert!(span.bytes().as_ptr().addr().is_multiple_of(LINE));
            assert!(span.bytes().iter().take(1 << 16).all(|&byte| byte == 0));
            let len = span.range.len();
            span.bytes_mut()[..len.min(1 << 16)].fill(0xff);
            span.bytes_mut()[len - 1] = 0xff;
        }
        let mut ranges: Vec<Range<usize>> =
            spans.iter().map(|span| span.bytes().as_ptr_range()).map(|r| r.start.addr()..r.end.addr()).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
    }

    #[test]
    fn a_span_outlives_the_memory_it_came_from() {
        let span = PackedMemory::default().take(100);
        assert_eq!(span.bytes(), [0; 100]);
    }
}
