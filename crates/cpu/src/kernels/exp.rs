//! The exponential and what is made of it: sigmoid and the normal distribution.

use super::lanes::{Floats, SHIFT};

/// `e^x` for `x <= 0`, within 1e-7 of the value; exactly 0 below -87 and at -∞, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<F: Floats>(x: F) -> F {
    // The sum is rounded to an integer, as its last bit is worth 1.
    let shifted = x.mul_add(x.splat(std::f32::consts::LOG2_E), x.splat(SHIFT));
    let n = shifted - x.splat(SHIFT);
    // ln 2 in two parts, the first with so few bits that n times it is exact.
    let r = n.sub_from(x.splat(0.693_359_4), x);
    let r = n.sub_from(x.splat(-2.121_944_4e-4), r);
    // 1 + r + r² q(r) with the q of degree 4 whose largest relative error for |r| <= ln 2 / 2 is least, 3e-9 (a reweighted fit).
    let mut p = x.splat(0.001_381_459_9);
    for c in [0.008_368_717_5, 0.041_668_39, 0.166_665_21, 0.499_999_94, 1.0, 1.0] {
        p = p.mul_add(r, x.splat(c));
    }
    x.if_less(x.splat(-87.0), x.splat(0.0), p * shifted.exp2_shifted())
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<F: Floats>(x: F) -> F {
    let one = x.splat(1.0);
    // From e^-|x|, which cannot overflow.
    let e = exp(x.splat(0.0) - x.abs());
    x.if_less(x.splat(0.0), e, one) / (one + e)
}

/// The hyperbolic tangent, within 3e-7 of the value.
#[inline(always)]
pub(crate) fn tanh<F: Floats>(x: F) -> F {
    let (one, zero, a) = (x.splat(1.0), x.splat(0.0), x.abs());
    let e = exp(x.splat(-2.0) * a);
    let far = (one - e) / (one + e);
    // Near 0 that difference would cancel: the Taylor series to degree 13 there, whose next term is below 1e-7 of the value.
    let square = x * x;
    let mut p = x.splat(21_844.0 / 6_081_075.0);
    for c in [-1_382.0 / 155_925.0, 62.0 / 2_835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
        p = p.mul_add(square, x.splat(c));
    }
    a.if_less(x.splat(0.5), p * x, x.if_less(zero, zero - far, far))
}

/// Coefficients of `P`, from the constant one up, with `Φ(-x) = e^(-x²/2) u P(u)`, `u = 1 / (1 + x/2)`: a fit at 64 Chebyshev nodes
/// over `x` in 0..14, 8e-8 from the function.
const TAIL: [f32; 10] = [
    0.199_496_21,
    0.198_734_8,
    0.158_716_16,
    -0.012_538_936,
    0.197_658_96,
    -0.787_146_45,
    1.011_903,
    -0.659_614_56,
    0.224_801_18,
    -0.032_010_343,
];

/// `Φ(x)`, the share of the normal distribution below `x`: `(1 + erf(x / √2)) / 2`. NaN becomes a number.
#[inline(always)]
pub(crate) fn normal_cdf<F: Floats>(x: F) -> F {
    let (zero, one) = (x.splat(0.0), x.splat(1.0));
    // Beyond 14 the tail is 0 in f32, and infinities would give 0 · ∞.
    let a = x.abs().min(x.splat(14.0));
    // a²/2 in two parts: what the first one's rounding lost would cost 5e-6 of the tail.
    let half = a * x.splat(0.5);
    let square = half * a;
    let lost = half.mul_sub(a, square);
    let e = exp(zero - square);
    let e = e.sub_from(lost, e);
    let u = one / half.mul_add(one, one);
    let mut p = x.splat(TAIL[9]);
    for &c in TAIL[..9].iter().rev() {
        p = p.mul_add(u, x.splat(c));
    }
    let tail = e * (u * p);
    x.if_less(zero, tail, one - tail)
}
