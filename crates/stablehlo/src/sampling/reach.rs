//! Running sums over long rows, without computing them all: blocks are summed, and only the block that matters is looked into.

use super::graph::repeat;
use crate::record::{Element, Fold, Order, Pairs, Recorder, Value};

/// The first place of each row, i32 `[S]`, at which the running sum of `weights` f32 `[S, N]` is in `order` to `fraction` f32 `[S]` of the
/// whole; the last place with a weight if rounding leaves that unreached. Only places with a weight count; 0 where none has one.
pub(super) fn reach(rec: &mut Recorder, weights: &Value, fraction: &Value, order: Order) -> Value {
    let blocks = in_blocks(rec, weights);
    let [rows, count, width] = *blocks.dims() else { unreachable!("blocks have three dimensions") };
    let sums = rec.reduce(&blocks, Fold::Add, 2);
    let running = running_sums(rec, &sums);
    let total = rec.slice(&running, 1, count - 1..count);
    let total = rec.reshape(&total, &[rows]);
    let target = rec.multiply(fraction, &total);
    let block = first(rec, &running, &sums, &target, order);

    let zero = rec.splat(0.0, running.dims(), Element::F32);
    let index = rec.iota(1, running.dims(), Element::I32);
    let chosen = repeat(rec, &block, running.dims());
    let is_before = rec.compare(Order::Lt, &index, &chosen);
    let before = rec.select(&is_before, &running, &zero);
    let before = rec.reduce(&before, Fold::Max, 1);

    let row = rec.iota(0, &[rows], Element::I32);
    let start = rec.splat(count as f64, &[rows], Element::I32);
    let start = rec.multiply(&row, &start);
    let place = rec.add(&start, &block);
    let table = rec.reshape(&blocks, &[rows * count, width]);
    let inside = rec.take_rows(&table, &place);
    let running = running_sums(rec, &inside);
    let before = repeat(rec, &before, running.dims());
    let running = rec.add(&before, &running);
    let place = first(rec, &running, &inside, &target, order);

    let width = rec.splat(width as f64, &[rows], Element::I32);
    let start = rec.multiply(&block, &width);
    rec.add(&start, &place)
}

/// The sum of each row of `x` f32 `[S, N]`: `[S]`.
pub(super) fn sum(rec: &mut Recorder, x: &Value) -> Value {
    let blocks = in_blocks(rec, x);
    let sums = rec.reduce(&blocks, Fold::Add, 2);
    // Compilers may join both reductions to one long sum, whose rounding errors grow with the row.
    let sums = rec.barrier(&sums);
    rec.reduce(&sums, Fold::Add, 1)
}

/// `x` `[S, N]` as `[S, C, B]`, zeros at the end: about as many blocks as elements a block.
fn in_blocks(rec: &mut Recorder, x: &Value) -> Value {
    let (rows, len) = (x.dims()[0], x.dims()[1]);
    let width = len.isqrt().next_power_of_two();
    let count = len.div_ceil(width);
    let padded = rec.pad(x, 1, 0, count * width - len);
    rec.reshape(&padded, &[rows, count, width])
}

/// The sums of the elements up to each, this included, of `x` f32 `[S, N]`: a product with ones above the diagonal.
fn running_sums(rec: &mut Recorder, x: &Value) -> Value {
    let len = x.dims()[1];
    let from = rec.iota(0, &[len, len], Element::I32);
    let to = rec.iota(1, &[len, len], Element::I32);
    let counts = rec.compare(Order::Le, &from, &to);
    let counts = rec.convert(&counts, Element::F32);
    rec.dot(x, &counts, Pairs { batch: (&[], &[]), contract: (&[1], &[0]) })
}

/// As [`reach`], given the running sums `[S, N]` and what they must be compared with, `[S]`.
fn first(rec: &mut Recorder, running: &Value, weights: &Value, target: &Value, order: Order) -> Value {
    let dims = running.dims().to_vec();
    let zero = rec.splat(0.0, &dims, Element::F32);
    let target = repeat(rec, target, &dims);
    let has_weight = rec.compare(Order::Gt, weights, &zero);
    let is_reached = rec.compare(order, running, &target);
    // Sums of different blocks round differently, so a place without a weight might seem to be the first.
    let passes = rec.and(&has_weight, &is_reached);
    let index = rec.iota(1, &dims, Element::I32);
    let beyond = rec.splat(dims[1] as f64, &dims, Element::I32);
    let none = rec.splat(0.0, &dims, Element::I32);
    let passing = rec.select(&passes, &index, &beyond);
    let first = rec.reduce(&passing, Fold::Min, 1);
    let weighty = rec.select(&has_weight, &index, &none);
    let last = rec.reduce(&weighty, Fold::Max, 1);
    rec.minimum(&first, &last)
}
