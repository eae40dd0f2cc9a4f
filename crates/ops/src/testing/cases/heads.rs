//! `linear_heads` and `concat_heads`: what is done for each head by itself.

use super::every_format;
use crate::format::Format;
use crate::ops::{Ops, Output};
use crate::testing::check::{check, check_product_of, forward, output};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::{Builder, split};
use crate::testing::reference::{self, Rows};
use crate::testing::requests;
use crate::weight::{Dim, Role, Sharding, Weight};
use nxd_collectives::Axis;

/// Ranks of the case that spreads heads.
const RANKS: usize = 2;

/// Products of the heads of an embedded row with weights, each of which has an embedding.
struct Products {
    pairs: Vec<(Weight, Weight)>,
    /// Columns of the results on all ranks, where they are gathered.
    gathered: Option<usize>,
}

impl Program for Products {
    fn record<O: Ops>(&self, ops: &mut O) {
        for (i, &(x, weight)) in self.pairs.iter().enumerate() {
            let x = ops.embed(x);
            let mut y = ops.linear_heads(&x, weight);
            if let Some(columns) = self.gathered {
                y = ops.gather_columns(y, Axis::Tensor, columns);
            }
            ops.emit(Output::Layer(i), &y);
        }
    }
}

/// Heads of two embedded rows side by side, in every number of heads of a list.
struct Concat {
    x: Weight,
    y: Weight,
    heads: Vec<usize>,
}

impl Program for Concat {
    fn record<O: Ops>(&self, ops: &mut O) {
        let (x, y) = (ops.embed(self.x), ops.embed(self.y));
        for (i, &heads) in self.heads.iter().enumerate() {
            let joined = ops.concat_heads(&x, &y, heads);
            ops.emit(Output::Layer(i), &joined);
        }
    }
}

/// Heads with matrices in every format, outputs that fill panels of a device and such that do not.
pub fn linear_heads<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let vocab = model.random.between(2, 60);
    let mut cases = Vec::new();
    for format in every_format() {
        let (heads, outputs) = (model.random.between(1, 5), model.random.choose(&[1, 5, 16, 24, 32, 33]));
        let inputs = if format.block_len() > 1 { format.block_len() } else { model.random.between(1, 70) };
        let x = model.table(vocab, heads * inputs);
        let weight = model.weight(Role::Heads(outputs), [heads * outputs, inputs], Sharding::Replicated, format);
        cases.push((x, weight, format, outputs));
    }
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let program = Products { pairs: cases.iter().map(|&(x, weight, ..)| (x, weight)).collect(), gathered: None };
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        for (i, &(x, weight, format, outputs)) in cases.iter().enumerate() {
            let (x, weight) = (reference::embed(&model.rows(x), &batch.token_ids), model.rows(weight));
            let what = format!("{} rows times heads of {format} [{outputs}, {}]", x.len(), weight[0].len());
            check_heads(harness, format, what, output(emitted, Output::Layer(i)), [&x, &weight], outputs);
        }
    }
}

/// Heads that are spread over ranks, of which the last is padding.
pub fn linear_heads_over_ranks<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(RANKS, seed);
    let vocab = model.random.between(2, 60);
    let (heads, outputs, inputs) = (3, model.random.between(1, 40), model.random.between(1, 40));
    let each = 2;
    // Each rank has the same input, as ranks have no names here.
    let x = model.table(vocab, each * inputs);
    let sharding = split(Dim::Rows, each * RANKS * outputs, RANKS);
    let weight = model.weight(Role::Heads(outputs), [each * RANKS * outputs, inputs], sharding, Format::F32);
    let columns = heads * outputs;
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &Products { pairs: vec![(x, weight)], gathered: Some(columns) });
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let x = reference::embed(&model.rows(x), &batch.token_ids);
        let x: Rows = x.iter().map(|row| row.repeat(RANKS)[..heads * inputs].to_vec()).collect();
        let weight = model.rows(weight)[..columns].to_vec();
        let what = format!("{heads} heads of [{outputs}, {inputs}] on {RANKS} ranks");
        check_heads(harness, Format::F32, what, output(emitted, Output::Layer(0)), [&x, &weight], outputs);
    }
}

fn check_heads<H: Harness>(
    harness: &H,
    format: Format,
    what: String,
    found: &[f32],
    [x, weight]: [&Rows; 2],
    outputs: usize,
) {
    let product = |x: &Rows, weight: &Rows| reference::linear_heads(x, weight, outputs);
    check_product_of(harness, Op::Linear(format), what, found, [x, weight], product);
}

/// The parts of one head, of several, and of as many as there are columns.
pub fn concat_heads<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let vocab = model.random.between(2, 60);
    let (heads, p, q) = (model.random.between(1, 6), model.random.between(1, 40), model.random.between(1, 40));
    let (x, y) = (model.table(vocab, heads * p), model.table(vocab, heads * q));
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let program = Concat { x, y, heads: vec![1, heads] };
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let [x, y] = [x, y].map(|table| reference::embed(&model.rows(table), &batch.token_ids));
        for (i, &heads) in program.heads.iter().enumerate() {
            let what = format!("{heads} heads of {} and {} columns", x[0].len(), y[0].len());
            let expected = reference::concat_heads(&x, &y, heads);
            check(harness, Op::SelectRows, what, output(emitted, Output::Layer(i)), &expected);
        }
    }
}
