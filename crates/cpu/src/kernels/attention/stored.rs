//! How a cache's values become lanes and back.

use crate::kernels::lanes::{LANES, Lanes};
use bytemuck::Pod;
use half::{bf16, f16};

/// A value of the cache.
pub(super) trait Stored: Pod + Send + Sync {
    fn load<L: Lanes>(zero: L, from: &[Self; LANES]) -> L;
    /// Rounds to nearest even.
    fn store<L: Lanes>(lanes: L, to: &mut [Self; LANES]);
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
