//! The definition.

use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::{CELL, Cell};

pub(super) fn dequantise(cell: Cell, scales: &[f32; PANEL], cells: &[u8], values: &mut [[f32; PANEL]]) {
    let per_group = CELL / cell.groups;
    for (index, values) in values.as_chunks_mut::<CELL>().0.iter_mut().enumerate() {
        let opened = cell.open(&cells[index / cell.block * cell.block_bytes()..], index % cell.block);
        for (k, values) in values.iter_mut().enumerate() {
            let group = k / per_group;
            for (j, value) in values.iter_mut().enumerate() {
                let scale = if cell.has_factors() { opened.scales[group][j] } else { scales[j] };
                let scaled = scale * f32::from(opened.quants[k][j]);
                *value = if cell.min { scaled + opened.mins[group][j] } else { scaled };
            }
        }
    }
}
