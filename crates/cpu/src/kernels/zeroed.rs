//! Zeroed memory, which the system gives when it is first touched, in huge pages where it can.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::slice;

/// A huge page of x86-64, and of AArch64 with pages of 4 KiB. Smaller memory begins there too, and so at a cache line.
const HUGE: usize = 2 << 20;

/// Zeroed bytes, at first without pages behind them.
#[derive(Debug)]
pub(crate) struct Zeroed {
    /// What the allocator gave; `None` for no bytes.
    block: Option<(NonNull<u8>, Layout)>,
    /// The first byte, at a huge page.
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its bytes, as a `Vec<u8>` does.
unsafe impl Send for Zeroed {}
// SAFETY: shared, it only gives out `&[u8]`; who uses `start` has duties of its own.
unsafe impl Sync for Zeroed {}

impl Zeroed {
    /// `len` zeros; `None` when the system does not give them.
    pub(crate) fn new(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Zeroed { block: None, start: NonNull::<u128>::dangling().cast(), len });
        }
        // Alignment beyond 16 would make the allocator write the zeros itself, and so touch every page.
        let layout = Layout::from_size_align(len.checked_add(HUGE)?, 16).ok()?;
        // SAFETY: the layout has more than 0 bytes.
        let block = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        // SAFETY: the distance to the next huge page is below what was added for it.
        let start = unsafe { block.add(block.align_offset(HUGE)) };
        prefer_huge_pages(start, len);
        Some(Zeroed { block: Some((block, layout)), start, len })
    }

    /// The first of its bytes, for those who share them out.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
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

/// Asks the system for huge pages behind whole ones of `len` bytes from `start` on. A refusal costs speed alone.
#[cfg(target_os = "linux")]
fn prefer_huge_pages(start: NonNull<u8>, len: usize) {
    let len = len / HUGE * HUGE;
    // SAFETY: the range belongs to one allocation of ours, and the advice changes no byte of it.
    if len > 0 && unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_HUGEPAGE) } != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "no huge pages");
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_huge_pages(_start: NonNull<u8>, _len: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_zero_and_start_at_a_huge_page() {
        for len in [0, 1, 63, 64, 65, 100_000] {
            let mut memory = Zeroed::new(len).unwrap();
            assert!(memory.bytes().len() == len && memory.bytes().iter().all(|&b| b == 0));
            assert!(len == 0 || memory.bytes().as_ptr().addr().is_multiple_of(HUGE));
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
