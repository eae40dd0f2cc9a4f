//! AVX2: two vectors of 8 outputs, a pair of units at a time.
//!
//! Up to four rows meet both vectors at once. More meet one after the other, so that eight have their sums in registers and weights are taken
//! apart once for all of them: 52 against 43 GOP/s for two tiles of four (Q4_1, one thread of an EPYC of 2017), 32 against 26 (Q8_0). Opened
//! cells are for more rows still.

use super::{Cells, Tiled};
use crate::kernels::linear::cell::avx2::{factor, pair};
use crate::kernels::linear::cell::forms::{Form, by_form};
use crate::kernels::linear::cell::{CELL, Cell, Integers, UNIT};
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;
use crate::prefetch::{LINE, ask_once, once_is_enough};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// # Safety
/// AVX2, FMA and F16C are present; the lengths were checked by `int8::multiply`, and its duties hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe { by_form!(cells.cell, as_taken(cells, tiles, first)) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn as_taken<F: Form>(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match cells.opened {
            None => match tiles.quantised.first().rows {
                1 => multiply_row::<Packed<F>>(cells, tiles, first),
                2 => multiply_rows::<Packed<F>, 2, 2>(cells, tiles, first),
                3 => multiply_rows::<Packed<F>, 3, 2>(cells, tiles, first),
                4 => multiply_rows::<Packed<F>, 4, 2>(cells, tiles, first),
                5 => multiply_rows::<Packed<F>, 5, 1>(cells, tiles, first),
                6 => multiply_rows::<Packed<F>, 6, 1>(cells, tiles, first),
                7 => multiply_rows::<Packed<F>, 7, 1>(cells, tiles, first),
                _ => multiply_rows::<Packed<F>, 8, 1>(cells, tiles, first),
            },
            // Kernels of opened cells are not compiled for these.
            Some(_) if const { F::CELL.is_signed() } => unreachable!("signed integers are taken as they are packed"),
            Some(_) => match tiles.quantised.first().rows {
                3 => multiply_rows::<Spread<F>, 3, 2>(cells, tiles, first),
                _ => multiply_rows::<Spread<F>, 4, 2>(cells, tiles, first),
            },
        }
    }
}

/// How far ahead a single row has weights come to the first-level cache, in bytes, from the second one or from
/// [memory](once_is_enough): each takes so little arithmetic that it would wait for them.
const NEAR: usize = 1024;

/// Panels from which on a single row reads [two streams](multiply_row), on the processors that [ask once](once_is_enough): memory gives x1.15
/// to x1.3 as much to one thread, x1.1 to x1.2 to two, as long as each stream goes on for some panels.
const STREAMED: usize = 8;

/// Where a kernel is.
#[derive(Clone, Copy)]
struct At {
    /// The integers of a cell.
    lines: *const u8,
    quants: *const i8,
    minus_sums: *const i32,
}

/// How a kernel takes the integers of a form's cells.
trait Taken {
    type Form: Form;
    /// Bytes of a cell's integers.
    const QUANT_BYTES: usize;

    /// Integer sums of one group for `ROWS` rows and `HALVES` vectors of outputs from vector `half` on.
    ///
    /// # Safety
    /// `at` points at a cell, its rows' integers and the sums of this group; AVX2 is present.
    unsafe fn sums<const ROWS: usize, const HALVES: usize>(
        at: At,
        group: usize,
        half: usize,
    ) -> [[__m256i; HALVES]; ROWS];
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_rows<T: Taken, const ROWS: usize, const HALVES: usize>(
    cells: Cells<'_>,
    tiles: Tiled<'_>,
    first: bool,
) {
    each_panel!(cells, tiles, |tile, out| multiply_panel::<T, ROWS, HALVES>(cells, tile, out, first));
}

#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_panel<T: Taken, const ROWS: usize, const HALVES: usize>(
    cells: Cells<'_>,
    tile: Quantised<'_>,
    out: Target,
    first: bool,
) {
    let block = Block::of::<T>(cells.bytes.as_ptr());
    // SAFETY: the rows of `out`, each used here alone; blocks, integers, scales and sums are as many as was checked above.
    unsafe {
        let mut acc = started(out, first);
        for cell in 0..cells.bytes.len() / block.bytes * T::Form::CELL.block {
            cells.ahead.ask_for(cell, T::Form::CELL.bytes());
            add_cell::<T, ROWS, HALVES>(block, cell, &tile, &mut acc);
        }
        put(acc, scales_behind::<T>(cells), out);
    }
}

/// The panels of a single row: two far apart at a time where that reads memory [better](STREAMED), from halves of them.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_row<T: Taken>(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    assert_eq!(tiles.quantised.count(), 1, "a tile of a single row is alone");
    let (tile, out) = (tiles.quantised.tile(0), tiles.out);
    // Tests do so on every processor.
    let apart = if (once_is_enough() || cfg!(test)) && cells.panels >= STREAMED { cells.panels / 2 } else { 0 };
    // SAFETY: by the caller's duties; each panel once.
    unsafe {
        for panel in 0..apart {
            let panels = [panel, panel + apart];
            multiply_streams::<T, 2>(
                panels.map(|panel| cells.panel(panel)),
                tile,
                panels.map(|panel| out.panel(panel)),
                first,
            );
        }
        for panel in 2 * apart..cells.panels {
            multiply_streams::<T, 1>([cells.panel(panel)], tile, [out.panel(panel)], first);
        }
    }
}

#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_streams<T: Taken, const STREAMS: usize>(
    cells: [Cells<'_>; STREAMS],
    tile: Quantised<'_>,
    out: [Target; STREAMS],
    first: bool,
) {
    let form = const { T::Form::CELL };
    // SAFETY: as in `multiply_panel`.
    unsafe {
        let mut acc = [[[_mm256_setzero_ps(); 2]; 1]; STREAMS];
        for (acc, out) in acc.iter_mut().zip(out) {
            *acc = started(out, first);
        }
        let once = once_is_enough();
        for cell in 0..cells[0].bytes.len() / Block::of::<T>(cells[0].bytes.as_ptr()).bytes * form.block {
            for (cells, acc) in cells.iter().zip(&mut acc) {
                if !once {
                    cells.ahead.ask_for(cell, form.bytes());
                }
                let near = cells.bytes.as_ptr().wrapping_add(cell * form.bytes() + NEAR);
                (0..form.bytes().div_ceil(LINE)).for_each(|line| ask_once(near.wrapping_add(line * LINE)));
                add_cell::<T, 1, 2>(Block::of::<T>(cells.bytes.as_ptr()), cell, &tile, acc);
            }
        }
        for (acc, (cells, out)) in acc.into_iter().zip(cells.into_iter().zip(out)) {
            put(acc, scales_behind::<T>(cells), out);
        }
    }
}

/// The first of a panel's blocks.
#[derive(Clone, Copy)]
struct Block {
    first: *const u8,
    bytes: usize,
}

impl Block {
    #[inline(always)]
    fn of<T: Taken>(first: *const u8) -> Self {
        let form = const { T::Form::CELL };
        Block { first, bytes: form.block * T::QUANT_BYTES + form.factor_bytes() }
    }
}

/// What sums start from: the results so far.
///
/// # Safety
/// `out` has so many rows, each used here alone; AVX2 is present.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn started<const ROWS: usize>(out: Target, first: bool) -> [[__m256; 2]; ROWS] {
    let mut acc = [[_mm256_setzero_ps(); 2]; ROWS];
    if !first {
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: by the caller's duties.
            unsafe {
                let sums = out.row(row, 0).as_ptr();
                *acc = [_mm256_loadu_ps(sums), _mm256_loadu_ps(sums.add(8))];
            }
        }
    }
    acc
}

/// Adds a cell of a panel times the rows of a tile.
///
/// # Safety
/// The panel has the cell, and the tile its blocks of `ROWS` rows; AVX2, FMA and F16C are present.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_cell<T: Taken, const ROWS: usize, const HALVES: usize>(
    block: Block,
    cell: usize,
    tile: &Quantised<'_>,
    acc: &mut [[__m256; 2]; ROWS],
) {
    let form = const { T::Form::CELL };
    // SAFETY: by the caller's duties.
    unsafe {
        let minus_sums = if form.groups == 1 { tile.minus_sums } else { tile.minus_half_sums };
        let weighted = if form.groups == 1 { tile.weighted } else { tile.half_weighted };
        let (block, place) = (block.first.add(cell / form.block * block.bytes), cell % form.block);
        let lines = block.add(place * T::QUANT_BYTES);
        let factors = block.add(form.block * T::QUANT_BYTES);
        let quants = tile.quants.add(cell * ROWS * CELL);
        let scales = tile.scales.add(cell * ROWS);
        for group in 0..form.groups {
            let minus_sums = minus_sums.add((cell * form.groups + group) * ROWS);
            let weighted = weighted.add((cell * form.groups + group) * ROWS);
            let at = At { lines, quants, minus_sums };
            for half in (0..2).step_by(HALVES) {
                let sums = T::sums::<ROWS, HALVES>(at, group, half);
                for h in half..half + HALVES {
                    let own = if form.has_factors() {
                        factor::<T::Form>(factors, place * form.groups + group, h, false)
                    } else {
                        _mm256_setzero_ps()
                    };
                    for (row, acc) in acc.iter_mut().enumerate() {
                        let scale = _mm256_broadcast_ss(&*scales.add(row));
                        let scale = if form.has_factors() { _mm256_mul_ps(own, scale) } else { scale };
                        acc[h] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sums[row][h - half]), acc[h]);
                    }
                    if form.min {
                        let min = factor::<T::Form>(factors, place * form.groups + group, h, true);
                        for (row, acc) in acc.iter_mut().enumerate() {
                            acc[h] = _mm256_fmadd_ps(min, _mm256_broadcast_ss(&*weighted.add(row)), acc[h]);
                        }
                    }
                }
            }
        }
    }
}

/// The scales of a panel's outputs, where sums have none yet.
#[inline(always)]
fn scales_behind<'a, T: Taken>(cells: Cells<'a>) -> Option<&'a [u8]> {
    cells.scales.filter(|_| const { !T::Form::CELL.has_factors() })
}

/// Puts sums away, times `scales` if there are any.
///
/// # Safety
/// `out` has so many rows, each used here alone, and `scales` 16 numbers; AVX2 is present.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn put<const ROWS: usize>(mut acc: [[__m256; 2]; ROWS], scales: Option<&[u8]>, out: Target) {
    // SAFETY: by the caller's duties.
    unsafe {
        if let Some(scales) = scales {
            let scales = scales.as_ptr().cast::<f32>();
            let scales = [_mm256_loadu_ps(scales), _mm256_loadu_ps(scales.add(8))];
            for acc in &mut acc {
                *acc = [_mm256_mul_ps(acc[0], scales[0]), _mm256_mul_ps(acc[1], scales[1])];
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            let sums = out.row(row, 0).as_mut_ptr();
            _mm256_storeu_ps(sums, acc[0]);
            _mm256_storeu_ps(sums.add(8), acc[1]);
        }
    }
}

/// Pairs of units, of `pairs` that a group has, whose products with activations fit 16 bits together: their sums are widened at once. Two
/// products of unsigned integers make a number of 16 bits, and a pair has two of those for each output. Where an offset is taken off, sums
/// [start](starts) from it, so that they are small in the end; what is too large in between wraps around and back.
const fn pairs_together(cell: Cell, pairs: usize) -> usize {
    if let Integers::Less(zero @ 1..) = cell.integers {
        assert!(4 * pairs * zero as usize * 127 <= i16::MAX as usize, "sums of a group fit 16 bits");
        return pairs;
    }
    let largest = 4 * ((1 << (cell.low + cell.high)) - 1) * 127;
    let fit = i16::MAX as usize / largest;
    match pairs {
        4 if fit >= 4 => 4,
        _ if fit >= 2 => 2,
        _ => 1,
    }
}

/// The cells as they are packed.
struct Packed<F>(PhantomData<F>);

impl<F: Form> Taken for Packed<F> {
    type Form = F;
    const QUANT_BYTES: usize = F::CELL.quant_bytes();

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sums<const ROWS: usize, const HALVES: usize>(
        at: At,
        group: usize,
        half: usize,
    ) -> [[__m256i; HALVES]; ROWS] {
        let form = const { F::CELL };
        let pairs = 4 / form.groups;
        let all = group * pairs..(group + 1) * pairs;
        let mut t = [[_mm256_setzero_si256(); HALVES]; ROWS];
        // SAFETY: the group's pairs of units of weights and activations, by the duties of `sums`.
        unsafe {
            if form.is_signed() {
                for i in all {
                    let unit = form.first_of(i);
                    let [first, second] = [unit, unit + pairs].map(|unit| at.quants.add(unit * ROWS * 4));
                    // `|w|` unsigned times `a` with the sign of `w`: two products of at most 128 · 127 fit 16 bits.
                    for h in 0..HALVES {
                        let [v, w] = pair::<F>(at.lines, i, half + h);
                        let sizes = [_mm256_abs_epi8(v), _mm256_abs_epi8(w)];
                        for (row, t) in t.iter_mut().enumerate() {
                            let (x, y) = (four(first.add(row * 4)), four(second.add(row * 4)));
                            let a = widen(_mm256_maddubs_epi16(sizes[0], _mm256_sign_epi8(x, v)));
                            let b = widen(_mm256_maddubs_epi16(sizes[1], _mm256_sign_epi8(y, w)));
                            t[h] = _mm256_add_epi32(t[h], _mm256_add_epi32(a, b));
                        }
                    }
                    if ROWS > 1 {
                        t.as_flattened_mut().iter_mut().for_each(|sum| in_order!(ymm_reg, sum));
                    }
                }
                return t;
            }
            let together = const { pairs_together(F::CELL, 4 / F::CELL.groups) };
            for part in all.step_by(together) {
                let mut narrow = starts::<F, ROWS, HALVES>(at.minus_sums);
                for i in part..part + together {
                    let unit = form.first_of(i);
                    let [first, second] = [unit, unit + pairs].map(|unit| at.quants.add(unit * ROWS * 4));
                    let mut weights = [[_mm256_setzero_si256(); 2]; HALVES];
                    for (h, weights) in weights.iter_mut().enumerate() {
                        *weights = pair::<F>(at.lines, i, half + h);
                    }
                    for (row, narrow) in narrow.iter_mut().enumerate() {
                        let (x, y) = (four(first.add(row * 4)), four(second.add(row * 4)));
                        for (narrow, [v, w]) in narrow.iter_mut().zip(weights) {
                            let products = _mm256_add_epi16(_mm256_maddubs_epi16(v, x), _mm256_maddubs_epi16(w, y));
                            *narrow = _mm256_add_epi16(*narrow, products);
                        }
                    }
                    if ROWS > 1 {
                        narrow.as_flattened_mut().iter_mut().for_each(|sum| in_order!(ymm_reg, sum));
                    }
                }
                gather(&mut t, &narrow);
            }
        }
        t
    }
}

/// Cells whose unsigned integers were opened to units of bytes.
struct Spread<F>(PhantomData<F>);

impl<F: Form> Taken for Spread<F> {
    type Form = F;
    const QUANT_BYTES: usize = 8 * UNIT;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sums<const ROWS: usize, const HALVES: usize>(
        at: At,
        group: usize,
        half: usize,
    ) -> [[__m256i; HALVES]; ROWS] {
        let units = 8 / const { F::CELL.groups };
        let together = 2 * const { pairs_together(F::CELL, 4 / F::CELL.groups) };
        let mut t = [[_mm256_setzero_si256(); HALVES]; ROWS];
        // SAFETY: the group's units of weights and activations and a sum a row, by the duties of `sums`.
        unsafe {
            for part in (group * units..(group + 1) * units).step_by(together) {
                let mut narrow = starts::<F, ROWS, HALVES>(at.minus_sums);
                // Two units a turn: 512 rows x1.02 to x1.1, as cores that two threads share have few instructions a cycle.
                for two in (part..part + together).step_by(2) {
                    for unit in two..two + 2 {
                        let w = at.unit::<HALVES>(unit, half);
                        for (row, narrow) in narrow.iter_mut().enumerate() {
                            let x = four(at.quants.add((unit * ROWS + row) * 4));
                            for h in 0..HALVES {
                                narrow[h] = _mm256_add_epi16(narrow[h], _mm256_maddubs_epi16(w[h], x));
                            }
                        }
                        narrow.as_flattened_mut().iter_mut().for_each(|sum| in_order!(ymm_reg, sum));
                    }
                }
                gather(&mut t, &narrow);
            }
        }
        t
    }
}

/// Adds narrow sums to wide ones.
#[inline]
#[target_feature(enable = "avx2")]
fn gather<const ROWS: usize, const HALVES: usize>(
    t: &mut [[__m256i; HALVES]; ROWS],
    narrow: &[[__m256i; HALVES]; ROWS],
) {
    for (t, narrow) in t.as_flattened_mut().iter_mut().zip(narrow.as_flattened()) {
        *t = _mm256_add_epi32(*t, widen(*narrow));
    }
}

/// The sums of neighbours, in 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(narrow: __m256i) -> __m256i {
    _mm256_madd_epi16(narrow, _mm256_set1_epi16(1))
}

/// What sums of a group start from, in 16 bits: what the form takes off each integer, times the activations.
///
/// # Safety
/// `minus_sums` points at the sums of each row; AVX2 is present.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn starts<F: Form, const ROWS: usize, const HALVES: usize>(minus_sums: *const i32) -> [[__m256i; HALVES]; ROWS] {
    let mut starts = [[_mm256_setzero_si256(); HALVES]; ROWS];
    let Integers::Less(zero @ 1..) = (const { F::CELL.integers }) else { return starts };
    let times_zero = _mm_cvtsi32_si128(zero.trailing_zeros().cast_signed());
    for (row, start) in starts.iter_mut().enumerate() {
        // SAFETY: by the caller's duties.
        *start = [_mm256_sll_epi16(_mm256_set1_epi32(unsafe { *minus_sums.add(row) }), times_zero); HALVES];
    }
    starts
}

/// Opens cells of unsigned integers into the front of `opened`: integers as bytes, then the factors as they are.
///
/// # Safety
/// AVX2 is present.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn open<'a>(cell: Cell, cells: &[u8], opened: &'a mut [u8]) -> &'a [u8] {
    // SAFETY: by the caller's duties.
    unsafe { by_form!(cell, open_as(cells, opened)) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn open_as<'a, F: Form>(cells: &[u8], opened: &'a mut [u8]) -> &'a [u8] {
    let form = const { F::CELL };
    let packed = form.block * form.quant_bytes();
    let quants = Spread::<F>::QUANT_BYTES;
    let block_bytes = form.block * quants + form.factor_bytes();
    let blocks = cells.len() / form.block_bytes();
    let opened = &mut opened[..blocks * block_bytes];
    for block in 0..blocks {
        // SAFETY: as many blocks are in both, each with its cells' integers and its factors.
        unsafe {
            let (from, to) =
                (cells.as_ptr().add(block * form.block_bytes()), opened.as_mut_ptr().add(block * block_bytes));
            to.add(form.block * quants).copy_from_nonoverlapping(from.add(packed), form.factor_bytes());
            for place in 0..form.block {
                let (lines, wide) = (from.add(place * form.quant_bytes()), to.add(place * quants));
                for i in 0..4 {
                    let unit = form.first_of(i);
                    for h in 0..2 {
                        let [first, second] = pair::<F>(lines, i, h);
                        _mm256_storeu_si256(wide.add(unit * UNIT + h * 32).cast(), first);
                        _mm256_storeu_si256(wide.add((unit + 4 / form.groups) * UNIT + h * 32).cast(), second);
                    }
                }
            }
        }
    }
    opened
}

/// Four integers of a row for every output.
///
/// # Safety
/// `at` points at 4 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four(at: *const i8) -> __m256i {
    // SAFETY: by the caller's duties.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

impl At {
    /// `HALVES` vectors of a unit of opened weights, from vector `half` on.
    ///
    /// # Safety
    /// The cell has this unit; AVX2 is present.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn unit<const HALVES: usize>(self, unit: usize, half: usize) -> [__m256i; HALVES] {
        let mut vectors = [_mm256_setzero_si256(); HALVES];
        for (n, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: by the caller's duties.
            *vector = unsafe { _mm256_loadu_si256(self.lines.add(unit * UNIT + (half + n) * 32).cast()) };
        }
        vectors
    }
}
