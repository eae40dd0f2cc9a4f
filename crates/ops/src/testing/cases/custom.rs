//! `custom`: a kernel that the device does not have is its composition.

use crate::kernel::{Attribute, Kernel};
use crate::ops::{Ops, Output};
use crate::testing::check::{check, forward, output};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::Builder;
use crate::testing::{reference, requests};
use crate::weight::Weight;

/// `factor * (x + y) + bias`, and the sum.
struct ScaledSum {
    factor: f32,
}

impl Kernel for ScaledSum {
    fn name(&self) -> &str {
        "op_suite.scaled_sum"
    }

    fn outputs(&self, inputs: &[[usize; 2]]) -> Vec<[usize; 2]> {
        vec![inputs[0]; 2]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("factor", Attribute::Float(self.factor))]
    }

    fn compose<O: Ops>(&self, ops: &mut O, inputs: &[&O::Tensor], weights: &[Weight]) -> Vec<O::Tensor> {
        let sum = ops.add(inputs[0].clone(), inputs[1]);
        let scaled = ops.scale(sum.clone(), self.factor);
        vec![ops.bias(scaled, weights[0]), sum]
    }
}

struct Custom {
    x: Weight,
    y: Weight,
    bias: Weight,
    kernel: ScaledSum,
}

impl Program for Custom {
    fn record<O: Ops>(&self, ops: &mut O) {
        let (x, y) = (ops.embed(self.x), ops.embed(self.y));
        let results = ops.custom(&self.kernel, &[&x, &y], &[self.bias]);
        for (i, result) in results.iter().enumerate() {
            ops.emit(Output::Layer(i), result);
        }
    }
}

/// A kernel with two inputs, a weight, an attribute and two results.
pub fn custom<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (vocab, cols) = (model.random.between(2, 60), model.random.between(1, 100));
    let (x, y, bias) = (model.table(vocab, cols), model.table(vocab, cols), model.vector(cols));
    let program = Custom { x, y, bias, kernel: ScaledSum { factor: -1.75 } };
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let [x, y] = [x, y].map(|table| reference::embed(&model.rows(table), &batch.token_ids));
        let sum = reference::zip(&x, &y, |x, y| x + y);
        let scaled = reference::zip(&sum, &sum, |sum, _| f64::from(program.kernel.factor) * sum);
        let expected = [reference::bias(&scaled, &model.vector(bias)), sum];
        for (i, expected) in expected.iter().enumerate() {
            let what = format!("result {i} of {cols} columns");
            check(harness, Op::Elementwise, what, output(emitted, Output::Layer(i)), expected);
        }
    }
}
