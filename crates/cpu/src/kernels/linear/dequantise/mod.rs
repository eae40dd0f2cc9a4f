//! Cells back to f32, for exact activations: `scale * q`, then `+ min`, each rounded, as `LocalWeight::decode` has it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::PANEL;
use super::cell::{CELL, Cell};
use crate::isa::Isa;

/// The values of neighbouring cells, `[k][16]`. `scales` are those of the panel's outputs, where cells have no factors.
///
/// # Safety
/// The CPU has the instructions of `isa`.
///
/// # Panics
/// When `values` has another length.
pub(super) unsafe fn dequantise(
    isa: Isa,
    cell: Cell,
    scales: &[f32; PANEL],
    cells: &[u8],
    values: &mut [[f32; PANEL]],
) {
    assert_eq!(cells.len() / cell.bytes() * CELL, values.len(), "values of the cells");
    match isa.vectors() {
        // SAFETY: by the caller's duties; the lengths were checked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::dequantise(cell, scales, cells, values) },
        // SAFETY: NEON is part of AArch64.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::NeonDot => unsafe { neon::dequantise(cell, scales, cells, values) },
        _ => scalar::dequantise(cell, scales, cells, values),
    }
}
