//! Activations as integers: each 32 neighbouring values of a row with one scale.
//!
//! `scale = amax / 127` and `q = round_to_even(x * (127 / amax))`, with f32 division. A block that holds an infinity or NaN has the scale
//! NaN, so that every output of its row is NaN. One so small that `127 / amax` overflows counts as zeros. A row's integers depend on that
//! row alone. What meets weights of 16 bits has 8191 in the place of 127 (`words.rs`).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod words;

pub(super) use words::{WordsMut, quantise_words};

use super::cell::CELL;
use super::int8::{self, Sums};
use crate::isa::Isa;
use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

/// Quantised rows: all of an input, or those of a tile, from block 0 or a later one. Pointers, so that to go from tile to tile takes a
/// few additions.
#[derive(Clone, Copy)]
pub(super) struct Quantised<'a> {
    /// How many rows.
    pub(super) rows: usize,
    /// Blocks of 32 values of a row.
    pub(super) row_blocks: usize,
    /// Integers, `[k/4][rows][4]`; `[k/32][rows][32]` for AMX.
    pub(super) quants: *const i8,
    /// Scales, `[k/32][rows]`.
    pub(super) scales: *const f32,
    /// Minus the sums of 32 integers, `[k/32][rows]`: what an offset of the weights is multiplied with. For AVX2 each is two sums of 16 bits:
    /// of the first two of four neighbours, and above it of the other two.
    pub(super) minus_sums: *const i32,
    /// Minus the sums of 16 integers, `[k/16][rows]`, likewise.
    pub(super) minus_half_sums: *const i32,
    /// Scales times sums of 32 integers, `[k/32][rows]`: what minima are multiplied with.
    pub(super) weighted: *const f32,
    /// Scales times sums of 16 integers, `[k/16][rows]`.
    pub(super) half_weighted: *const f32,
    from: PhantomData<&'a QuantisedSlices<'a>>,
}

/// What [`Quantised`] points at: the tiles of some rows, one after the other.
pub(super) struct QuantisedSlices<'a> {
    pub(super) quants: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) minus_sums: &'a [i32],
    pub(super) minus_half_sums: &'a [i32],
    pub(super) weighted: &'a [f32],
    pub(super) half_weighted: &'a [f32],
}

/// A tile while it is written.
pub(super) struct QuantisedMut<'a> {
    pub(super) rows: usize,
    /// The sums that are read. Of others anything may be written.
    pub(super) sums: Sums,
    pub(super) quants: &'a mut [i8],
    pub(super) scales: &'a mut [f32],
    pub(super) minus_sums: &'a mut [i32],
    pub(super) minus_half_sums: &'a mut [i32],
    pub(super) weighted: &'a mut [f32],
    pub(super) half_weighted: &'a mut [f32],
}

impl QuantisedMut<'_> {
    /// Notes the scale of a block of `row`, and the sums of its first and second 16 integers.
    #[inline(always)]
    fn note(&mut self, block: usize, row: usize, scale: f32, halves: [i32; 2]) {
        self.note_sums(block, row, scale, halves, -(halves[0] + halves[1]), halves.map(i32::wrapping_neg));
    }

    /// The same where minus the sums, of the block and of its halves, are kept otherwise.
    #[inline(always)]
    fn note_sums(
        &mut self,
        block: usize,
        row: usize,
        scale: f32,
        halves: [i32; 2],
        minus: i32,
        minus_halves: [i32; 2],
    ) {
        let at = block * self.rows + row;
        self.scales[at] = scale;
        if self.sums == Sums::None {
            return;
        }
        self.minus_sums[at] = minus;
        self.weighted[at] = scale * (halves[0] + halves[1]) as f32;
        if self.sums == Sums::Blocks {
            return;
        }
        for half in 0..2 {
            let at = (block * 2 + half) * self.rows + row;
            self.minus_half_sums[at] = minus_halves[half];
            self.half_weighted[at] = scale * halves[half] as f32;
        }
    }
}

impl<'a> Quantised<'a> {
    /// # Panics
    /// When the slices are not as long as `rows` rows of `row_blocks` blocks.
    pub(super) fn new(rows: usize, row_blocks: usize, slices: &QuantisedSlices<'a>) -> Self {
        let blocks = rows * row_blocks;
        assert_eq!(slices.quants.len(), blocks * CELL, "integers of rows");
        assert_eq!((slices.scales.len(), slices.minus_sums.len()), (blocks, blocks), "scales and sums of rows");
        assert_eq!(slices.minus_half_sums.len(), blocks * 2, "half sums of rows");
        assert_eq!((slices.weighted.len(), slices.half_weighted.len()), (blocks, blocks * 2), "weighted sums of rows");
        Quantised {
            rows,
            row_blocks,
            quants: slices.quants.as_ptr(),
            scales: slices.scales.as_ptr(),
            minus_sums: slices.minus_sums.as_ptr(),
            minus_half_sums: slices.minus_half_sums.as_ptr(),
            weighted: slices.weighted.as_ptr(),
            half_weighted: slices.half_weighted.as_ptr(),
            from: PhantomData,
        }
    }

    /// `count` tiles that begin with the one of `rows`, each of as many rows, and of `blocks` blocks from `block` on.
    ///
    /// # Panics
    /// When these rows do not have them.
    pub(super) fn alike(&self, rows: &Range<usize>, count: usize, block: usize, blocks: usize) -> Alike<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(count <= (self.rows - rows.start) / rows.len().max(1), "{count} tiles as {rows:?} of {}", self.rows);
        assert!(block <= self.row_blocks && blocks <= self.row_blocks - block, "{blocks} blocks from {block} on");
        let first = Quantised { rows: rows.len(), row_blocks: blocks, ..*self };
        let start = rows.start * self.row_blocks + block * rows.len();
        // SAFETY: the tile begins within what `new` checked, or where it ends.
        Alike { first: unsafe { first.behind(start) }, count, apart: rows.len() * self.row_blocks }
    }

    /// What begins so many blocks of a row behind.
    ///
    /// # Safety
    /// It begins within what `new` checked, or where that ends.
    #[inline(always)]
    unsafe fn behind(self, blocks: usize) -> Self {
        // SAFETY: by the caller's duties.
        unsafe {
            Quantised {
                quants: self.quants.add(blocks * CELL),
                scales: self.scales.add(blocks),
                minus_sums: self.minus_sums.add(blocks),
                minus_half_sums: self.minus_half_sums.add(blocks * 2),
                weighted: self.weighted.add(blocks),
                half_weighted: self.half_weighted.add(blocks * 2),
                ..self
            }
        }
    }

    /// The integers of a tile.
    pub(super) fn quants(&self) -> &'a [i8] {
        // SAFETY: so many, as `new` and `tile` checked; nobody writes them for `'a`.
        unsafe { slice::from_raw_parts(self.quants, self.rows * self.row_blocks * CELL) }
    }

    /// The scales of a tile.
    pub(super) fn scales(&self) -> &'a [f32] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts(self.scales, self.rows * self.row_blocks) }
    }
}

/// Neighbouring tiles of as many rows each.
#[derive(Clone, Copy)]
pub(super) struct Alike<'a> {
    first: Quantised<'a>,
    count: usize,
    /// Blocks of rows from one to the next.
    apart: usize,
}

impl<'a> Alike<'a> {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn first(&self) -> &Quantised<'a> {
        &self.first
    }

    /// # Panics
    /// When there are not so many.
    #[inline(always)]
    pub(super) fn tile(&self, n: usize) -> Quantised<'a> {
        assert!(n < self.count, "tile {n} of {}", self.count);
        // SAFETY: they all begin within the rows, as `Quantised::alike` checked.
        unsafe { self.first.behind(n * self.apart) }
    }
}

/// Quantises rows of a tile: those at the front of each `stride` values of `x`, as many values as the tile has.
///
/// # Safety
/// The CPU has the instructions of `isa`.
///
/// # Panics
/// When `x` does not have the tile's rows, or a row is not whole blocks.
pub(super) unsafe fn quantise(isa: Isa, x: &[f32], stride: usize, tile: &mut QuantisedMut<'_>) {
    let (values, rows) = (tile.quants.len(), tile.rows);
    assert!(
        (1..=int8::most_rows(isa)).contains(&rows) && values.is_multiple_of(rows * CELL),
        "whole blocks of a tile's rows"
    );
    let cols = values / rows;
    assert!(cols <= stride && x.len() >= (rows - 1) * stride + cols, "rows of a tile's width");
    assert_eq!(tile.scales.len(), values / CELL, "scales of a tile");
    assert_eq!(tile.minus_sums.len(), values / CELL, "sums of a tile");
    assert_eq!(tile.minus_half_sums.len(), values / CELL * 2, "half sums of a tile");
    assert_eq!(tile.weighted.len(), values / CELL, "weighted sums of a tile");
    assert_eq!(tile.half_weighted.len(), values / CELL * 2, "weighted half sums of a tile");
    let each = |row: fn(&[f32], usize, &mut QuantisedMut<'_>), tile: &mut QuantisedMut<'_>| {
        x.chunks(stride.max(1)).take(rows).enumerate().for_each(|(i, x)| row(&x[..cols], i, tile));
    };
    match isa {
        // SAFETY: by the caller's duties; the lengths were checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::quantise(x, stride, tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { avx512::quantise_for_tiles(x, stride, tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => each(|x, row, tile| unsafe { avx2::quantise(x, row, tile) }, tile),
        // SAFETY: NEON is part of AArch64.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => each(|x, row, tile| unsafe { neon::quantise(x, row, tile) }, tile),
        _ => each(scalar::quantise, tile),
    }
}

/// The largest magnitude of an integer.
const MOST: f32 = 127.0;

/// Scale and factor of a block whose largest magnitude has the bits `largest` and becomes `most`: as integers, an infinity or NaN is larger
/// than any number.
#[inline(always)]
fn scale_of(largest: u32, most: f32) -> (f32, f32) {
    if largest >= f32::INFINITY.to_bits() {
        return (f32::NAN, 0.0);
    }
    let amax = f32::from_bits(largest);
    let factor = most / amax;
    (amax / most, if factor.is_finite() { factor } else { 0.0 })
}
