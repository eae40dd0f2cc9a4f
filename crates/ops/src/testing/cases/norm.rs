//! `norm` and `add_norm`.

use crate::Format;
use crate::ops::{Ops, Output};
use crate::spec::{Centre, NormSpec, Spread};
use crate::testing::check::{check, forward, output};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::{Builder, Model, split};
use crate::testing::reference::{self, Rows};
use crate::testing::requests;
use crate::weight::{Dim, Role, Weight};
use nxd_collectives::Axis;

/// Normalises an embedded row in each way.
struct Norm {
    x: Weight,
    specs: Vec<NormSpec>,
}

impl Program for Norm {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.x);
        for (i, spec) in self.specs.iter().enumerate() {
            let y = ops.norm(&x, spec);
            ops.emit(Output::Layer(i), &y);
        }
    }
}

/// Adds two embedded rows, and shows the sum and its norm.
struct AddNorm {
    residual: Weight,
    x: Weight,
    spec: NormSpec,
}

impl Program for AddNorm {
    fn record<O: Ops>(&self, ops: &mut O) {
        let (residual, x) = (ops.embed(self.residual), ops.embed(self.x));
        let (sum, normed) = ops.add_norm(residual, &x, &self.spec);
        ops.emit(Output::Layer(0), &sum);
        ops.emit(Output::Layer(1), &normed);
    }
}

/// A table whose first token is all zeros, where only `eps` keeps the norm finite, and whose second is so small that `eps` counts.
fn table(model: &mut Builder, vocab: usize, cols: usize) -> Weight {
    let mut values = model.random.values(vocab * cols);
    values[..cols].fill(0.0);
    values[cols..2 * cols].iter_mut().for_each(|value| *value *= 0.003);
    model.table_of(cols, &values)
}

fn expected(model: &Model, spec: &NormSpec, x: &Rows) -> Rows {
    let vector = |vector: Option<Weight>, default| vector.map_or(vec![default], |vector| model.vector(vector));
    // Without a weight there is nothing that an offset is added to.
    let weight = vector(spec.weight, 1.0 - f64::from(spec.offset));
    reference::norm(x, spec, &weight, &vector(spec.bias, 0.0))
}

/// Norms of `groups` groups of `width` columns: as they are, around one, and with another `eps`.
fn run<H: Harness>(harness: &mut H, mut model: Builder, width: usize, groups: usize) {
    let vocab = model.random.between(2, 8);
    let x = table(&mut model, vocab, width * groups);
    let plain = model.norm(width, 0.0);
    let around_one = model.norm(width, 1.0);
    let of_columns = model.vector(width * groups);
    let centre = Centre::Mean;
    let specs = vec![
        plain,
        around_one,
        NormSpec { eps: 0.01, ..plain },
        NormSpec { weight: None, ..plain },
        NormSpec { centre, ..plain },
        NormSpec { centre, bias: plain.weight, ..around_one },
        NormSpec { centre, weight: Some(of_columns), bias: Some(of_columns), ..plain },
    ];
    let program = Norm { x, specs };
    let mut batches = requests::batches(&mut model.random, vocab);
    batches[1].token_ids[..2].copy_from_slice(&[0, 1]);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let x = reference::embed(&model.rows(x), &batch.token_ids);
        for (i, spec) in program.specs.iter().enumerate() {
            let what = format!("norm {i} of {groups} groups of {width} columns");
            check(harness, Op::Norm, what, output(emitted, Output::Layer(i)), &expected(&model, spec, &x));
        }
    }
}

/// Whole rows, the weight as it is and as a distance from one.
pub fn norm<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let width = model.random.between(1, 300);
    run(harness, model, width, 1);
}

/// Each head on its own, with one weight for all.
pub fn norm_of_heads<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (width, heads) = (model.random.between(2, 130), model.random.between(2, 6));
    run(harness, model, width, heads);
}

/// The sum and its norm.
pub fn add_norm<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (vocab, cols) = (model.random.between(2, 60), model.random.between(1, 300));
    let (residual, x) = (model.table(vocab, cols), model.table(vocab, cols));
    let program = AddNorm { residual, x, spec: model.norm(cols, 1.0) };
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let [residual, x] = [residual, x].map(|table| reference::embed(&model.rows(table), &batch.token_ids));
        let sum = reference::zip(&residual, &x, |residual, x| residual + x);
        check(harness, Op::Elementwise, format!("sum of {cols} columns"), output(emitted, Output::Layer(0)), &sum);
        let normed = expected(&model, &program.spec, &sum);
        check(harness, Op::Norm, format!("norm of {cols} columns"), output(emitted, Output::Layer(1)), &normed);
    }
}

/// A norm of rows that a product spreads over two ranks, padding included.
struct SpreadNorm {
    x: Weight,
    up: Weight,
    spec: NormSpec,
    columns: usize,
}

impl Program for SpreadNorm {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.x);
        let inner = ops.linear(&x, self.up);
        let normed = ops.norm(&inner, &self.spec);
        let all = ops.gather_columns(normed, Axis::Tensor, self.columns);
        ops.emit(Output::Layer(0), &all);
    }
}

/// The root mean square of a row whose columns lie on two ranks.
pub fn norm_over_ranks<H: Harness>(harness: &mut H, seed: u64) {
    const RANKS: usize = 2;
    let mut model = Builder::new(RANKS, seed);
    let (vocab, cols, columns) =
        (model.random.between(2, 60), model.random.between(1, 60), model.random.between(3, 90));
    let spread = Some(Spread { axis: Axis::Tensor, copies: 1 });
    let rows = || split(Dim::Rows, columns, RANKS);
    let x = model.table(vocab, cols);
    let up = model.weight(Role::Matrix, [columns, cols], rows(), Format::F32);
    let weight = Some(model.weight(Role::Vector, [columns, 1], rows(), Format::F32));
    let spec = NormSpec { centre: Centre::Zero, weight, bias: None, width: columns, eps: 1e-5, offset: 1.0, spread };
    let program = SpreadNorm { x, up, spec, columns };
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let x = reference::embed(&model.rows(x), &batch.token_ids);
        let inner = reference::linear(&x, &model.rows(up));
        let what = format!("norm of {columns} columns on {RANKS} ranks");
        check(harness, Op::SpreadNorm, what, output(emitted, Output::Layer(0)), &expected(&model, &spec, &inner));
    }
}
