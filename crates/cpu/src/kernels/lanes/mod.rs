//! Eight f32 lanes, so that a kernel is written once and has the same bits with every instruction set.
//!
//! A kernel implements [`Kernel`] over any [`Lanes`]; [`dispatch`] compiles it for each instruction set and picks one. What
//! [`Kernel::run`] calls must be `#[inline(always)]`, closures included: a function of its own would be compiled without AVX2.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::isa::Isa;
use std::ops::{Add, Div, Mul, Sub};

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;

/// Added to an integer of few bits, it leaves in the sum's last bits what an f32 of that power of two has as its exponent.
pub(crate) const SHIFT: f32 = 12_582_912.0 + 127.0;

/// Vectors of f32 values that are computed with lane by lane. A value is also the proof that the CPU has the instructions: others are made
/// from one.
///
/// All arithmetic is IEEE single precision, rounded to nearest even; results agree between instruction sets in every bit, except for the
/// bits of a NaN.
pub(crate) trait Floats:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// `value` in every lane.
    fn splat(self, value: f32) -> Self;
    /// `self * by + plus`, rounded once.
    fn mul_add(self, by: Self, plus: Self) -> Self;
    /// `self * by - minus`, rounded once.
    fn mul_sub(self, by: Self, minus: Self) -> Self;
    /// The larger value; `other` where they are equal or one is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller value; `other` where they are equal or one is NaN.
    fn min(self, other: Self) -> Self;
    fn abs(self) -> Self;
    /// `from - self * by`, rounded once.
    fn sub_from(self, by: Self, from: Self) -> Self;
    /// `2^n` of `n + SHIFT`, where `n` is an integer within `-126..=127`; arbitrary elsewhere.
    fn exp2_shifted(self) -> Self;
    /// `then` where `self < limit`, else (also where one of them is NaN) `otherwise`.
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self;
}

/// Eight f32 values.
pub(crate) trait Lanes: Floats {
    /// Rows that a microkernel of products takes at once at most: 1 without vectors, 6 with 16 registers of eight lanes,
    /// 12 with 32.
    const ROWS: usize;

    /// As many vectors as one instruction computes with: two, or one.
    type Wide: Wide<Self>;

    /// Runs `kernel` as a function of its own, compiled with the same instructions: many products in one function take compilers long.
    fn apart<K: Kernel>(self, kernel: K) -> K::Output;

    fn load(self, from: &[f32; LANES]) -> Self;
    fn store(self, to: &mut [f32; LANES]);
    /// Eight IEEE halves.
    fn load_f16(self, from: &[u16; LANES]) -> Self;
    fn store_f16(self, to: &mut [u16; LANES]);
    /// Eight upper halves of singles.
    fn load_bf16(self, from: &[u16; LANES]) -> Self;
    /// Eight integers.
    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> Self {
        self.load(&from.map(f32::from))
    }
    /// To the nearest integers, ties to even; of values within `-128..=127`, arbitrary elsewhere.
    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES]) {
        let mut all = [0.0; LANES];
        self.round().store(&mut all);
        *to = all.map(|value| value as i8);
    }
    /// Eight `e4m3fn`, each as a 256th of its value, which is an f16 whose bits it has. Of a NaN any number.
    #[inline(always)]
    fn load_e4m3(self, from: &[u8; LANES]) -> Self {
        self.load_f16(&from.map(|byte| u16::from(byte & 0x80) << 8 | u16::from(byte & 0x7f) << 7))
    }
    /// To the nearest integer, ties to even.
    fn round(self) -> Self;
    /// The sum, by a fixed tree: lanes four apart, then two, then one.
    fn sum(self) -> f32;
    /// The largest value, by the same tree.
    fn top(self) -> f32;

    /// Up to eight values, and zeros in the lanes behind them.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self {
        let mut all = [0.0; LANES];
        all[..from.len()].copy_from_slice(from);
        self.load(&all)
    }

    /// The first lanes, as many as `to` has.
    #[inline(always)]
    fn store_part(self, to: &mut [f32]) {
        let mut all = [0.0; LANES];
        self.store(&mut all);
        to.copy_from_slice(&all[..to.len()]);
    }
}

/// One or two vectors.
pub(crate) trait Wide<L: Lanes>: Floats {
    /// How many.
    const VECTORS: usize;

    /// The two; of one, the first.
    fn of(first: L, second: L) -> Self;
    /// Vector `index`.
    fn vector(self, index: usize) -> L;
}

impl<L: Lanes> Wide<L> for L {
    const VECTORS: usize = 1;

    #[inline(always)]
    fn of(first: L, _second: L) -> Self {
        first
    }
    #[inline(always)]
    fn vector(self, _index: usize) -> L {
        self
    }
}

/// A computation over [`Lanes`].
pub(crate) trait Kernel {
    type Output;

    /// Computes; `zero` is eight times 0. Must be `#[inline(always)]`.
    fn run<L: Lanes>(self, zero: L) -> Self::Output;
}

/// Runs `kernel` with the instructions of `isa`, or plain ones where this CPU lacks them.
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa.vectors() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_available() => {
            // SAFETY: the CPU has all that the name stands for, as it was just asked (which costs some loads).
            unsafe { x86::run_avx512(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_available() => {
            // SAFETY: the CPU has AVX2, FMA and F16C, as it was just asked (which costs three loads).
            unsafe { x86::run_avx2(kernel) }
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => kernel.run(neon::Neon::zero()),
        _ => kernel.run(scalar::ZERO),
    }
}
