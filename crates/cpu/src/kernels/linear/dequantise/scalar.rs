//! The definition.

use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::{CELL, Cell};

pub(super) fn dequantise(cell: Cell, cells: &[u8], values: &mut [[f32; PANEL]]) {
    let per_group = CELL / cell.groups();
    for (bytes, values) in cells.chunks_exact(cell.bytes()).zip(values.as_chunks_mut::<CELL>().0) {
        let opened = cell.open(bytes);
        for (k, values) in values.iter_mut().enumerate() {
            let group = k / per_group;
            for (j, value) in values.iter_mut().enumerate() {
                let scaled = opened.scales[group][j] * f32::from(opened.quants[k][j]);
                *value = if cell.has_min() { scaled + opened.mins[group][j] } else { scaled };
            }
        }
    }
}
