//! Which instructions the kernels may use, found out at run time.

use std::fmt;

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust: the reference that every other kernel must equal in every bit.
    Scalar,
    /// AVX2 with FMA and F16C (x86-64-v3).
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4 and later). Without VNNI, AVX2 is as fast and serves.
    Avx512,
    /// The same with tiles of 8-bit integers, AMX-INT8 (Sapphire Rapids and later), which products of several rows take.
    Amx,
    /// NEON, which every AArch64 has.
    Neon,
    /// NEON with the dot products of Armv8.2.
    NeonDot,
}

impl Isa {
    /// Every instruction set, worst first.
    pub const ALL: [Isa; 6] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx, Isa::Neon, Isa::NeonDot];

    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        let best = Self::ALL.into_iter().rev().find(|isa| isa.is_available());
        best.unwrap_or(Isa::Scalar)
    }

    /// Every instruction set that this machine can run, worst first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The one of its vectors: what computes everything but products of tiles.
    pub const fn vectors(self) -> Self {
        match self {
            Isa::Amx => Isa::Avx512,
            other => other,
        }
    }

    /// The short name that kernels carry.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonDot => "neon-dotprod",
        }
    }

    /// Whether its kernels have passed their tests on a processor. Those of the others have under emulation, which says nothing of speed.
    pub const fn was_on_hardware(self) -> bool {
        matches!(self, Isa::Scalar | Isa::Avx2 | Isa::Avx512 | Isa::Amx)
    }

    /// Whether this machine can run it. After the first call an answer costs a few loads.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Isa::Avx512.is_available() && crate::team::tiles::are_permitted(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[allow(unreachable_patterns, reason = "which are left depends on the architecture")]
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "AVX2+FMA+F16C",
            Isa::Avx512 => "AVX-512+VNNI",
            Isa::Amx => "AVX-512+VNNI+AMX",
            Isa::Neon => "NEON",
            Isa::NeonDot => "NEON+dotprod",
        })
    }
}
