//! Which instructions the kernels may use, found out at run time.

use std::fmt;

/// An instruction set that kernels are written for, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust: the reference that every other kernel must equal in every bit.
    Scalar,
    /// AVX2 with FMA and F16C (x86-64-v3).
    Avx2,
}

impl Isa {
    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            return Isa::Avx2;
        }
        Isa::Scalar
    }

    /// Every instruction set that this machine can run.
    pub fn available() -> Vec<Self> {
        [Isa::Scalar, Isa::Avx2].into_iter().filter(|&isa| isa <= Isa::detect()).collect()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "AVX2+FMA+F16C",
        })
    }
}
