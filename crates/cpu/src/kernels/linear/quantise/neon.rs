//! NEON: a block is eight vectors.

use super::{QuantisedMut, scale_of};
use crate::kernels::linear::cell::CELL;
use std::arch::aarch64::*;

#[target_feature(enable = "neon")]
pub(super) fn quantise(x: &[f32], row: usize, tile: &mut QuantisedMut<'_>) {
    let rows = tile.rows;
    for (block, x) in x.as_chunks::<CELL>().0.iter().enumerate() {
        let mut values = [vdupq_n_f32(0.0); 8];
        let mut largest = vdupq_n_u32(0);
        for (value, x) in values.iter_mut().zip(x.as_chunks::<4>().0) {
            // SAFETY: four values.
            *value = unsafe { vld1q_f32(x.as_ptr()) };
            largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(*value)));
        }
        let (scale, factor) = scale_of(vmaxvq_u32(largest));
        // A NaN times zero converts to zero, but an infinity's block must have zeros throughout as well: its factor is 0.
        let q = values.map(|x| vcvtnq_s32_f32(vmulq_n_f32(x, factor)));
        let narrow = |a: usize| vqmovn_high_s32(vqmovn_s32(q[a]), q[a + 1]);
        let halves = [0, 4].map(|a| vqmovn_high_s16(vqmovn_s16(narrow(a)), narrow(a + 2)));
        let mut units = [0i8; CELL];
        // SAFETY: twice 16 bytes.
        unsafe {
            vst1q_s8(units.as_mut_ptr(), halves[0]);
            vst1q_s8(units.as_mut_ptr().add(16), halves[1]);
        }
        if rows == 1 {
            tile.quants[block * CELL..][..CELL].copy_from_slice(&units);
        } else {
            let quants = tile.quants[block * rows * CELL..][..rows * CELL].as_chunks_mut::<4>().0;
            for (out, unit) in quants[row..].iter_mut().step_by(rows).zip(units.as_chunks::<4>().0) {
                *out = *unit;
            }
        }
        tile.note(block, row, scale, halves.map(|half| i32::from(vaddlvq_s8(half))));
    }
}
