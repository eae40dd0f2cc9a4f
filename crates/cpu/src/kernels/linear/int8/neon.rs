//! NEON: a vector holds 4 outputs; the integer sums of half a panel and up to 4 rows fit the registers beside all results.
//!
//! One kernel with two ways to multiply: [`Dots`] adds 4 products of an output in one lane, [`Words`] is for CPUs before Armv8.2 and adds
//! in 16 bits for as long as the products fit. `#[inline(always)]` puts the shared part into functions with the instructions of a way.

use super::{Cells, Tiled};
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::cell::forms::{Form, by_form};
use crate::kernels::linear::cell::neon::{factor, largest, offset, pair};
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;
use std::arch::aarch64::*;
use std::arch::asm;

/// # Safety
/// The lengths were checked by `int8::multiply`, and its duties hold.
pub(super) unsafe fn multiply(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    each_panel!(cells, tiles, |tile, out| by_form!(cells.cell, by_words(Product { cells, tile, out, first })));
}

/// # Safety
/// The CPU has dot products; the lengths were checked by `int8::multiply`, and its duties hold.
pub(super) unsafe fn multiply_dots(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    each_panel!(cells, tiles, |tile, out| by_form!(cells.cell, by_dots(Product { cells, tile, out, first })));
}

/// What `int8::multiply` was asked for.
struct Product<'a> {
    cells: Cells<'a>,
    tile: Quantised<'a>,
    out: Target,
    first: bool,
}

/// # Safety
/// Those of [`multiply`]; the cells are of form `F`.
unsafe fn by_words<F: Form>(product: Product<'_>) {
    // SAFETY: by the caller's duties.
    unsafe { by_rows::<F, Words>(product) }
}

/// # Safety
/// Those of [`multiply_dots`]; the cells are of form `F`.
unsafe fn by_dots<F: Form>(product: Product<'_>) {
    // SAFETY: by the caller's duties.
    unsafe { by_rows::<F, Dots>(product) }
}

/// # Safety
/// Those of `by_words` or `by_dots`.
#[inline(always)]
unsafe fn by_rows<F: Form, W: Way>(product: Product<'_>) {
    // SAFETY: by the caller's duties.
    unsafe {
        match product.tile.rows {
            1 => W::rows::<F, 1>(product),
            2 => W::rows::<F, 2>(product),
            3 => W::rows::<F, 3>(product),
            _ => W::rows::<F, 4>(product),
        }
    }
}

/// A cell and what its rows have beside it.
#[derive(Clone, Copy)]
struct At {
    /// The cell's integers, the block that has its factors, and its place in there.
    lines: *const u8,
    block: *const u8,
    place: usize,
    quants: *const i8,
    scales: *const f32,
    /// Minus the sums of each group's integers, and the sums times the scale, `[groups][rows]`.
    minus_sums: *const i32,
    weighted: *const f32,
}

/// Integer sums of half a panel: two vectors a row.
type Sums<const ROWS: usize> = [[int32x4_t; 2]; ROWS];

/// How integers are multiplied.
trait Way {
    /// [`multiply_rows`] with the instructions of this way.
    ///
    /// # Safety
    /// Those of `multiply` or `multiply_dots`; the cells are of form `F`, and the tile has `ROWS` rows.
    unsafe fn rows<F: Form, const ROWS: usize>(product: Product<'_>);

    /// Adds the products of group `group` to the sums. Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// `at` points at a cell of form `F` and at 8 units of integers of `ROWS` rows; the CPU has the instructions of this way.
    unsafe fn add<F: Form, const ROWS: usize>(at: At, group: usize, half: usize, sums: &mut Sums<ROWS>);
}

/// # Safety
/// Those of [`Way::rows`].
#[inline(always)]
unsafe fn multiply_rows<F: Form, W: Way, const ROWS: usize>(product: Product<'_>) {
    let Product { cells, tile, out, first } = product;
    let form = const { F::CELL };
    // SAFETY: the rows of `out`, each used here alone; blocks, integers, scales and sums are as many as `int8::multiply` checked.
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
        let minus_sums = if form.groups == 1 { tile.minus_sums } else { tile.minus_half_sums };
        let weighted = if form.groups == 1 { tile.weighted } else { tile.half_weighted };
        for cell in 0..cells.bytes.len() / form.bytes() {
            let (block, place) = (cells.bytes.as_ptr().add(cell / form.block * form.block_bytes()), cell % form.block);
            cells.ahead.ask_for(cell, form.bytes());
            let at = At {
                lines: block.add(place * form.quant_bytes()),
                block,
                place,
                quants: tile.quants.add(cell * ROWS * CELL),
                scales: tile.scales.add(cell * ROWS),
                minus_sums: minus_sums.add(cell * form.groups * ROWS),
                weighted: weighted.add(cell * form.groups * ROWS),
            };
            // Spelled out, here and below: an index of `acc` that is no constant would keep it in memory, and how a pair is read depends
            // on its number.
            let [low, high] = &mut acc;
            add_group::<F, W, ROWS>(at, 0, 0, low);
            add_group::<F, W, ROWS>(at, 0, 1, high);
            if form.groups > 1 {
                add_group::<F, W, ROWS>(at, 1, 0, low);
                add_group::<F, W, ROWS>(at, 1, 1, high);
            }
        }
        if !form.has_factors()
            && let Some(scales) = cells.scales
        {
            let scales = scales.as_ptr().cast::<f32>();
            for (half, acc) in acc.iter_mut().enumerate() {
                let scales = [vld1q_f32(scales.add(half * 8)), vld1q_f32(scales.add(half * 8 + 4))];
                for acc in acc {
                    *acc = [vmulq_f32(acc[0], scales[0]), vmulq_f32(acc[1], scales[1])];
                }
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
unsafe fn add_group<F: Form, W: Way, const ROWS: usize>(
    at: At,
    group: usize,
    half: usize,
    acc: &mut [[float32x4_t; 2]; ROWS],
) {
    let form = const { F::CELL };
    // SAFETY: by the caller's duties.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 2]; ROWS];
        if offset::<F>() != 0 {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = [vdupq_n_s32(i32::from(offset::<F>()) * *at.minus_sums.add(group * ROWS + row)); 2];
            }
        }
        W::add::<F, ROWS>(at, group, half, &mut sums);
        let of_block = at.place * form.groups + group;
        for q in 0..2 {
            let own = if form.has_factors() {
                factor::<F>(at.block, of_block, false, half * 2 + q)
            } else {
                vdupq_n_f32(0.0)
            };
            for (row, acc) in acc.iter_mut().enumerate() {
                let (sums, scale) = (vcvtq_f32_s32(sums[row][q]), *at.scales.add(row));
                acc[q] = if form.has_factors() {
                    vfmaq_f32(acc[q], vmulq_n_f32(own, scale), sums)
                } else {
                    vfmaq_n_f32(acc[q], sums, scale)
                };
            }
            if form.min {
                let min = factor::<F>(at.block, of_block, true, half * 2 + q);
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
    unsafe fn rows<F: Form, const ROWS: usize>(product: Product<'_>) {
        // SAFETY: by the duties of `rows`.
        unsafe { multiply_rows::<F, Self, ROWS>(product) }
    }

    #[inline(always)]
    unsafe fn add<F: Form, const ROWS: usize>(at: At, group: usize, half: usize, sums: &mut Sums<ROWS>) {
        // SAFETY: 4 pairs, or the 2 of the group, and dot products, by the duties of `add`.
        unsafe {
            if F::CELL.groups == 1 || group == 0 {
                dot_pair::<F, ROWS, 0>(at, half, sums);
                dot_pair::<F, ROWS, 1>(at, half, sums);
            }
            if F::CELL.groups == 1 || group == 1 {
                dot_pair::<F, ROWS, 2>(at, half, sums);
                dot_pair::<F, ROWS, 3>(at, half, sums);
            }
        }
    }
}

/// Adds the two units of a pair.
///
/// # Safety
/// `at` points at a cell of form `F` and at 8 units of integers of `ROWS` rows; the CPU has dot products.
#[inline(always)]
unsafe fn dot_pair<F: Form, const ROWS: usize, const PAIR: usize>(at: At, half: usize, sums: &mut Sums<ROWS>) {
    // SAFETY: by the caller's duties.
    unsafe {
        let (low, high) = (pair::<F>(at.lines, PAIR, half * 2), pair::<F>(at.lines, PAIR, half * 2 + 1));
        dot_unit::<F, ROWS, PAIR, 0>([low[0], high[0]], at.quants, sums);
        dot_unit::<F, ROWS, PAIR, 1>([low[1], high[1]], at.quants, sums);
    }
}

/// Adds unit `MEMBER` of a pair; rows are spelled out, as their place in a vector is part of the instruction.
///
/// # Safety
/// `quants` points at 8 units of integers of `ROWS` rows; the CPU has dot products.
#[inline(always)]
unsafe fn dot_unit<F: Form, const ROWS: usize, const PAIR: usize, const MEMBER: usize>(
    w: [int8x16_t; 2],
    quants: *const i8,
    sums: &mut Sums<ROWS>,
) {
    // SAFETY: by the caller's duties.
    unsafe {
        dot_row::<F, ROWS, PAIR, MEMBER, 0>(w, quants, sums);
        if ROWS > 1 {
            dot_row::<F, ROWS, PAIR, MEMBER, 1>(w, quants, sums);
        }
        if ROWS > 2 {
            dot_row::<F, ROWS, PAIR, MEMBER, 2>(w, quants, sums);
        }
        if ROWS > 3 {
            dot_row::<F, ROWS, PAIR, MEMBER, 3>(w, quants, sums);
        }
    }
}

/// Which four integers of a tile belong to a unit and a row.
const fn four<F: Form>(pair: usize, member: usize, rows: usize, row: usize) -> usize {
    (F::CELL.first_of(pair) + member * (4 / F::CELL.groups)) * rows + row
}

/// Adds the products of 8 outputs with 4 integers of a row. The instruction names those among 16 integers, so nothing is broadcast; a
/// vector of them is loaded once for all that share it. In assembly, as the intrinsic is not stable.
///
/// # Safety
/// Those of [`dot_unit`]; `ROW` is below `ROWS` or the call is never made.
#[inline(always)]
unsafe fn dot_row<F: Form, const ROWS: usize, const PAIR: usize, const MEMBER: usize, const ROW: usize>(
    w: [int8x16_t; 2],
    quants: *const i8,
    sums: &mut Sums<ROWS>,
) {
    // SAFETY: 16 of `32 * ROWS` integers.
    let x = unsafe { vld1q_s8(quants.add(four::<F>(PAIR, MEMBER, ROWS, ROW) / 4 * 16)) };
    for (sum, w) in sums[ROW].iter_mut().zip(w) {
        // SAFETY: the CPU has the instruction, by the caller's duties; it touches registers alone.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                sum = inout(vreg) *sum,
                w = in(vreg) w,
                x = in(vreg) x,
                lane = const four::<F>(PAIR, MEMBER, ROWS, ROW) % 4,
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
    unsafe fn rows<F: Form, const ROWS: usize>(product: Product<'_>) {
        // SAFETY: by the duties of `rows`.
        unsafe { multiply_rows::<F, Self, ROWS>(product) }
    }

    #[inline(always)]
    unsafe fn add<F: Form, const ROWS: usize>(at: At, group: usize, half: usize, sums: &mut Sums<ROWS>) {
        // SAFETY: by the duties of `add`.
        unsafe {
            let low = quarter_sums::<F, ROWS>(at, group, half * 2);
            let high = quarter_sums::<F, ROWS>(at, group, half * 2 + 1);
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
unsafe fn quarter_sums<F: Form, const ROWS: usize>(at: At, group: usize, quarter: usize) -> [int32x4_t; ROWS] {
    let form = const { F::CELL };
    let pairs = 4 / form.groups;
    // SAFETY: the group's units of weights and of `ROWS` rows, by the caller's duties.
    unsafe {
        // Two lanes an output, each with two of a unit's four values.
        let mut wide = [[vdupq_n_s32(0); 2]; ROWS];
        for from in (group * pairs..(group + 1) * pairs).step_by(fitting::<F>()) {
            let mut narrow = [[vdupq_n_s16(0); 2]; ROWS];
            for i in from..from + fitting::<F>() {
                let unit = form.first_of(i);
                for (w, unit) in pair::<F>(at.lines, i, quarter).into_iter().zip([unit, unit + pairs]) {
                    for (row, narrow) in narrow.iter_mut().enumerate() {
                        let x = vreinterpretq_s8_s32(vld1q_dup_s32(at.quants.add((unit * ROWS + row) * 4).cast()));
                        narrow[0] = vmlal_s8(narrow[0], vget_low_s8(w), vget_low_s8(x));
                        narrow[1] = vmlal_high_s8(narrow[1], w, x);
                    }
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

/// How many pairs' products with integers up to 127 fit 16 bits: a divisor of the pairs of a group.
const fn fitting<F: Form>() -> usize {
    let (most, pairs) = (i16::MAX as usize / (2 * 127 * largest::<F>()), 4 / F::CELL.groups);
    if most < pairs { 1 << most.ilog2() } else { pairs }
}
