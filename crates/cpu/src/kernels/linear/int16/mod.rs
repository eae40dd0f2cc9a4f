//! Integers of 16 bits for weights that are floats of 16 bits, times activations of 16 bits: panels `[k/2][16][2]`.
//!
//! A panel begins with the scales of its outputs (`pack.rs`). Magnitudes are at most 2^13 on either side, so a sum of 32 products is exact
//! in 32 bits, whatever its inner order; only what each 32 values add is rounded, along K.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod scalar;
#[cfg(test)]
pub(super) mod tests;

pub(super) use pack::pack_panel;

use super::PANEL;
use super::ahead::Ahead;
use super::cell::CELL;
use super::panels::SCALES;
use super::tile::Target;
use crate::isa::Isa;
use crate::prefetch::Cache;

/// Magnitudes of weights are at most 2 to the power of it, and those of activations are smaller.
const BITS: u32 = 13;
/// The largest magnitude of an activation.
pub(super) const MOST: f32 = 8191.0;
/// Bytes of a pair of values of K of 16 outputs.
pub(super) const PAIR: usize = 4 * PANEL;

/// Steps of K whose weights stay near while all tiles of a pass meet them: 24 KB of the first-level cache, or with AVX-512, where fewer
/// results that are written and read again are worth more, 48 KB.
pub(super) const fn chunk(isa: Isa) -> usize {
    match isa.vectors() {
        Isa::Avx512 => 1536,
        _ => 768,
    }
}

/// Rows of a full tile: as many sums in 32 bits, and as many in f32, beside a vector of weights. Where 16 outputs take two vectors, sums in
/// f32 are put away while integers are added. With AVX2 sums take 12 of 16 registers: x1.1 to x1.2 over four rows (32 and 512 rows, Zen 3).
pub(super) const fn most_rows(isa: Isa) -> usize {
    match isa.vectors() {
        Isa::Avx512 => 12,
        Isa::Avx2 => 6,
        _ => 4,
    }
}

/// Rows at most of the tiles that `rows` rows are cut into: with AVX-512 and many rows, so many that [two panels](panels_at_once) find room.
pub(super) const fn tile_rows(isa: Isa, rows: usize) -> usize {
    match isa.vectors() {
        Isa::Avx512 if rows >= 24 => 6,
        _ => most_rows(isa),
    }
}

/// Neighbouring panels that a tile of `rows` rows meets at once, one of several tiles or a single one. With few rows, four streams read memory
/// better than one, unless lines are asked to the first cache (1 row x1.15, 3 rows x1.3 the other way).
pub(super) fn panels_at_once(isa: Isa, rows: usize, several: bool) -> usize {
    match (isa.vectors(), rows) {
        (Isa::Avx512, 4..=6) if several => 2,
        _ if Cache::preferred() == Cache::First => 1,
        (Isa::Avx512, 1..=3) | (_, 1) => 4,
        _ => 1,
    }
}

/// Neighbouring panels that each of `tiles` tiles meets in one call: 3 % for many tiles. Few ones would wait for the first panels, for which
/// nobody asked memory: 24 rows in two tiles -10 %.
pub(super) const fn panels_of_tiles(isa: Isa, tiles: usize) -> usize {
    match (isa.vectors(), tiles) {
        (Isa::Avx512, 4..=5) => 2,
        (_, ..6) => 1,
        _ => 4,
    }
}

/// The integer nearest to `x`, which is below 2^15: ties to even. The sum has steps of 1, so its last bits are the integer's, and the
/// rounding is that of an addition, which every processor does on whole vectors.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i16 {
    (x + 12_582_912.0).to_bits() as i16
}

/// Some pairs of values of K of a panel, or of several.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    /// The pairs of the first panel and what follows.
    pub(super) bytes: &'a [u8],
    /// Bytes from a panel to the next.
    pub(super) panel_bytes: usize,
    /// How many panels; kernels take 1 or [`panels_at_once`].
    pub(super) panels: usize,
    /// Bytes behind these panels that belong to the same share.
    pub(super) left: usize,
    /// Whether several tiles meet them.
    pub(super) several: bool,
    /// What to ask memory for: beside a single panel of a single tile with each pair.
    pub(super) ahead: Ahead,
    /// The scales of the first panel's outputs and what follows, where sums are complete after these pairs.
    pub(super) scales: Option<&'a [u8]>,
}

impl Words<'_> {
    /// `count` of several panels, from `panel` on.
    fn part(self, panel: usize, count: usize) -> Self {
        let start = panel * self.panel_bytes;
        let (bytes, scales) = (&self.bytes[start..], self.scales.map(|scales| &scales[start..]));
        let ahead = match panel {
            0 => self.ahead,
            _ if self.ahead.is_shared() => self.ahead.behind(panel * self.panel_bytes),
            _ => self.ahead.instead(self.bytes, bytes, (self.panels - panel - count) * self.panel_bytes + self.left),
        };
        Words { bytes, scales, ahead, panels: count, ..self }
    }

    /// The same for a tile that comes so many tiles later.
    pub(super) fn after(self, tiles: usize) -> Self {
        Words { ahead: self.ahead.after(tiles), ..self }
    }
}

/// A tile of rows, or some blocks of it.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// How many.
    pub(super) rows: usize,
    /// Integers, `[k/2][rows][2]`.
    pub(super) words: &'a [i16],
    /// Scales, `[k/32][rows]`.
    pub(super) scales: &'a [f32],
}

/// Adds to `out` a tile of rows times `weights`; the first chunk along K starts from zero.
///
/// # Safety
/// The CPU has the instructions of `isa`; `out` has as many rows as the tile and panels as the weights (see [`Target`]).
pub(super) unsafe fn multiply(isa: Isa, weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    let blocks = x.scales.len() / x.rows;
    assert!(
        x.scales.len() == blocks * x.rows && x.words.len() == x.scales.len() * CELL,
        "whole blocks of a tile's rows"
    );
    assert!(x.rows <= most_rows(isa), "a tile's rows: {}", x.rows);
    let before = (weights.panels - 1) * weights.panel_bytes;
    assert!(before + blocks * CELL / 2 * PAIR <= weights.bytes.len(), "{blocks} blocks of {} panels", weights.panels);
    assert!(weights.scales.is_none_or(|scales| before + SCALES <= scales.len()), "scales of {} panels", weights.panels);
    let (mut panel, some) = (0, panels_at_once(isa, x.rows, weights.several));
    while panel < weights.panels {
        let count = if panel + some <= weights.panels { some } else { 1 };
        // SAFETY: the lengths were checked; the rest are the caller's duties.
        unsafe { multiply_some(isa, weights.part(panel, count), x, out.panel(panel), first) };
        panel += count;
    }
}

/// As many panels as kernels take.
///
/// # Safety
/// As [`multiply`], which has checked the lengths.
unsafe fn multiply_some(isa: Isa, weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match isa.vectors() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::multiply(weights, x, out, first),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::multiply(weights, x, out, first),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => neon::multiply(weights, x, out, first),
            Isa::Scalar => scalar::multiply(weights, x, out, first),
            _ => unreachable!("{isa} has no kernel on this architecture"),
        }
    }
}
