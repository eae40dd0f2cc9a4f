//! [`Lanes`] in plain Rust: the reference.

use super::{Floats, Kernel, LANES, Lanes};
use half::f16;
use std::array::from_fn;
use std::ops::{Add, Div, Mul, Sub};

/// Eight lanes in an array.
#[derive(Clone, Copy)]
pub(super) struct Scalar([f32; LANES]);

pub(super) const ZERO: Scalar = Scalar([0.0; LANES]);

impl Scalar {
    #[inline(always)]
    fn map2(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Scalar(from_fn(|i| f(self.0[i], other.0[i])))
    }

    #[inline(always)]
    fn tree(self, f: impl Fn(f32, f32) -> f32) -> f32 {
        let [a, b, c, d, e, g, h, i] = self.0;
        let four = [f(a, e), f(b, g), f(c, h), f(d, i)];
        let two = [f(four[0], four[2]), f(four[1], four[3])];
        f(two[0], two[1])
    }
}

impl Add for Scalar {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.map2(other, |a, b| a + b)
    }
}

impl Sub for Scalar {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.map2(other, |a, b| a - b)
    }
}

impl Mul for Scalar {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.map2(other, |a, b| a * b)
    }
}

impl Div for Scalar {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.map2(other, |a, b| a / b)
    }
}

/// As the instruction: the second operand where they are equal or one is NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

impl Floats for Scalar {
    #[inline(always)]
    fn mul_sub(self, by: Self, minus: Self) -> Self {
        Scalar(from_fn(|i| self.0[i].mul_add(by.0[i], -minus.0[i])))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.map2(other, larger)
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.map2(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        Scalar(self.0.map(f32::abs))
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self {
        Scalar([value; LANES])
    }
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        Scalar(from_fn(|i| self.0[i].mul_add(by.0[i], plus.0[i])))
    }
    #[inline(always)]
    fn sub_from(self, by: Self, from: Self) -> Self {
        Scalar(from_fn(|i| (-self.0[i]).mul_add(by.0[i], from.0[i])))
    }
    #[inline(always)]
    fn exp2_shifted(self) -> Self {
        Scalar(self.0.map(|n| f32::from_bits(n.to_bits() << 23)))
    }
    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        Scalar(from_fn(|i| if self.0[i] < limit.0[i] { then.0[i] } else { otherwise.0[i] }))
    }
}

impl Lanes for Scalar {
    const ROWS: usize = 1;

    type Wide = Self;

    #[inline(never)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self {
        Scalar(*from)
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> Self {
        Scalar(from.map(|bits| f16::from_bits(bits).to_f32()))
    }
    #[inline(always)]
    fn store_f16(self, to: &mut [u16; LANES]) {
        *to = self.0.map(|value| f16::from_f32(value).to_bits());
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16; LANES]) -> Self {
        Scalar(from.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    #[inline(always)]
    fn round(self) -> Self {
        Scalar(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        self.tree(|a, b| a + b)
    }
    #[inline(always)]
    fn top(self) -> f32 {
        self.tree(larger)
    }
}
