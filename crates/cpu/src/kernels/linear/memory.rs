//! Memory for packed weights: pieces of many matrices, which the system is asked to back with huge pages.
//!
//! Written page by page, the weights of a model of 145 MB cost 36,000 faults, more than the packing itself; in huge pages a hundred. Each
//! matrix's panels are written first, and so placed, by the members that will read them, as far as 2 MiB allow.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

/// Where matrices begin: kernels load halves of a cache line, which must not straddle two.
const LINE: usize = 64;
/// A huge page of x86-64, and of AArch64 with pages of 4 KiB.
const HUGE: usize = 2 << 20;
/// What a piece holds: large against a huge page, of which the last one may stay half empty. What is not written takes no memory.
const PIECE: usize = 32 << 20;

/// Hands out memory for one matrix after the other.
#[derive(Debug, Default)]
pub struct PackedMemory {
    /// The newest piece, and what of it is free.
    free: Option<(Arc<Piece>, Range<usize>)>,
}

impl PackedMemory {
    /// `len` zeroed bytes that begin at a cache line.
    pub(super) fn take(&mut self, len: usize) -> Span {
        let (piece, free) = match self.free.take() {
            Some((piece, free)) if free.len() >= len => (piece, free),
            _ => {
                let size = len.max(PIECE);
                (Arc::new(Piece::new(size)), 0..size)
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
    piece: Arc<Piece>,
    range: Range<usize>,
}

impl Span {
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies within the piece, which is initialised and lives as long as the span; nobody else has these bytes.
        unsafe { slice::from_raw_parts(self.piece.start.as_ptr().add(self.range.start), self.range.len()) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for as long as the slice.
        unsafe { slice::from_raw_parts_mut(self.piece.start.as_ptr().add(self.range.start), self.range.len()) }
    }
}

/// Zeroed memory that begins at a huge page.
#[derive(Debug)]
struct Piece {
    block: NonNull<u8>,
    layout: Layout,
    start: NonNull<u8>,
}

// SAFETY: it owns its bytes, which spans share out among each other.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Piece {
    fn new(len: usize) -> Self {
        // Alignment beyond 16 would make the allocator write the zeros itself, and so touch every page.
        let layout =
            Layout::from_size_align(len.saturating_add(HUGE), 16).expect("a model is smaller than the address space");
        // SAFETY: the layout has more than 0 bytes.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        // SAFETY: the distance to the next huge page is below what was added for it.
        let start = unsafe { block.add(block.align_offset(HUGE)) };
        prefer_huge_pages(start, len);
        Piece { block, layout, start }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and no span is left.
        unsafe { dealloc(self.block.as_ptr(), self.layout) }
    }
}

/// Asks the system for huge pages behind whole ones of `len` bytes from `start` on. A refusal costs speed alone.
#[cfg(target_os = "linux")]
fn prefer_huge_pages(start: NonNull<u8>, len: usize) {
    // SAFETY: the range belongs to one allocation of ours, and the advice changes no byte of it.
    let refused = unsafe { libc::madvise(start.as_ptr().cast(), len / HUGE * HUGE, libc::MADV_HUGEPAGE) } != 0;
    if refused {
        tracing::debug!(error = %std::io::Error::last_os_error(), "no huge pages for weights");
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_huge_pages(_start: NonNull<u8>, _len: usize) {}

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
