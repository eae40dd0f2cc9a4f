//! How a cache's values become lanes and back.

use crate::kernels::lanes::{LANES, Lanes};
use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use nxd_ops::quant::f32_to_e4m3;

/// A value of the cache.
pub(super) trait Stored: Pod + Send + Sync {
    /// Whether values are what is loaded times a scale that each token has.
    const SCALED: bool = false;

    fn load<L: Lanes>(zero: L, from: &[Self; LANES]) -> L;
    /// Rounds to nearest even.
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]);

    /// The scale of a token's values in one head, and what they are multiplied with before they are stored.
    #[inline(always)]
    fn scale<L: Lanes>(_zero: L, _values: &[f32]) -> (f32, f32) {
        (1.0, 1.0)
    }
}

impl Stored for f32 {
    #[inline(always)]
    fn load<L: Lanes>(zero: L, from: &[Self; LANES]) -> L {
        zero.load(from)
    }
    #[inline(always)]
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]) {
        lanes.store(to);
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn load<L: Lanes>(zero: L, from: &[Self; LANES]) -> L {
        zero.load_f16(bytemuck::cast_ref(from))
    }
    #[inline(always)]
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]) {
        lanes.store_f16(bytemuck::cast_mut(to));
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn load<L: Lanes>(zero: L, from: &[Self; LANES]) -> L {
        zero.load_bf16(bytemuck::cast_ref(from))
    }
    #[inline(always)]
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]) {
        let mut values = [0.0; LANES];
        lanes.store(&mut values);
        for (to, value) in to.iter_mut().zip(values) {
            *to = bf16::from_f32(value);
        }
    }
}

impl Stored for i8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<L: Lanes>(zero: L, from: &[Self; LANES]) -> L {
        zero.load_i8(from)
    }
    #[inline(always)]
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]) {
        lanes.store_i8(to);
    }

    #[inline(always)]
    fn scale<L: Lanes>(zero: L, values: &[f32]) -> (f32, f32) {
        scale_to(zero, values, 127.0, 127.0)
    }
}

/// A float of eight bits, an `e4m3fn`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct E4m3(u8);

impl Stored for E4m3 {
    const SCALED: bool = true;

    #[inline(always)]
    fn load<L: Lanes>(zero: L, from: &[Self; LANES]) -> L {
        zero.load_e4m3(bytemuck::cast_ref(from))
    }
    #[inline(always)]
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]) {
        let mut values = [0.0; LANES];
        lanes.store(&mut values);
        for (to, value) in to.iter_mut().zip(values) {
            *to = E4m3(f32_to_e4m3(value));
        }
    }

    /// A 256th is what is loaded, so the scale makes up for that.
    #[inline(always)]
    fn scale<L: Lanes>(zero: L, values: &[f32]) -> (f32, f32) {
        scale_to(zero, values, 448.0, 448.0 / 256.0)
    }
}

/// A scale and factor by which the largest magnitude is stored as `stored`, the largest there is, and loaded as `loaded`. Values that are
/// not finite make a scale that is NaN, so that they show.
#[inline(always)]
fn scale_to<L: Lanes>(zero: L, values: &[f32], stored: f32, loaded: f32) -> (f32, f32) {
    let (mut top, mut not_finite) = (zero, zero);
    for values in values.chunks(LANES) {
        let values = zero.load_part(values);
        top = top.max(values.abs());
        not_finite = values.mul_add(zero, not_finite);
    }
    let (top, not_finite) = (top.top(), not_finite.sum());
    // Of less than that the quotient might be infinite; it is stored as zeros.
    let factor = if top < 1e-30 { 0.0 } else { stored / top };
    (top / loaded + not_finite, factor)
}
