//! Asking memory for lines before they are used.
#![allow(unsafe_code, reason = "a prefetch is an instruction without a safe name")]

/// Bytes that memory gives at a time.
pub(crate) const LINE: usize = 64;

/// Asks memory for a line.
#[inline(always)]
pub(crate) fn ask(at: *const u8) {
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
