//! Float weights times f32 activations: panels `[k][16]`, one FMA chain an output along K.
//!
//! Floats of one byte are numbers to be multiplied with a scale, which is the same for some neighbouring values of K, a *run*: all of K, or
//! a part of a block of 128. Each run has a chain of its own, and `sum = fma(chain, scale, sum)` when it ends. A panel begins with its
//! scales, `[runs][16]`.

/// A kernel's `multiply`: the tile for each element and shape. It has to be compiled with the same instructions as the tiles, so it is
/// written once and stands in each kernel's file.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! by_element_and_shape {
    ($features:literal, $tile:ident, $([$rows:literal, $panels:literal])*) => {
        /// # Safety
        /// The instructions are present; lengths and shape were checked by `float::multiply`, and its duties hold.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn multiply(weights: Weights<'_>, x: &[f32], rows: usize, out: Target, first: bool) {
            // SAFETY: by the caller's duties.
            unsafe {
                match weights.element {
                    Element::F32 => by_shape::<F32>(weights, x, rows, out, first),
                    Element::F16 => by_shape::<F16>(weights, x, rows, out, first),
                    Element::BF16 => by_shape::<Bf16>(weights, x, rows, out, first),
                    Element::E4M3 => by_shape::<E4m3>(weights, x, rows, out, first),
                    Element::E5M2 => by_shape::<E5m2>(weights, x, rows, out, first),
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn by_shape<L: Load>(weights: Weights<'_>, x: &[f32], rows: usize, out: Target, first: bool) {
            // SAFETY: by the caller's duties.
            unsafe {
                match (rows, weights.panels) {
                    $(($rows, $panels) => $tile::<L, $rows, $panels>(weights, x, out, first),)*
                    shape => unreachable!("{shape:?} rows and panels were refused"),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::PANEL;
use super::across::{self, Next};
use super::ahead::Ahead;
use super::panels::SCALES;
use super::tile::Target;
use crate::isa::Isa;
use half::{bf16, f16};
use nxd_ops::quant::{e4m3_is_nan, e4m3_to_f32, e5m2_to_f32};

/// Rows of a full tile: 6 rows by 16 outputs fill 12 of 16 vector registers; where 16 outputs are one of 32, 12 rows are enough chains
/// and share the conversion of weights.
pub(super) const fn most_rows(isa: Isa) -> usize {
    match isa.vectors() {
        Isa::Avx512 => 12,
        _ => 6,
    }
}

/// Neighbouring panels that a single tile of `rows` rows meets at once: with few rows it has too few chains of its own to hide the
/// latency of an FMA.
pub(super) const fn panels_at_once(isa: Isa, rows: usize) -> usize {
    match (isa.vectors(), rows) {
        (Isa::Avx512, 1..=3) | (_, 1) => 4,
        _ => 1,
    }
}

/// Steps of K of a panel of f32 that stay in the first-level cache.
pub(super) const CHUNK: usize = 320;

/// Steps of K that are done for all tiles before the next ones. With AVX-512 as many bytes of 16-bit weights as of f32: results are
/// written and read again the less often (+2 %).
pub(super) const fn chunk(isa: Isa, element: Element) -> usize {
    match isa.vectors() {
        Isa::Avx512 => CHUNK * 4 / element.bytes(),
        _ => CHUNK,
    }
}

/// A stored float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    /// Outputs `j` and `j + 8` lie side by side, so that a shift and a mask turn a vector into two of f32.
    BF16,
    /// A 256th of the number is an f16 whose bits it has, and that enters the chain: [`Element::scale`] makes up for it. A NaN is not read
    /// as one.
    E4M3,
    /// The upper half of an f16.
    E5M2,
}

impl Element {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::BF16 => 2,
            Element::E4M3 | Element::E5M2 => 1,
        }
    }

    /// Whether a panel has scales.
    pub(super) const fn is_scaled(self) -> bool {
        self.bytes() == 1
    }

    /// What a chain is multiplied with, for a scale and a row's `numbers` under it. One that is NaN makes the output NaN, whatever it meets;
    /// so does a scale that is, and kernels need not look for it.
    pub(super) fn scale(self, scale: f32, numbers: &[u8]) -> f32 {
        match self {
            Element::E4M3 if numbers.iter().any(|&byte| e4m3_is_nan(byte)) => f32::NAN,
            Element::E4M3 => scale * 256.0,
            _ => scale,
        }
    }

    /// Where output `j` lies among the 16 of a step.
    pub(super) const fn place(self, j: usize) -> usize {
        match self {
            Element::BF16 => j % 8 * 2 + j / 8,
            _ => j,
        }
    }

    /// The value of a stored float, without what [`Element::scale`] makes up for.
    pub(super) fn read(self, bytes: &[u8]) -> f32 {
        match self {
            Element::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Element::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Element::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Element::E4M3 => e4m3_to_f32(bytes[0]) / 256.0,
            Element::E5M2 => e5m2_to_f32(bytes[0]),
        }
    }

    /// Packs 16 rows, `[16][k]` as the file has them, into a panel.
    pub(super) fn pack_panel(self, rows: &[u8], panel: &mut [u8], next: Next) {
        let rows = across::rows(rows);
        let mut columns = rows;
        rows.into_iter().enumerate().for_each(|(j, row)| columns[self.place(j)] = row);
        match self.bytes() {
            4 => across::words(&columns, panel, next),
            1 => across::bytes(&columns, panel),
            _ => across::halves(&columns, panel, next),
        }
    }
}

/// Some steps of K of a panel, or of several.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    /// The steps of the first panel and what follows.
    pub(super) bytes: &'a [u8],
    pub(super) element: Element,
    /// Bytes from a panel to the next.
    pub(super) panel_bytes: usize,
    /// How many panels to multiply: 1, or [`panels_at_once`].
    pub(super) panels: usize,
    /// What to ask memory for beside a single panel, with each step.
    pub(super) ahead: Ahead,
    /// Where a run ends, its scales: those of the first panel's outputs and what follows.
    pub(super) scales: Option<&'a [u8]>,
    /// Whether the results are the sum of the runs before, and not the chain as far as it is.
    pub(super) sums: bool,
}

impl Weights<'_> {
    /// The same for a tile that comes so many tiles later.
    pub(super) fn after(self, tiles: usize) -> Self {
        Weights { ahead: self.ahead.after(tiles), ..self }
    }
}

/// Steps of K of a matrix whose runs have scales.
#[derive(Clone, Copy)]
pub(super) struct Runs<'a> {
    /// Where each ends, from the start of K.
    pub(super) ends: &'a [usize],
    /// The first step that is multiplied: anywhere in the first run, or where another one begins.
    pub(super) start: usize,
    /// The scales of all runs of the first panel, and what follows.
    pub(super) scales: &'a [u8],
}

/// The last step of K before which a product of at most `most` steps from `start` on, or of one run, may end: the results hold either the
/// first run's chain or a sum, so all others are multiplied whole.
pub(super) fn end_of_runs(ends: &[usize], start: usize, most: usize) -> usize {
    let end = start + most;
    let complete = ends.partition_point(|&of_run| of_run <= end);
    match ends[..complete].last() {
        None => end,
        Some(&last) if last > start => last,
        Some(_) => ends[complete],
    }
}

/// [`multiply`], run after run. Where the last one does not end, it is the first.
///
/// # Safety
/// That of [`multiply`].
pub(super) unsafe fn multiply_runs(
    isa: Isa,
    weights: Weights<'_>,
    runs: Runs<'_>,
    x: &[f32],
    rows: usize,
    out: Target,
) {
    let (steps, step_bytes) = (x.len() / rows, PANEL * weights.element.bytes());
    let mut run = runs.ends.partition_point(|&end| end <= runs.start);
    let mut done = 0;
    while done < steps {
        let end = runs.ends[run] - runs.start;
        assert!(run == 0 || end <= steps, "a run that is multiplied whole");
        let to = end.min(steps);
        let scales = (to == end).then(|| &runs.scales[run * SCALES..]);
        let (bytes, ahead) = (&weights.bytes[done * step_bytes..], weights.ahead.from(done));
        let part = Weights { bytes, ahead, scales, sums: run > 0, ..weights };
        let first = run > 0 || runs.start == 0;
        // SAFETY: by the caller's duties.
        unsafe { multiply(isa, part, &x[done * rows..to * rows], rows, out, first) };
        (done, run) = (to, run + 1);
    }
}

/// Adds to `out` a tile of rows, `[k][rows]`, times `weights`; the first chunk along K starts from zero.
///
/// # Safety
/// The CPU has the instructions of `isa`; `out` has `rows` rows of as many panels (see [`Target`]).
pub(super) unsafe fn multiply(isa: Isa, weights: Weights<'_>, x: &[f32], rows: usize, out: Target, first: bool) {
    let steps = x.len() / rows;
    let last = (weights.panels - 1) * weights.panel_bytes + steps * PANEL * weights.element.bytes();
    assert!(
        rows <= most_rows(isa) && (weights.panels == 1 || weights.panels == panels_at_once(isa, rows)),
        "a tile's shape"
    );
    assert!(x.len() == steps * rows && last <= weights.bytes.len(), "{steps} steps of {rows} rows");
    let scales = (weights.panels - 1) * weights.panel_bytes + SCALES;
    assert!(weights.scales.is_none_or(|given| scales <= given.len()), "scales of {} panels", weights.panels);
    // SAFETY: the lengths were checked; the rest are the caller's duties.
    unsafe {
        match isa.vectors() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::multiply(weights, x, rows, out, first),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::multiply(weights, x, rows, out, first),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDot => neon::multiply(weights, x, rows, out, first),
            Isa::Scalar => scalar::multiply(weights, x, rows, out, first),
            _ => unreachable!("{isa} has no kernel on this architecture"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::end_of_runs;

    #[test]
    fn chunks_end_with_runs_but_in_the_first() {
        let ends = [100, 228, 356, 400];
        let chunks = |most: usize| -> Vec<usize> {
            let next = |&start: &usize| (start < 400).then(|| end_of_runs(&ends, start, most.min(400 - start)));
            std::iter::successors(Some(0), next).skip(1).collect()
        };
        assert_eq!(chunks(400), [400]);
        assert_eq!(chunks(300), [228, 400]);
        assert_eq!(chunks(130), [100, 228, 356, 400]);
        assert_eq!(chunks(40), [40, 80, 100, 228, 356, 400]);
    }
}
