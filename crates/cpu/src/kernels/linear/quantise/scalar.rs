//! The definition.

use super::{MOST, QuantisedMut, scale_of};
use crate::kernels::linear::cell::CELL;

pub(super) fn quantise(x: &[f32], row: usize, tile: &mut QuantisedMut<'_>) {
    let rows = tile.rows;
    for (block, x) in x.as_chunks::<CELL>().0.iter().enumerate() {
        let largest = x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits()));
        let (scale, factor) = scale_of(largest, MOST);
        let quants = x.map(|x| if scale.is_nan() { 0 } else { (x * factor).round_ties_even() as i8 });
        for (unit, four) in quants.as_chunks::<4>().0.iter().enumerate() {
            tile.quants[((block * 8 + unit) * rows + row) * 4..][..4].copy_from_slice(four);
        }
        let sum = |quants: &[i8]| quants.iter().map(|&q| i32::from(q)).sum::<i32>();
        tile.note(block, row, scale, [sum(&quants[..16]), sum(&quants[16..])]);
    }
}
