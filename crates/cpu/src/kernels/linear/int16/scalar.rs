//! The definition: for each 32 values of K an exact sum of integers, which enters the result with one FMA; at the end the result is
//! multiplied with the output's scale.

use super::{PAIR, Rows, Words};
use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::tile::Target;

/// # Safety
/// `out` has as many rows as the tile and panels as the weights.
pub(super) unsafe fn multiply(weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    for panel in 0..weights.panels {
        let pairs = weights.bytes[panel * weights.panel_bytes..].chunks_exact(CELL / 2 * PAIR);
        let scales = weights.scales.map(|scales| &scales[panel * weights.panel_bytes..]);
        for row in 0..x.rows {
            // SAFETY: by the caller's duties; one row at a time.
            let results = unsafe { out.row(row, panel) };
            let mut acc = if first { [0.0; PANEL] } else { *results };
            let blocks = x.words.chunks_exact(x.rows * CELL).zip(x.scales.chunks_exact(x.rows));
            for (pairs, (words, scales)) in pairs.clone().zip(blocks) {
                let words = words.as_chunks::<2>().0;
                for (j, acc) in acc.iter_mut().enumerate() {
                    let mut sum = 0;
                    for (i, pair) in pairs.chunks_exact(PAIR).enumerate() {
                        let [a, b] = words[i * x.rows + row].map(i32::from);
                        let weight = |at: usize| i32::from(i16::from_le_bytes([pair[at], pair[at + 1]]));
                        sum += weight(j * 4) * a + weight(j * 4 + 2) * b;
                    }
                    *acc = scales[row].mul_add(sum as f32, *acc);
                }
            }
            if let Some(scales) = scales {
                acc.iter_mut().zip(scales.as_chunks().0).for_each(|(acc, &scale)| *acc *= f32::from_le_bytes(scale));
            }
            *results = acc;
        }
    }
}
