//! Asking memory for lines before they are used.
#![allow(unsafe_code, reason = "a prefetch is an instruction without a safe name")]

/// Bytes that memory gives at a time.
pub(crate) const LINE: usize = 64;

/// Asks memory for a line, to the second-level cache: more of them can be under way than to the first one. Eight rows of 16-bit weights read
/// 33 to 36 GB/s with two threads, and 29 the other way.
#[inline(always)]
pub(crate) fn ask(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch may name any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(at.cast(), std::arch::x86_64::_MM_HINT_T1);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch may name any address.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags));
    }
}

/// Asks memory for a line that is read once, to the first-level cache past the others.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn ask_once(at: *const u8) {
    // SAFETY: SSE is part of x86-64, and a prefetch may name any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(at.cast(), std::arch::x86_64::_MM_HINT_NTA);
    }
}

/// Asks for a line that is written next, away from the cache of who wrote it last.
#[inline(always)]
pub(crate) fn ask_to_write(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch may name any address; processors of 64 bits that do not know the instruction do nothing.
    unsafe {
        std::arch::asm!("prefetchw [{0}]", in(reg) at, options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch may name any address.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags));
    }
}
