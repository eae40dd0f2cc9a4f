//! NEON: each of a unit's four values for 16 outputs in turn.

use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::{CELL, Cell};
use crate::kernels::linear::neon::{Packed, Visitor, visit};
use std::arch::aarch64::*;

#[target_feature(enable = "neon")]
pub(super) fn dequantise(cell: Cell, cells: &[u8], values: &mut [[f32; PANEL]]) {
    // SAFETY: the cells are of this kind.
    unsafe { visit(cell, Open { cells, values }) }
}

/// What `dequantise` was asked for.
struct Open<'a> {
    cells: &'a [u8],
    values: &'a mut [[f32; PANEL]],
}

impl Visitor for Open<'_> {
    #[target_feature(enable = "neon")]
    unsafe fn cells<C: Packed>(self) {
        for (cell, values) in self.cells.chunks_exact(C::BYTES).zip(self.values.as_chunks_mut::<CELL>().0) {
            for (unit, values) in values.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                for quarter in 0..4 {
                    // SAFETY: a cell of kind `C` has 8 units and these factors.
                    unsafe { open::<C>(cell.as_ptr(), unit, quarter, values) }
                }
            }
        }
    }
}

/// The values of `unit` for 4 outputs.
///
/// # Safety
/// `cell` points at a cell; `unit` is below 8 and `quarter` below 4.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn open<C: Packed>(cell: *const u8, unit: usize, quarter: usize, values: &mut [[f32; PANEL]; 4]) {
    let group = unit * C::GROUPS / 8;
    // SAFETY: by the caller's duties.
    let (scale, quants) = unsafe { (C::factor(cell, group, quarter), C::quarter(cell, unit, quarter)) };
    let quants = vreinterpretq_s32_s8(vsubq_s8(quants, vdupq_n_s8(C::OFFSET)));
    let by_value = [vshlq_n_s32::<24>(quants), vshlq_n_s32::<16>(quants), vshlq_n_s32::<8>(quants), quants];
    for (value, quant) in values.iter_mut().zip(by_value) {
        let mut scaled = vmulq_f32(scale, vcvtq_f32_s32(vshrq_n_s32::<24>(quant)));
        if C::MIN {
            // SAFETY: the cell has minima behind its scales.
            scaled = vaddq_f32(scaled, unsafe { C::factor(cell, C::GROUPS + group, quarter) });
        }
        // SAFETY: four of 16 values.
        unsafe { vst1q_f32(value.as_mut_ptr().add(quarter * 4), scaled) }
    }
}
