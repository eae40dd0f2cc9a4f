//! NEON: a vector holds 4 outputs; the integer sums of half a panel and up to 4 rows fit the registers beside all results.
//!
//! One kernel with two ways to multiply: [`Dots`] adds 4 products of an output in one lane, [`Words`] is for CPUs before Armv8.2 and adds
//! in 16 bits for as long as the products fit. `#[inline(always)]` puts the shared part into functions with the instructions of a way.

use super::Cells;
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::neon::{Packed, Visitor, prefetch, visit};
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;
use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

/// # Safety
/// The lengths were checked by `int8::multiply`, and its duties hold.
pub(super) unsafe fn multiply(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    let way = PhantomData::<Words>;
    // SAFETY: by the caller's duties.
    unsafe { visit(cells.cell, Product { cells, tile, out, first, way }) }
}

/// # Safety
/// The CPU has dot products; the lengths were checked by `int8::multiply`, and its duties hold.
pub(super) unsafe fn multiply_dots(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    let way = PhantomData::<Dots>;
    // SAFETY: by the caller's duties.
    unsafe { visit(cells.cell, Product { cells, tile, out, first, way }) }
}

/// What `int8::multiply` was asked for.
struct Product<'a, W> {
    cells: Cells<'a>,
    tile: Quantised<'a>,
    out: Target,
    first: bool,
    way: PhantomData<W>,
}

impl<W: Way> Visitor for Product<'_, W> {
    unsafe fn cells<C: Packed>(self) {
        // SAFETY: by the duties of `multiply` and `multiply_dots`.
        unsafe {
            match self.tile.rows {
                1 => W::rows::<C, 1>(self),
                2 => W::rows::<C, 2>(self),
                3 => W::rows::<C, 3>(self),
                _ => W::rows::<C, 4>(self),
            }
        }
    }
}

/// A cell and what its rows have beside it.
#[derive(Clone, Copy)]
struct At {
    cell: *const u8,
    quants: *const i8,
    scales: *const f32,
    /// Sums of each group's integers, and the same times the scale, `[groups][rows]`.
    sums: *const i32,
    weighted: *const f32,
}

/// Integer sums of half a panel: two vectors a row.
type Sums<const ROWS: usize> = [[int32x4_t; 2]; ROWS];

/// How integers are multiplied.
trait Way: Sized {
    /// [`multiply_rows`] with the instructions of this way.
    ///
    /// # Safety
    /// Those of `multiply` or `multiply_dots`; the cells are of kind `C`, and the tile has `ROWS` rows.
    unsafe fn rows<C: Packed, const ROWS: usize>(product: Product<'_, Self>);

    /// Adds the products of group `group` to the sums. Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// `at` points at a cell of kind `C` and at 8 units of integers of `ROWS` rows; the CPU has the instructions of this way.
    unsafe fn add<C: Packed, const ROWS: usize>(at: At, group: usize, half: usize, sums: &mut Sums<ROWS>);
}

/// # Safety
/// Those of [`Way::rows`].
#[inline(always)]
unsafe fn multiply_rows<C: Packed, W: Way, const ROWS: usize>(product: Product<'_, W>) {
    let Product { cells, tile, out, first, .. } = product;
    // SAFETY: the rows of `out`, each used here alone; cells, integers, scales and sums are as many as `int8::multiply` checked.
    unsafe {
        let mut acc = [[[vdupq_n_f32(0.0); 2]; ROWS]; 2];
        if !first {
            for (half, acc) in acc.iter_mut().enumerate() {
                for (row, acc) in acc.iter_mut().enumerate() {
                    let results = out.row(row, 0).as_ptr().add(half * 8);
                    *acc = [vld1q_f32(results), vld1q_f32(results.add(4))];
                }
            }
        }
        let (sums, weighted) =
            if C::GROUPS == 1 { (tile.sums, tile.weighted) } else { (tile.half_sums, tile.half_weighted) };
        for block in 0..cells.bytes.len() / C::BYTES {
            let cell = cells.bytes.as_ptr().add(block * C::BYTES);
            for line in 0..C::BYTES.div_ceil(64) {
                prefetch(cell.wrapping_add(cells.ahead + line * 64));
            }
            let at = At {
                cell,
                quants: tile.quants.as_ptr().add(block * ROWS * CELL),
                scales: tile.scales.as_ptr().add(block * ROWS),
                sums: sums.as_ptr().add(block * C::GROUPS * ROWS),
                weighted: weighted.as_ptr().add(block * C::GROUPS * ROWS),
            };
            // Spelled out, here and below: an index of `acc` that is no constant would keep it in memory, and a constant group or unit
            // lets a kind of cell choose how to read it.
            let [low, high] = &mut acc;
            add_group::<C, W, ROWS>(at, 0, 0, low);
            add_group::<C, W, ROWS>(at, 0, 1, high);
            if C::GROUPS > 1 {
                add_group::<C, W, ROWS>(at, 1, 0, low);
                add_group::<C, W, ROWS>(at, 1, 1, high);
            }
        }
        for (half, acc) in acc.iter().enumerate() {
            for (row, acc) in acc.iter().enumerate() {
                let results = out.row(row, 0).as_mut_ptr().add(half * 8);
                vst1q_f32(results, acc[0]);
                vst1q_f32(results.add(4), acc[1]);
            }
        }
    }
}

/// Adds group `group` to the results of half a panel.
///
/// # Safety
/// Those of [`Way::add`].
#[inline(always)]
unsafe fn add_group<C: Packed, W: Way, const ROWS: usize>(
    at: At,
    group: usize,
    half: usize,
    acc: &mut [[float32x4_t; 2]; ROWS],
) {
    // SAFETY: by the caller's duties.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 2]; ROWS];
        if C::OFFSET != 0 {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = [vdupq_n_s32(-i32::from(C::OFFSET) * *at.sums.add(group * ROWS + row)); 2];
            }
        }
        W::add::<C, ROWS>(at, group, half, &mut sums);
        for q in 0..2 {
            let factor = C::factor(at.cell, group, half * 2 + q);
            for (row, acc) in acc.iter_mut().enumerate() {
                let scale = vmulq_n_f32(factor, *at.scales.add(row));
                acc[q] = vfmaq_f32(acc[q], scale, vcvtq_f32_s32(sums[row][q]));
            }
            if C::MIN {
                let min = C::factor(at.cell, C::GROUPS + group, half * 2 + q);
                for (row, acc) in acc.iter_mut().enumerate() {
                    acc[q] = vfmaq_n_f32(acc[q], min, *at.weighted.add(group * ROWS + row));
                }
            }
        }
    }
}

/// With the dot products of Armv8.2.
struct Dots;

impl Way for Dots {
    #[inline(never)]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn rows<C: Packed, const ROWS: usize>(product: Product<'_, Self>) {
        // SAFETY: by the duties of `rows`.
        unsafe { multiply_rows::<C, Self, ROWS>(product) }
    }

    #[inline(always)]
    unsafe fn add<C: Packed, const ROWS: usize>(at: At, group: usize, half: usize, sums: &mut Sums<ROWS>) {
        // SAFETY: 8 units, or the 4 of the group, and dot products, by the duties of `add`.
        unsafe {
            if C::GROUPS == 1 {
                dot_quad::<C, ROWS>(at, 0, half, sums);
                dot_quad::<C, ROWS>(at, 1, half, sums);
            } else {
                dot_quad::<C, ROWS>(at, group, half, sums);
            }
        }
    }
}

/// Adds four units. Those of `ROWS` rows are as many vectors of activations, and an instruction names the 4 of 16 integers that it takes:
/// nothing is broadcast.
///
/// # Safety
/// `at` points at a cell with units `4 * quad` and on, and at those of `ROWS` rows; the CPU has dot products.
#[inline(always)]
unsafe fn dot_quad<C: Packed, const ROWS: usize>(at: At, quad: usize, half: usize, sums: &mut Sums<ROWS>) {
    // SAFETY: by the caller's duties.
    unsafe {
        let mut x = [vdupq_n_s8(0); ROWS];
        for (i, x) in x.iter_mut().enumerate() {
            *x = vld1q_s8(at.quants.add((quad * ROWS + i) * 16));
        }
        let w = |unit: usize| {
            let unit = quad * 4 + unit;
            [C::quarter(at.cell, unit, half * 2), C::quarter(at.cell, unit, half * 2 + 1)]
        };
        dot_unit::<ROWS, 0>(w(0), &x, sums);
        dot_unit::<ROWS, 1>(w(1), &x, sums);
        dot_unit::<ROWS, 2>(w(2), &x, sums);
        dot_unit::<ROWS, 3>(w(3), &x, sums);
    }
}

/// Adds unit `UNIT` of a quad; rows are spelled out, as their place in `x` is part of the instruction.
///
/// # Safety
/// The CPU has dot products.
#[inline(always)]
unsafe fn dot_unit<const ROWS: usize, const UNIT: usize>(
    w: [int8x16_t; 2],
    x: &[int8x16_t; ROWS],
    sums: &mut Sums<ROWS>,
) {
    // SAFETY: by the caller's duties.
    unsafe {
        dot_row::<ROWS, UNIT, 0>(w, x, sums);
        if ROWS > 1 {
            dot_row::<ROWS, UNIT, 1>(w, x, sums);
        }
        if ROWS > 2 {
            dot_row::<ROWS, UNIT, 2>(w, x, sums);
        }
        if ROWS > 3 {
            dot_row::<ROWS, UNIT, 3>(w, x, sums);
        }
    }
}

/// Adds the products of 8 outputs with 4 integers of a row. In assembly, as the intrinsic is not stable.
///
/// # Safety
/// The CPU has dot products.
#[inline(always)]
unsafe fn dot_row<const ROWS: usize, const UNIT: usize, const ROW: usize>(
    w: [int8x16_t; 2],
    x: &[int8x16_t; ROWS],
    sums: &mut Sums<ROWS>,
) {
    let x = x[(UNIT * ROWS + ROW) / 4];
    for (sum, w) in sums[ROW].iter_mut().zip(w) {
        // SAFETY: the CPU has the instruction, by the caller's duties; it touches registers alone.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                sum = inout(vreg) *sum,
                w = in(vreg) w,
                x = in(vreg) x,
                lane = const (UNIT * ROWS + ROW) % 4,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
}

/// With what every AArch64 has.
struct Words;

impl Way for Words {
    #[inline(never)]
    #[target_feature(enable = "neon")]
    unsafe fn rows<C: Packed, const ROWS: usize>(product: Product<'_, Self>) {
        // SAFETY: by the duties of `rows`.
        unsafe { multiply_rows::<C, Self, ROWS>(product) }
    }

    #[inline(always)]
    unsafe fn add<C: Packed, const ROWS: usize>(at: At, group: usize, half: usize, sums: &mut Sums<ROWS>) {
        // SAFETY: by the duties of `add`.
        unsafe {
            let low = quarter_sums::<C, ROWS>(at, group, half * 2);
            let high = quarter_sums::<C, ROWS>(at, group, half * 2 + 1);
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = [vaddq_s32(sums[0], low[row]), vaddq_s32(sums[1], high[row])];
            }
        }
    }
}

/// The sums of 4 outputs: 16 bits hold two products of bytes, or all 8 of nibbles.
///
/// # Safety
/// Those of [`Way::add`]; `quarter` is below 4.
#[inline(always)]
unsafe fn quarter_sums<C: Packed, const ROWS: usize>(at: At, group: usize, quarter: usize) -> [int32x4_t; ROWS] {
    let units = 8 / C::GROUPS;
    // SAFETY: the group's units of weights and of `ROWS` rows, by the caller's duties.
    unsafe {
        // Two lanes an output, each with two of a unit's four values.
        let mut wide = [[vdupq_n_s32(0); 2]; ROWS];
        for from in (group * units..(group + 1) * units).step_by(fitting::<C>()) {
            let mut narrow = [[vdupq_n_s16(0); 2]; ROWS];
            for unit in from..from + fitting::<C>() {
                let w = C::quarter(at.cell, unit, quarter);
                for (row, narrow) in narrow.iter_mut().enumerate() {
                    let x = vreinterpretq_s8_s32(vld1q_dup_s32(at.quants.add((unit * ROWS + row) * 4).cast()));
                    narrow[0] = vmlal_s8(narrow[0], vget_low_s8(w), vget_low_s8(x));
                    narrow[1] = vmlal_high_s8(narrow[1], w, x);
                }
            }
            for (wide, narrow) in wide.iter_mut().zip(narrow) {
                *wide = [vpadalq_s16(wide[0], narrow[0]), vpadalq_s16(wide[1], narrow[1])];
            }
        }
        let mut sums = [vdupq_n_s32(0); ROWS];
        for (sum, wide) in sums.iter_mut().zip(wide) {
            *sum = vpaddq_s32(wide[0], wide[1]);
        }
        sums
    }
}

/// How many units' products with integers up to 127 fit 16 bits: a divisor of the units of a group.
const fn fitting<C: Packed>() -> usize {
    let (most, units) = (i16::MAX as usize / (127 * C::LARGEST), 8 / C::GROUPS);
    if most < units { 1 << most.ilog2() } else { units }
}
