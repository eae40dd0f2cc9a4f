//! Whether threads may keep tiles of AMX.
#![allow(unsafe_code, reason = "one system call, of numbers alone")]

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Whether the processor has tiles of 8-bit integers and the system lets threads of this process use them. It has to be asked for that,
/// once: a thread's tiles are 8 KB that it keeps (Linux, `Documentation/arch/x86/xstate.rst`).
pub(crate) fn are_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    /// AMX-TILE and AMX-INT8 in EDX of leaf 7.
    const FEATURES: u32 = 1 << 24 | 1 << 25;
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    *PERMITTED.get_or_init(|| {
        let has_tiles = __cpuid_count(7, 0).edx & FEATURES == FEATURES;
        // SAFETY: the call changes nothing but what threads of this process may keep.
        has_tiles && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    })
}
