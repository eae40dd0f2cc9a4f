//! NEON: a block is eight vectors.

use super::{MOST, QuantisedMut, scale_of};
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
        let (scale, factor) = scale_of(vmaxvq_u32(largest), MOST);
        // A NaN converts to zero, and the factor of a block that holds an infinity is 0: such blocks have zeros.
        let mut q = [vdupq_n_s32(0); 8];
        for (q, value) in q.iter_mut().zip(values) {
            *q = vcvtnq_s32_f32(vmulq_n_f32(value, factor));
        }
        let mut narrow = [vdupq_n_s16(0); 4];
        for (narrow, q) in narrow.iter_mut().zip(q.as_chunks::<2>().0) {
            *narrow = vqmovn_high_s32(vqmovn_s32(q[0]), q[1]);
        }
        let low = vqmovn_high_s16(vqmovn_s16(narrow[0]), narrow[1]);
        let high = vqmovn_high_s16(vqmovn_s16(narrow[2]), narrow[3]);
        let mut units = [0i8; CELL];
        // SAFETY: twice 16 bytes.
        unsafe {
            vst1q_s8(units.as_mut_ptr(), low);
            vst1q_s8(units.as_mut_ptr().add(16), high);
        }
        if rows == 1 {
            tile.quants[block * CELL..][..CELL].copy_from_slice(&units);
        } else {
            let quants = tile.quants[block * rows * CELL..][..rows * CELL].as_chunks_mut::<4>().0;
            for (out, unit) in quants[row..].iter_mut().step_by(rows).zip(units.as_chunks::<4>().0) {
                *out = *unit;
            }
        }
        tile.note(block, row, scale, [i32::from(vaddlvq_s8(low)), i32::from(vaddlvq_s8(high))]);
    }
}
