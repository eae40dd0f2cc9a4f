//! The definition: one FMA after another along K, and where a run with a scale of its own ends one more, which adds the chain to the sum of
//! runs.

use super::Weights;
use crate::kernels::linear::PANEL;
use crate::kernels::linear::tile::Target;

/// # Safety
/// `out` has `rows` rows of `weights.panels` panels.
pub(super) unsafe fn multiply(weights: Weights<'_>, x: &[f32], rows: usize, out: Target, first: bool) {
    let (element, bytes) = (weights.element, weights.element.bytes());
    for panel in 0..weights.panels {
        let steps = weights.bytes[panel * weights.panel_bytes..].chunks_exact(PANEL * bytes);
        let scales = weights.scales.map(|scales| &scales[panel * weights.panel_bytes..]);
        for row in 0..rows {
            // SAFETY: by the caller's duties; one row at a time.
            let results = unsafe { out.row(row, panel) };
            let mut acc = if first { [0.0; PANEL] } else { *results };
            for (step, x) in steps.clone().zip(x.chunks_exact(rows)) {
                for (j, acc) in acc.iter_mut().enumerate() {
                    *acc = element.read(&step[element.place(j) * bytes..]).mul_add(x[row], *acc);
                }
            }
            if let Some(scales) = scales {
                let sums = if weights.sums { *results } else { [0.0; PANEL] };
                for ((acc, sum), &scale) in acc.iter_mut().zip(sums).zip(scales.as_chunks().0) {
                    *acc = acc.mul_add(f32::from_le_bytes(scale), sum);
                }
            }
            *results = acc;
        }
    }
}
