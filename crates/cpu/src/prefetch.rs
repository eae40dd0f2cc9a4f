//! Asking memory for lines before they are used.
#![allow(unsafe_code, reason = "a prefetch is an instruction without a safe name")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__cpuid, _MM_HINT_NTA, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

/// Bytes that memory gives at a time.
pub(crate) const LINE: usize = 64;

/// The cache that lines are asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    First,
    Second,
}

impl Cache {
    /// Where what is read soon, weights or K and V, is asked to.
    ///
    /// The second one, as more lines can be under way to it: eight rows of 16-bit weights read 33 to 36 GB/s with two threads of a Zen 4, and
    /// 29 the other way. From Zen 5 on (family 26) the first one takes as many: one row of Q8_0 reads x1.17 as much, of Q4_0 and Q4_1 x1.1,
    /// of 16-bit weights x1.15; eight rows x1.02 to x1.06; attention of 8 requests x1.2.
    #[inline]
    pub(crate) fn preferred() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            static PREFERRED: LazyLock<Cache> = LazyLock::new(|| match amd() {
                Some((26.., _)) => Cache::First,
                _ => Cache::Second,
            });
            *PREFERRED
        }
        #[cfg(not(target_arch = "x86_64"))]
        Cache::Second
    }
}

/// Whether a single row of integers waits the least where its lines are asked to the first cache alone, [shortly before](ask_once) they are
/// used, and not [to the second](Cache::preferred) long before: on Zen 3 (family 25 without the models of Zen 4) it reads x1.04 to x1.14 as
/// much. Zen 4 gains 1.03 to 1.1 by both over either.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn once_is_enough() -> bool {
    static ENOUGH: LazyLock<bool> = LazyLock::new(|| matches!(amd(), Some((25, ..0x10 | 0x20..0x60))));
    *ENOUGH
}

/// Family and model of a processor of AMD's, where the base family is 15 with the extended ones (AMD64 manual 3, CPUID function 1).
#[cfg(target_arch = "x86_64")]
fn amd() -> Option<(u32, u32)> {
    let (vendor, signature) = (__cpuid(0), __cpuid(1).eax);
    let is_amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD";
    let bits = |from: u32, count: u32| signature >> from & ((1 << count) - 1);
    is_amd.then(|| match bits(8, 4) {
        15 => (15 + bits(20, 8), bits(4, 4) | bits(16, 4) << 4),
        family => (family, bits(4, 4)),
    })
}

/// Asks memory for a line.
#[inline(always)]
pub(crate) fn ask(at: *const u8, to: Cache) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch may name any address.
    unsafe {
        match to {
            Cache::First => _mm_prefetch(at.cast(), _MM_HINT_T0),
            Cache::Second => _mm_prefetch(at.cast(), _MM_HINT_T1),
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch may name any address.
    unsafe {
        match to {
            Cache::First => {
                std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags))
            }
            Cache::Second => {
                std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags))
            }
        }
    }
}

/// Asks memory for a line that is read once, to the first-level cache past the others.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn ask_once(at: *const u8) {
    // SAFETY: SSE is part of x86-64, and a prefetch may name any address.
    unsafe {
        _mm_prefetch(at.cast(), _MM_HINT_NTA);
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
