//! Memory that the system gives zeroed, page by page, when it is first touched.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::slice;

/// Bytes of a cache line, at which the memory starts.
const LINE: usize = 64;

/// Zeroed bytes, at first without pages behind them.
#[derive(Debug)]
pub(crate) struct Zeroed {
    /// What the allocator gave; `None` for no bytes.
    block: Option<(NonNull<u8>, Layout)>,
    /// The first byte at a cache line.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes, as a `Vec<u8>` does.
unsafe impl Send for Zeroed {}
// SAFETY: shared, it only gives out `&[u8]`.
unsafe impl Sync for Zeroed {}

impl Zeroed {
    /// `len` zeros; `None` when the system does not give them.
    pub(crate) fn new(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Zeroed { block: None, start: NonNull::<u128>::dangling().cast(), len });
        }
        // Alignment beyond 16 would make the allocator write the zeros itself, and so touch every page.
        let layout = Layout::from_size_align(len.checked_add(LINE)?, 16).ok()?;
        // SAFETY: the layout has more than 0 bytes.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skip = block.align_offset(LINE);
        // SAFETY: `skip` is below `LINE`, which the layout has on top of `len`.
        let start = unsafe { block.add(skip) };
        Some(Zeroed { block: Some((block, layout)), start, len })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` on are ours and initialised.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes from `start` on are ours and initialised; `self` is borrowed for as long as the slice.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        if let Some((block, layout)) = self.block {
            // SAFETY: the block was allocated with this layout, and is freed once.
            unsafe { dealloc(block.as_ptr(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_zero_and_start_at_a_cache_line() {
        for len in [0, 1, 63, 64, 65, 100_000] {
            let mut memory = Zeroed::new(len).unwrap();
            assert!(memory.bytes().len() == len && memory.bytes().iter().all(|&b| b == 0));
            assert!(len == 0 || memory.bytes().as_ptr().addr().is_multiple_of(LINE));
            memory.bytes_mut().fill(7);
            assert!(memory.bytes().iter().all(|&b| b == 7));
        }
    }

    #[test]
    fn what_cannot_be_had_is_none() {
        assert!(Zeroed::new(usize::MAX).is_none());
        assert!(Zeroed::new(usize::MAX / 4).is_none());
    }
}
