//! The definition: one FMA after another along K.

use super::Weights;
use crate::kernels::linear::PANEL;
use crate::kernels::linear::tile::Target;

/// # Safety
/// `out` has `rows` rows of `weights.panels` panels.
pub(super) unsafe fn multiply(weights: Weights<'_>, x: &[f32], rows: usize, out: Target, first: bool) {
    let (element, bytes) = (weights.element, weights.element.bytes());
    for panel in 0..weights.panels {
        let steps = weights.bytes[panel * weights.panel_bytes..].chunks_exact(PANEL * bytes);
        for row in 0..rows {
            // SAFETY: by the caller's duties; one row at a time.
            let acc = unsafe { out.row(row, panel) };
            if first {
                *acc = [0.0; PANEL];
            }
            for (step, x) in steps.clone().zip(x.chunks_exact(rows)) {
                for (j, acc) in acc.iter_mut().enumerate() {
                    *acc = element.read(&step[element.place(j) * bytes..]).mul_add(x[row], *acc);
                }
            }
        }
    }
}
