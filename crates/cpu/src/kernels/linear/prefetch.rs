//! Asking memory for lines before they are used.

/// Bytes that memory gives at a time.
pub(super) const LINE: usize = 64;

/// Asks memory for a line.
#[inline(always)]
pub(super) fn ask(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch may name any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(at.cast(), std::arch::x86_64::_MM_HINT_T0);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch may name any address.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags));
    }
}

/// How far ahead a single tile asks for weights, in bytes. What memory gives in its latency is 3 to 4 KiB a core; one thread reads 13 GB/s
/// of bytes with 1 KiB, 15 with 4 KiB, 17 to 19 with 8 KiB.
pub(super) const AHEAD: usize = 8192;

/// What a single tile asks for while it reads `bytes`: not more than the `left` bytes behind them, as nobody asks for another member's.
pub(super) fn ahead_of(bytes: &[u8], left: usize) -> *const u8 {
    bytes.as_ptr().wrapping_add(AHEAD.min(left))
}
