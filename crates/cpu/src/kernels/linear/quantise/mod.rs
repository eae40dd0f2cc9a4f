//! Activations as integers: each 32 neighbouring values of a row with one scale.
//!
//! `scale = amax / 127` and `q = round_to_even(x * (127 / amax))`, with f32 division. A block that holds an infinity or NaN has the scale
//! NaN, so that every output of its row is NaN. One so small that `127 / amax` overflows counts as zeros. A row's integers depend on that
//! row alone.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::cell::CELL;
use super::int8;
use crate::isa::Isa;

/// A tile of quantised rows, seen from block 0 or a later one.
#[derive(Clone, Copy)]
pub(super) struct Quantised<'a> {
    /// How many rows.
    pub(super) rows: usize,
    /// Integers, `[k/4][rows][4]`.
    pub(super) quants: &'a [i8],
    /// Scales, `[k/32][rows]`.
    pub(super) scales: &'a [f32],
    /// Minus the sums of 32 integers, `[k/32][rows]`: what an offset of the weights is multiplied with.
    pub(super) minus_sums: &'a [i32],
    /// Minus the sums of 16 integers, `[k/16][rows]`.
    pub(super) minus_half_sums: &'a [i32],
    /// Scales times sums of 32 integers, `[k/32][rows]`: what minima are multiplied with.
    pub(super) weighted: &'a [f32],
    /// Scales times sums of 16 integers, `[k/16][rows]`.
    pub(super) half_weighted: &'a [f32],
    /// The integers once more in 16 bits, for kernels that take opened cells; else empty.
    pub(super) words: &'a [i16],
}

/// The same while it is written.
pub(super) struct QuantisedMut<'a> {
    pub(super) rows: usize,
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
        let at = block * self.rows + row;
        self.scales[at] = scale;
        self.minus_sums[at] = -(halves[0] + halves[1]);
        self.weighted[at] = scale * (halves[0] + halves[1]) as f32;
        for (half, sum) in halves.into_iter().enumerate() {
            let at = (block * 2 + half) * self.rows + row;
            self.minus_half_sums[at] = -sum;
            self.half_weighted[at] = scale * sum as f32;
        }
    }
}

impl Quantised<'_> {
    /// `blocks` blocks from `block` on.
    pub(super) fn part(&self, block: usize, blocks: usize) -> Self {
        let (start, end) = (block * self.rows, (block + blocks) * self.rows);
        Self {
            rows: self.rows,
            quants: &self.quants[start * CELL..end * CELL],
            scales: &self.scales[start..end],
            minus_sums: &self.minus_sums[start..end],
            minus_half_sums: &self.minus_half_sums[start * 2..end * 2],
            weighted: &self.weighted[start..end],
            half_weighted: &self.half_weighted[start * 2..end * 2],
            words: if self.words.is_empty() { &[] } else { &self.words[start * CELL..end * CELL] },
        }
    }
}

/// Quantises the rows `x`, `[rows][k]`, of a tile.
///
/// # Safety
/// The CPU has the instructions of `isa`.
///
/// # Panics
/// When the tile is not as wide as `x`, or a row is not whole blocks.
pub(super) unsafe fn quantise(isa: Isa, x: &[f32], tile: &mut QuantisedMut<'_>) {
    let (values, rows) = (x.len(), tile.rows);
    assert!(
        (1..=int8::most_rows(isa)).contains(&rows) && values.is_multiple_of(rows * CELL),
        "whole blocks of a tile's rows"
    );
    assert_eq!(tile.quants.len(), values, "integers of a tile");
    assert_eq!(tile.scales.len(), values / CELL, "scales of a tile");
    assert_eq!(tile.minus_sums.len(), values / CELL, "sums of a tile");
    assert_eq!(tile.minus_half_sums.len(), values / CELL * 2, "half sums of a tile");
    assert_eq!(tile.weighted.len(), values / CELL, "weighted sums of a tile");
    assert_eq!(tile.half_weighted.len(), values / CELL * 2, "weighted half sums of a tile");
    let each = |row: fn(&[f32], usize, &mut QuantisedMut<'_>), tile: &mut QuantisedMut<'_>| {
        x.chunks_exact((values / rows).max(1)).enumerate().for_each(|(i, x)| row(x, i, tile));
    };
    match isa {
        // SAFETY: by the caller's duties; the lengths were checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::quantise(x, tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => each(|x, row, tile| unsafe { avx2::quantise(x, row, tile) }, tile),
        // SAFETY: NEON is part of AArch64.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => each(|x, row, tile| unsafe { neon::quantise(x, row, tile) }, tile),
        _ => each(scalar::quantise, tile),
    }
}

/// Scale and factor of a block whose largest magnitude has the bits `largest`: as integers, an infinity or NaN is larger than any number.
#[inline(always)]
fn scale_of(largest: u32) -> (f32, f32) {
    if largest >= f32::INFINITY.to_bits() {
        return (f32::NAN, 0.0);
    }
    let amax = f32::from_bits(largest);
    let factor = 127.0 / amax;
    (amax / 127.0, if factor.is_finite() { factor } else { 0.0 })
}
