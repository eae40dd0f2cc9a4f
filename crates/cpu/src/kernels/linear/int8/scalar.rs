//! The definition: an exact integer sum for each group of weights that share a scale, then one FMA, and a second one for its minimum. Where
//! an output has one scale for all of K, it multiplies the sum of everything at the end.

use super::{Cells, Tiled};
use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;

/// # Safety
/// A target has as many rows as its tile.
pub(super) unsafe fn multiply(cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    each_panel!(cells, tiles, |tile, out| multiply_panel(cells, tile, out, first));
}

/// # Safety
/// `out` has as many rows as the tile.
unsafe fn multiply_panel(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    let cell = cells.cell;
    let (rows, per_group) = (tile.rows, CELL / cell.groups);
    let (quants, scales) = (tile.quants(), tile.scales());
    for block in 0..cells.bytes.len() / cell.bytes() {
        let opened = cell.open(&cells.bytes[block / cell.block * cell.block_bytes()..], block % cell.block);
        for row in 0..rows {
            // SAFETY: by the caller's duties; one row at a time.
            let acc = unsafe { out.row(row, 0) };
            if first && block == 0 {
                *acc = [0.0; PANEL];
            }
            let scale = scales[block * rows + row];
            let a = |k: usize| i32::from(quants[((block * 8 + k / 4) * rows + row) * 4 + k % 4]);
            for group in 0..cell.groups {
                let range = group * per_group..(group + 1) * per_group;
                let sum: i32 = range.clone().map(a).sum();
                let weighted = scale * sum as f32;
                for (j, acc) in acc.iter_mut().enumerate() {
                    let products: i32 = range.clone().map(|k| i32::from(opened.quants[k][j]) * a(k)).sum();
                    *acc = (opened.scales[group][j] * scale).mul_add(products as f32, *acc);
                    if cell.min {
                        *acc = opened.mins[group][j].mul_add(weighted, *acc);
                    }
                }
            }
        }
    }
    let Some(scales) = cells.scales else { return };
    for row in 0..rows {
        // SAFETY: as above.
        let acc = unsafe { out.row(row, 0) };
        acc.iter_mut().zip(scales.as_chunks().0).for_each(|(acc, &scale)| *acc *= f32::from_le_bytes(scale));
    }
}
