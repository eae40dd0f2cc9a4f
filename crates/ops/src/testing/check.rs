//! Comparing what a device gave with the reference.

use super::harness::{Emitted, Harness, KvSetup, Op, Program};
use super::model::Model;
use super::reference::{self, Rows};
use crate::batch::Batch;
use crate::ops::Output;
use std::fmt::Display;

/// Runs a program without KV layers, on batches that were checked first.
pub(super) fn forward<H: Harness, P: Program>(
    harness: &mut H,
    model: &Model,
    batches: &[Batch],
    program: &P,
) -> Vec<Emitted> {
    let block_size = harness.block_size();
    forward_with(harness, model, &KvSetup { num_blocks: Vec::new(), block_size }, batches, program)
}

/// Runs a program on batches that were checked first.
pub(super) fn forward_with<H: Harness, P: Program>(
    harness: &mut H,
    model: &Model,
    kv: &KvSetup,
    batches: &[Batch],
    program: &P,
) -> Vec<Emitted> {
    let groups: Vec<_> = model.manifest.kv_groups().into_iter().zip(kv.num_blocks.iter().copied()).collect();
    for batch in batches {
        batch.validate(model.vocab_size(), &groups, kv.block_size).expect("the suite makes batches that fit");
    }
    let emitted = harness.forward(model, kv, batches, program);
    assert_eq!(emitted.len(), batches.len(), "steps that the device answered");
    emitted
}

/// What was emitted as `output`.
pub(super) fn output(emitted: &Emitted, output: Output) -> &[f32] {
    let mut found = emitted.iter().filter(|(name, _)| *name == output);
    let values = found.next().map(|(_, values)| values.as_slice());
    assert!(found.next().is_none(), "{output:?} was emitted twice");
    values.unwrap_or_else(|| panic!("{output:?} was not emitted"))
}

/// Panics unless `found` is as close to `expected` as the device promises for `op`.
pub(super) fn check<H: Harness>(harness: &H, op: Op, what: impl Display, found: &[f32], expected: &Rows) {
    check_rows(harness, op, what, found, expected, |_| true);
}

/// As [`check`], for the rows that `wanted` names.
pub(super) fn check_rows<H: Harness>(
    harness: &H,
    op: Op,
    what: impl Display,
    found: &[f32],
    expected: &Rows,
    wanted: impl Fn(usize) -> bool,
) {
    let checked: Rows =
        expected.iter().enumerate().filter(|(row, _)| wanted(*row)).map(|(_, row)| row.clone()).collect();
    let allowed = harness.tolerance(op) * largest(&checked);
    compare(op, what, found, expected, allowed, wanted);
}

/// Panics unless `found` is as close to `x · weightᵀ` as the device promises for `op`, which is a product.
pub(super) fn check_product<H: Harness>(harness: &H, op: Op, what: impl Display, found: &[f32], factors: [&Rows; 2]) {
    check_product_of(harness, op, what, found, factors, reference::linear);
}

/// As [`check_product`], for what `product` makes of the two.
pub(super) fn check_product_of<H: Harness>(
    harness: &H,
    op: Op,
    what: impl Display,
    found: &[f32],
    [x, weight]: [&Rows; 2],
    product: impl Fn(&Rows, &Rows) -> Rows,
) {
    let magnitudes =
        |rows: &Rows| -> Rows { rows.iter().map(|row| row.iter().map(|value| value.abs()).collect()).collect() };
    let uncancelled = product(&magnitudes(x), &magnitudes(weight));
    let allowed = harness.tolerance(op) * largest(&uncancelled);
    compare(op, what, found, &product(x, weight), allowed, |_| true);
}

fn largest(rows: &Rows) -> f64 {
    rows.iter().flatten().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn compare(op: Op, what: impl Display, found: &[f32], expected: &Rows, allowed: f64, wanted: impl Fn(usize) -> bool) {
    let cols = expected.first().map_or(0, Vec::len);
    assert_eq!(found.len(), expected.len() * cols, "{what}: values that were emitted");
    for (row, expected) in expected.iter().enumerate().filter(|(row, _)| wanted(*row)) {
        for (column, (&found, &expected)) in found[row * cols..].iter().zip(expected).enumerate() {
            let distance = (f64::from(found) - expected).abs();
            // Not `distance > allowed`: that is false for a NaN.
            let close = distance <= allowed;
            assert!(
                close,
                "{what}: row {row}, column {column} is {found}, expected {expected}; \
                 they differ by {distance:e}, {op:?} may by {allowed:e}"
            );
        }
    }
}

/// Plain numbers as rows of `cols`.
pub(super) fn rows_of(values: &[f32], cols: usize) -> Rows {
    values.chunks(cols).map(|row| row.iter().map(|&value| f64::from(value)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_the_tolerance_passes() {
        compare(Op::Norm, "close", &[1.0, 2.5], &vec![vec![1.25], vec![2.25]], 0.25, |_| true);
        compare(Op::Norm, "one row", &[1.0, f32::NAN], &vec![vec![1.0], vec![2.0]], 0.0, |row| row == 0);
    }

    #[test]
    #[should_panic(expected = "far: row 1, column 0 is 2.5, expected 2; they differ by 5e-1, Norm may by 2.5e-1")]
    fn what_is_too_far_is_named() {
        compare(Op::Norm, "far", &[1.0, 2.5], &vec![vec![1.0], vec![2.0]], 0.25, |_| true);
    }

    #[test]
    #[should_panic(expected = "row 0, column 1 is NaN")]
    fn a_nan_is_close_to_nothing() {
        compare(Op::Norm, "lost", &[1.0, f32::NAN], &vec![vec![1.0, 2.0]], f64::INFINITY, |_| true);
    }

    #[test]
    #[should_panic(expected = "values that were emitted")]
    fn missing_values_are_noticed() {
        compare(Op::Norm, "short", &[1.0], &vec![vec![1.0, 2.0]], 1.0, |_| true);
    }
}
