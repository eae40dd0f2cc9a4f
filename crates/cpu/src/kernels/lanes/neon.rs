//! [`Lanes`] with NEON: eight lanes are two registers of four.
//!
//! NEON belongs to the target: the compiler uses it everywhere, and a [`Neon`] proves nothing that is not true anyway. That is what "NEON is
//! there" means below. Floats gain nothing from dot products, so [`Isa::NeonDot`](crate::isa::Isa::NeonDot) has the same lanes.

use super::{Floats, Kernel, LANES, Lanes};
use std::arch::aarch64::*;
use std::ops::{Add, Div, Mul, Sub};

/// Lanes 0 to 3 and 4 to 7.
#[derive(Clone, Copy)]
pub(super) struct Neon([float32x4_t; 2]);

impl Neon {
    #[inline(always)]
    pub(super) fn zero() -> Self {
        // SAFETY: NEON is there.
        Neon([unsafe { vdupq_n_f32(0.0) }; 2])
    }

    #[inline(always)]
    fn map(self, f: impl Fn(float32x4_t) -> float32x4_t) -> Self {
        Neon([f(self.0[0]), f(self.0[1])])
    }

    #[inline(always)]
    fn map2(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Neon([f(self.0[0], other.0[0]), f(self.0[1], other.0[1])])
    }

    /// `f(plus, self, by)`: the order in which the instructions have them.
    #[inline(always)]
    fn fused(self, by: Self, plus: Self, f: impl Fn(float32x4_t, float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Neon([f(plus.0[0], self.0[0], by.0[0]), f(plus.0[1], self.0[1], by.0[1])])
    }
}

impl Add for Neon {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        self.map2(other, |a, b| unsafe { vaddq_f32(a, b) })
    }
}

impl Sub for Neon {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        self.map2(other, |a, b| unsafe { vsubq_f32(a, b) })
    }
}

impl Mul for Neon {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        self.map2(other, |a, b| unsafe { vmulq_f32(a, b) })
    }
}

impl Div for Neon {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        self.map2(other, |a, b| unsafe { vdivq_f32(a, b) })
    }
}

impl Floats for Neon {
    #[inline(always)]
    fn mul_sub(self, by: Self, minus: Self) -> Self {
        // SAFETY: NEON is there.
        self.fused(by, minus, |minus, a, by| unsafe { vfmaq_f32(vnegq_f32(minus), a, by) })
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        self.map2(other, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: NEON is there.
        self.map2(other, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: NEON is there.
        self.map(|a| unsafe { vabsq_f32(a) })
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self {
        // SAFETY: NEON is there.
        Neon([unsafe { vdupq_n_f32(value) }; 2])
    }
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: NEON is there.
        self.fused(by, plus, |plus, a, by| unsafe { vfmaq_f32(plus, a, by) })
    }
    #[inline(always)]
    fn sub_from(self, by: Self, from: Self) -> Self {
        // SAFETY: NEON is there.
        self.fused(by, from, |from, a, by| unsafe { vfmsq_f32(from, a, by) })
    }
    #[inline(always)]
    fn exp2_shifted(self) -> Self {
        // SAFETY: NEON is there.
        self.map(|a| unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(a))) })
    }
    #[inline(always)]
    fn if_less(self, limit: Self, then: Self, otherwise: Self) -> Self {
        // SAFETY: NEON is there.
        unsafe {
            let less = [vcltq_f32(self.0[0], limit.0[0]), vcltq_f32(self.0[1], limit.0[1])];
            Neon([vbslq_f32(less[0], then.0[0], otherwise.0[0]), vbslq_f32(less[1], then.0[1], otherwise.0[1])])
        }
    }
}

impl Lanes for Neon {
    /// As with 16 registers of eight lanes: 6 rows by 2 columns are 24 of 32 registers, and the columns themselves 4.
    const ROWS: usize = 6;

    type Wide = Self;

    #[inline(never)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self {
        // SAFETY: NEON is there; the reference covers eight values.
        unsafe { Neon([vld1q_f32(from.as_ptr()), vld1q_f32(from.as_ptr().add(4))]) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: NEON is there; the reference covers eight values.
        unsafe {
            vst1q_f32(to.as_mut_ptr(), self.0[0]);
            vst1q_f32(to.as_mut_ptr().add(4), self.0[1]);
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> Self {
        // SAFETY: NEON is there; the reference covers eight halves.
        unsafe {
            let halves = vreinterpretq_f16_u16(vld1q_u16(from.as_ptr()));
            Neon([vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)])
        }
    }
    #[inline(always)]
    fn store_f16(self, to: &mut [u16; LANES]) {
        // SAFETY: NEON is there; the reference covers eight halves.
        unsafe {
            let halves = vcvt_high_f16_f32(vcvt_f16_f32(self.0[0]), self.0[1]);
            vst1q_u16(to.as_mut_ptr(), vreinterpretq_u16_f16(halves));
        }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16; LANES]) -> Self {
        // SAFETY: NEON is there; the reference covers eight values.
        unsafe {
            let upper = vld1q_u16(from.as_ptr());
            let (low, high) = (vmovl_u16(vget_low_u16(upper)), vmovl_high_u16(upper));
            let (low, high) = (vshlq_n_u32::<16>(low), vshlq_n_u32::<16>(high));
            Neon([vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)])
        }
    }
    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> Self {
        // SAFETY: NEON is there; the reference covers eight bytes.
        unsafe {
            let words = vmovl_s8(vld1_s8(from.as_ptr()));
            Neon([vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))])
        }
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES]) {
        // SAFETY: NEON is there; the reference covers eight bytes.
        unsafe {
            let words = vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(self.0[0])), vcvtnq_s32_f32(self.0[1]));
            vst1_s8(to.as_mut_ptr(), vqmovn_s16(words));
        }
    }
    #[inline(always)]
    fn load_e4m3(self, from: &[u8; LANES]) -> Self {
        // SAFETY: NEON is there; the reference covers eight bytes.
        unsafe {
            let wide = vreinterpretq_u16_s16(vshll_n_s8::<7>(vld1_s8(from.as_ptr().cast())));
            // The sign came along twice.
            let halves = vreinterpretq_f16_u16(vandq_u16(wide, vdupq_n_u16(!0x4000)));
            Neon([vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)])
        }
    }
    /// Not `fmax`, which keeps a NaN of either side and tells +0 from -0.
    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: NEON is there.
        self.map(|a| unsafe { vrndnq_f32(a) })
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: NEON is there.
        unsafe {
            let four = vaddq_f32(self.0[0], self.0[1]);
            vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
    }
    #[inline(always)]
    fn top(self) -> f32 {
        // SAFETY: NEON is there.
        let (a, b) = unsafe {
            let four = vbslq_f32(vcgtq_f32(self.0[0], self.0[1]), self.0[0], self.0[1]);
            let (low, high) = (vget_low_f32(four), vget_high_f32(four));
            let two = vbsl_f32(vcgt_f32(low, high), low, high);
            (vget_lane_f32::<0>(two), vget_lane_f32::<1>(two))
        };
        if a > b { a } else { b }
    }
}
