//! `add`, `bias`, `scale`, `gated`, and what becomes of operands that are used again.

use super::FLOATS;
use crate::format::Format;
use crate::ops::{Ops, Output};
use crate::spec::Gated;
use crate::testing::check::{check, forward, output};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::Builder;
use crate::testing::reference::{self, Rows};
use crate::testing::requests;
use crate::weight::{Role, Sharding, Weight};

/// Gates lie within ± this, so that every bend of the curves is met.
const GATE: f32 = 6.0;

/// What is done with two embedded rows `x` and `y`; the results are layers 0, 1, ….
enum Do {
    Add,
    Bias(Vec<Weight>),
    Scale(Vec<f32>),
    Gated(Vec<Gated>),
    /// Every op that may update in place, on tensors that somebody else still holds.
    Share {
        bias: Weight,
    },
}

struct Elementwise {
    x: Weight,
    y: Weight,
    what: Do,
}

impl Program for Elementwise {
    fn record<O: Ops>(&self, ops: &mut O) {
        let (x, y) = (ops.embed(self.x), ops.embed(self.y));
        let outs: Vec<O::Tensor> = match &self.what {
            Do::Add => vec![ops.add(x, &y)],
            Do::Bias(biases) => biases.iter().map(|&bias| ops.bias(x.clone(), bias)).collect(),
            Do::Scale(factors) => factors.iter().map(|&factor| ops.scale(x.clone(), factor)).collect(),
            Do::Gated(kinds) => {
                let gate = ops.scale(x, GATE);
                kinds.iter().map(|&kind| ops.gated(gate.clone(), &y, kind)).collect()
            }
            Do::Share { bias } => {
                let twice = ops.add(x.clone(), &x);
                let biased = ops.bias(x.clone(), *bias);
                let scaled = ops.scale(x.clone(), -3.0);
                let gated = ops.gated(x.clone(), &x, Gated::Silu);
                vec![twice, biased, scaled, gated, x, y]
            }
        };
        for (i, out) in outs.iter().enumerate() {
            ops.emit(Output::Layer(i), out);
        }
    }
}

/// Runs `what`, which is made for a number of columns, and compares its results with those of `expect`.
fn run<H: Harness>(
    harness: &mut H,
    seed: u64,
    op: Op,
    what: impl FnOnce(&mut Builder, usize) -> Do,
    expect: impl Fn(&Do, &Rows, &Rows, &dyn Fn(Weight) -> Vec<f64>) -> Vec<Rows>,
) {
    let mut model = Builder::new(1, seed);
    let (vocab, cols) = (model.random.between(2, 60), model.random.between(1, 300));
    let (x, y) = (model.table(vocab, cols), model.table(vocab, cols));
    let program = Elementwise { x, y, what: what(&mut model, cols) };
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let [x, y] = [x, y].map(|table| reference::embed(&model.rows(table), &batch.token_ids));
        let expected = expect(&program.what, &x, &y, &|bias| model.vector(bias));
        assert!(!expected.is_empty(), "a case expects something");
        for (i, expected) in expected.iter().enumerate() {
            let what = format!("result {i} of {} rows of {cols} columns", batch.num_tokens());
            check(harness, op, what, output(emitted, Output::Layer(i)), expected);
        }
    }
}

/// `x + y`.
pub fn add<H: Harness>(harness: &mut H, seed: u64) {
    run(harness, seed, Op::Elementwise, |_, _| Do::Add, |_, x, y, _| vec![reference::zip(x, y, |x, y| x + y)]);
}

/// `x + bias`, with a bias in each plain format.
pub fn bias<H: Harness>(harness: &mut H, seed: u64) {
    let make = |model: &mut Builder, cols: usize| {
        let mut vector = |format: Format| model.weight(Role::Vector, [cols, 1], Sharding::Replicated, format);
        Do::Bias(FLOATS.map(&mut vector).to_vec())
    };
    run(harness, seed, Op::Elementwise, make, |what, x, _, vector| {
        let Do::Bias(biases) = what else { return Vec::new() };
        biases.iter().map(|&bias| reference::bias(x, &vector(bias))).collect()
    });
}

/// `x * factor`.
pub fn scale<H: Harness>(harness: &mut H, seed: u64) {
    let make = |_: &mut Builder, _| Do::Scale(vec![0.37, -12.5, 1.0, 0.0]);
    run(harness, seed, Op::Elementwise, make, |what, x, y, _| {
        let Do::Scale(factors) = what else { return Vec::new() };
        factors.iter().map(|&factor| reference::zip(x, y, |x, _| x * f64::from(factor))).collect()
    });
}

/// `act(gate) * up`, with each activation.
pub fn gated<H: Harness>(harness: &mut H, seed: u64) {
    const KINDS: [Gated; 5] = [Gated::Silu, Gated::Gelu, Gated::GeluTanh, Gated::Relu2, Gated::Clamped { limit: 0.75 }];
    run(
        harness,
        seed,
        Op::Gated,
        |_, _| Do::Gated(KINDS.to_vec()),
        |_, x, y, _| {
            let gate = reference::zip(x, x, |x, _| x * f64::from(GATE));
            KINDS.map(|kind| reference::gated(&gate, y, kind)).to_vec()
        },
    );
}

/// An operand that is held elsewhere keeps its values, whatever is updated in place.
pub fn shared_operands<H: Harness>(harness: &mut H, seed: u64) {
    let make = |model: &mut Builder, cols: usize| Do::Share { bias: model.vector(cols) };
    run(harness, seed, Op::Gated, make, |what, x, y, vector| {
        let Do::Share { bias } = what else { return Vec::new() };
        let twice = reference::zip(x, x, |x, y| x + y);
        let scaled = reference::zip(x, x, |x, _| -3.0 * x);
        let gated = reference::gated(x, x, Gated::Silu);
        vec![twice, reference::bias(x, &vector(*bias)), scaled, gated, x.clone(), y.clone()]
    });
}
