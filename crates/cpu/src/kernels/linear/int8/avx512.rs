//! AVX-512 with VNNI: a unit, 4 values of K by 16 outputs, is one vector, and `vpdpbusd` multiplies it with 4 integers of a row.
//!
//! The instruction takes unsigned weights and signed activations. Where weights are signed they are read with an offset, and sums start
//! from `-offset * sum(a)`; so every integer sum is the exact one of the definition. Starting from it rather than taking it off at the end
//! is worth 3 %. Two panels at once gain nothing: a step of eight rows is within 2 % of what products and float steps cost.

use super::{Cells, Tiled};
use crate::kernels::linear::cell::avx512::{factor, half, offset, pair};
use crate::kernels::linear::cell::forms::{Form, by_form};
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;
use std::arch::x86_64::*;

/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI are present; the lengths were checked by `int8::multiply`, and its duties hold.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe { by_form!(cells.cell, by_rows(cells, tiles, first)) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn by_rows<F: Form>(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match tiles.quantised.first().rows {
            1 => multiply_rows::<F, 1>(cells, tiles, first),
            2 => multiply_rows::<F, 2>(cells, tiles, first),
            3 => multiply_rows::<F, 3>(cells, tiles, first),
            4 => multiply_rows::<F, 4>(cells, tiles, first),
            5 => multiply_rows::<F, 5>(cells, tiles, first),
            6 => multiply_rows::<F, 6>(cells, tiles, first),
            7 => multiply_rows::<F, 7>(cells, tiles, first),
            _ => multiply_rows::<F, 8>(cells, tiles, first),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply_rows<F: Form, const ROWS: usize>(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    each_panel!(cells, tiles, |tile, out| multiply_panel::<F, ROWS>(cells, tile, out, first));
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply_panel<F: Form, const ROWS: usize>(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    /// Integer sums of a row at once: with few rows one alone would have each product wait for the one before.
    const fn chains(rows: usize) -> usize {
        if rows < 5 { 2 } else { 1 }
    }
    let form = const { F::CELL };
    let mut acc = [_mm512_setzero_ps(); ROWS];
    // SAFETY: the rows of `out`, each used here alone; blocks, integers, scales and sums are as many as `int8::multiply` checked; a
    // prefetch may name any address.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                *acc = _mm512_loadu_ps(out.row(row, 0).as_ptr());
            }
        }
        let minus_sums = if form.groups == 1 { tile.minus_sums } else { tile.minus_half_sums };
        let weighted = if form.groups == 1 { tile.weighted } else { tile.half_weighted };
        let pairs = 4 / form.groups;
        for cell in 0..cells.blocks * form.block {
            let (block, place) = (cells.bytes.as_ptr().add(cell / form.block * form.block_bytes()), cell % form.block);
            cells.ahead.ask_for(cell, const { F::CELL.bytes() });
            let lines = block.add(place * form.quant_bytes());
            let scales = tile.scales.add(cell * ROWS);
            let quants = tile.quants.add(cell * 8 * ROWS * 4);
            for group in 0..form.groups {
                let at = (cell * form.groups + group) * ROWS;
                let (minus_sums, weighted) = (minus_sums.add(at), weighted.add(at));
                let mut dots = [[_mm512_setzero_si512(); ROWS]; 2];
                if offset::<F>() > 0 {
                    let shift = _mm_cvtsi32_si128(offset::<F>().trailing_zeros().cast_signed());
                    for (row, dot) in dots[0].iter_mut().enumerate() {
                        *dot = _mm512_sll_epi32(_mm512_set1_epi32(*minus_sums.add(row)), shift);
                    }
                }
                for i in group * pairs..(group + 1) * pairs {
                    let unit = form.first_of(i);
                    for (second, w) in pair::<F>(lines, i).into_iter().enumerate() {
                        let unit = unit + second * pairs;
                        for (row, dot) in dots[second % chains(ROWS)].iter_mut().enumerate() {
                            *dot = _mm512_dpbusd_epi32(*dot, w, four(quants.add((unit * ROWS + row) * 4)));
                        }
                    }
                    for dot in dots[..chains(ROWS)].as_flattened_mut() {
                        in_order!(zmm_reg, dot);
                    }
                }
                let group = place * form.groups + group;
                let own = if form.has_factors() {
                    factor::<F>(block, half::<F>(block, false), group, false)
                } else {
                    _mm512_setzero_ps()
                };
                let [mut dots, others] = dots;
                if chains(ROWS) == 2 {
                    for (dot, other) in dots.iter_mut().zip(others) {
                        *dot = _mm512_add_epi32(*dot, other);
                    }
                }
                for (row, (acc, dot)) in acc.iter_mut().zip(dots).enumerate() {
                    let mut scale = _mm512_set1_ps(*scales.add(row));
                    if form.has_factors() {
                        scale = _mm512_mul_ps(own, scale);
                    }
                    *acc = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), *acc);
                }
                if form.min {
                    let min = factor::<F>(block, half::<F>(block, true), group, true);
                    for (row, acc) in acc.iter_mut().enumerate() {
                        *acc = _mm512_fmadd_ps(min, _mm512_set1_ps(*weighted.add(row)), *acc);
                    }
                }
            }
        }
        if !form.has_factors()
            && let Some(scales) = cells.scales
        {
            let scale = _mm512_loadu_ps(scales.as_ptr().cast());
            for acc in &mut acc {
                *acc = _mm512_mul_ps(*acc, scale);
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(out.row(row, 0).as_mut_ptr(), *acc);
        }
    }
}

/// Four integers of a row for every output.
///
/// # Safety
/// `at` points at 4 bytes; AVX-512 is present.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four(at: *const i8) -> __m512i {
    // SAFETY: by the caller's duties.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}
