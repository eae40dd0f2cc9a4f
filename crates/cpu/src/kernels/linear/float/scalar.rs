//! The definition: one FMA after another along K, with numbers that were multiplied with their scale and rounded, where they have one.

use super::Weights;
use crate::kernels::linear::PANEL;
use crate::kernels::linear::tile::Target;

/// # Safety
/// `out` has `rows` rows of `weights.panels` panels.
pub(super) unsafe fn multiply(weights: Weights<'_>, x: &[f32], rows: usize, out: Target, first: bool) {
    let (element, bytes) = (weights.element, weights.element.bytes());
    for panel in 0..weights.panels {
        let scale = |j: usize| {
            let at = panel * weights.panel_bytes + j * 4;
            element.is_scaled().then(|| f32::from_le_bytes(std::array::from_fn(|i| weights.scales[at + i])))
        };
        let scales: [Option<f32>; PANEL] = std::array::from_fn(scale);
        let steps = weights.bytes[panel * weights.panel_bytes..].chunks_exact(PANEL * bytes);
        for row in 0..rows {
            // SAFETY: by the caller's duties; one row at a time.
            let acc = unsafe { out.row(row, panel) };
            if first {
                *acc = [0.0; PANEL];
            }
            for (step, x) in steps.clone().zip(x.chunks_exact(rows)) {
                for (j, acc) in acc.iter_mut().enumerate() {
                    let number = element.read(&step[element.place(j) * bytes..]);
                    *acc = scales[j].map_or(number, |scale| number * scale).mul_add(x[row], *acc);
                }
            }
        }
    }
}
