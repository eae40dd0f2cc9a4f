//! AVX2: each of a unit's four values for 8 outputs in turn.

use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::avx2::{factor, pair};
use crate::kernels::linear::cell::forms::{Form, by_form};
use crate::kernels::linear::cell::{CELL, Cell, Integers};
use std::arch::x86_64::*;

/// # Safety
/// AVX2 and F16C are present, and the lengths were checked by `dequantise`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dequantise(cell: Cell, scales: &[f32; PANEL], cells: &[u8], values: &mut [[f32; PANEL]]) {
    // SAFETY: by the caller's duties.
    unsafe { by_form!(cell, dequantise_as(scales, cells, values)) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dequantise_as<F: Form>(scales: &[f32; PANEL], cells: &[u8], values: &mut [[f32; PANEL]]) {
    let form = const { F::CELL };
    let pairs = 4 / form.groups;
    for (index, values) in values.as_chunks_mut::<CELL>().0.iter_mut().enumerate() {
        let (block, place) =
            (&cells[index / form.block * form.block_bytes()..][..form.block_bytes()], index % form.block);
        let (lines, factors) = block.split_at(form.block * form.quant_bytes());
        let lines = &lines[place * form.quant_bytes()..];
        for group in 0..form.groups {
            let [scale, min] = [false, true].map(|min| {
                // SAFETY: half of 16 scales, and the block's factors.
                [0, 1].map(|h| unsafe {
                    if min && !form.min {
                        return _mm256_setzero_ps();
                    }
                    if !form.has_factors() {
                        return _mm256_loadu_ps(scales.as_ptr().add(h * 8));
                    }
                    factor::<F>(factors.as_ptr(), place * form.groups + group, h, min)
                })
            });
            for i in group * pairs..(group + 1) * pairs {
                let unit = form.first_of(i);
                for h in 0..2 {
                    // SAFETY: the cell's integers.
                    let units = unsafe { pair::<F>(lines.as_ptr(), i, h) };
                    for (bytes, unit) in units.into_iter().zip([unit, unit + pairs]) {
                        let values = &mut values[unit * 4..][..4];
                        let by_value = [
                            _mm256_slli_epi32(bytes, 24),
                            _mm256_slli_epi32(bytes, 16),
                            _mm256_slli_epi32(bytes, 8),
                            bytes,
                        ];
                        for (value, quant) in values.iter_mut().zip(by_value) {
                            let mut quant = _mm256_srai_epi32(quant, 24);
                            if let Integers::Less(zero @ 1..) = form.integers {
                                quant = _mm256_sub_epi32(quant, _mm256_set1_epi32(i32::from(zero)));
                            }
                            let mut scaled = _mm256_mul_ps(scale[h], _mm256_cvtepi32_ps(quant));
                            if form.min {
                                scaled = _mm256_add_ps(scaled, min[h]);
                            }
                            // SAFETY: the half `h` of 16 values.
                            unsafe { _mm256_storeu_ps(value.as_mut_ptr().add(h * 8), scaled) };
                        }
                    }
                }
            }
        }
    }
}
