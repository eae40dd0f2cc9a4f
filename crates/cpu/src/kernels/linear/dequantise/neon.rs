//! NEON: each of a unit's four values for 4 outputs in turn.

use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::forms::{Form, by_form};
use crate::kernels::linear::cell::neon::{factor, offset, pair};
use crate::kernels::linear::cell::{CELL, Cell};
use std::arch::aarch64::*;

/// # Safety
/// The lengths were checked by `dequantise`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn dequantise(cell: Cell, scales: &[f32; PANEL], cells: &[u8], values: &mut [[f32; PANEL]]) {
    // SAFETY: by the caller's duties.
    unsafe { by_form!(cell, dequantise_as(scales, cells, values)) }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn dequantise_as<F: Form>(scales: &[f32; PANEL], cells: &[u8], values: &mut [[f32; PANEL]]) {
    let form = const { F::CELL };
    let pairs = 4 / form.groups;
    for (index, values) in values.as_chunks_mut::<CELL>().0.iter_mut().enumerate() {
        let (block, place) =
            (&cells[index / form.block * form.block_bytes()..][..form.block_bytes()], index % form.block);
        let lines = &block[place * form.quant_bytes()..][..form.quant_bytes()];
        for group in 0..form.groups {
            for quarter in 0..4 {
                // SAFETY: 4 of 16 scales, and the block's factors.
                let [scale, min] = [false, true].map(|min| unsafe {
                    if min && !form.min {
                        return vdupq_n_f32(0.0);
                    }
                    if !form.has_factors() {
                        return vld1q_f32(scales.as_ptr().add(quarter * 4));
                    }
                    factor::<F>(block.as_ptr(), place * form.groups + group, min, quarter)
                });
                for i in group * pairs..(group + 1) * pairs {
                    let unit = form.first_of(i);
                    // SAFETY: the cell's integers.
                    let units = unsafe { pair::<F>(lines.as_ptr(), i, quarter) };
                    for (quants, unit) in units.into_iter().zip([unit, unit + pairs]) {
                        let quants = vreinterpretq_s32_s8(vsubq_s8(quants, vdupq_n_s8(offset::<F>())));
                        let by_value =
                            [vshlq_n_s32::<24>(quants), vshlq_n_s32::<16>(quants), vshlq_n_s32::<8>(quants), quants];
                        for (value, quant) in values[unit * 4..][..4].iter_mut().zip(by_value) {
                            let mut scaled = vmulq_f32(scale, vcvtq_f32_s32(vshrq_n_s32::<24>(quant)));
                            if form.min {
                                scaled = vaddq_f32(scaled, min);
                            }
                            // SAFETY: four of 16 values.
                            unsafe { vst1q_f32(value.as_mut_ptr().add(quarter * 4), scaled) };
                        }
                    }
                }
            }
        }
    }
}
