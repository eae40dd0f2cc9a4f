//! `linear`, `linears`, `linear_gated` and `head`, with weights in every format.

use super::{FLOATS, SCALED, every_format};
use crate::format::{BlockFormat, Format};
use crate::ops::{Input, Ops, Output};
use crate::sampling::{SamplingBatch, SamplingRow};
use crate::spec::Gated;
use crate::testing::check::{check, check_product, forward, output, rows_of};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::Builder;
use crate::testing::{reference, requests};
use crate::weight::Weight;

/// Multiplies an embedded row with each weight, one by one or three at once.
struct Products {
    x: Weight,
    weights: Vec<Weight>,
    at_once: bool,
}

impl Program for Products {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.x);
        let products: Vec<O::Tensor> = match self.weights[..] {
            [a, b, c] if self.at_once => ops.linears(&x, [a, b, c]).into(),
            _ => self.weights.iter().map(|&weight| ops.linear(&x, weight)).collect(),
        };
        for (i, product) in products.iter().enumerate() {
            ops.emit(Output::Layer(i), product);
        }
    }
}

/// Both products of an embedded row and their gated product.
struct GatedProducts {
    x: Weight,
    gate: Weight,
    up: Weight,
    activation: Gated,
}

impl Program for GatedProducts {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.x);
        for (i, weight) in [self.gate, self.up].into_iter().enumerate() {
            let product = ops.linear(&x, weight);
            ops.emit(Output::Layer(i), &product);
        }
        let gated = ops.linear_gated(&x, self.gate, self.up, self.activation);
        ops.emit(Output::Layer(2), &gated);
    }
}

/// The logits of the rows that the step starts from.
struct Head(Weight);

impl Program for Head {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.input(Input::Hidden);
        let logits = ops.head(&x, self.0);
        ops.emit(Output::Logits, &logits);
    }
}

/// What varies between the cases.
#[derive(Clone, Copy, Default)]
struct Options {
    at_once: bool,
    permuted: bool,
}

/// A product of the same `inputs` columns with a weight in each of `formats`, each with its own number of outputs.
fn run<H: Harness>(harness: &mut H, mut model: Builder, inputs: usize, formats: &[Format], options: Options) {
    let vocab = model.random.between(2, 60);
    let x = model.table(vocab, inputs);
    let mut weights = Vec::new();
    for &format in formats {
        let outputs = model.random.between(1, 70);
        weights.push(model.matrix(outputs, inputs, format));
        if options.permuted {
            model.permute_rows();
        }
    }
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let program = Products { x, weights, at_once: options.at_once };
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let x = reference::embed(&model.rows(x), &batch.token_ids);
        for (i, (&format, &weight)) in formats.iter().zip(&program.weights).enumerate() {
            let weight = model.rows(weight);
            let what = format!("{} rows times {format} [{}, {inputs}]", x.len(), weight.len());
            check_product(harness, Op::Linear(format), what, output(emitted, Output::Layer(i)), [&x, &weight]);
        }
    }
}

/// Weights of plain floats, of any shape.
pub fn linear_floats<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let inputs = model.random.between(1, 300);
    run(harness, model, inputs, &FLOATS, Options::default());
}

/// Weights of bytes under scales, of any shape.
pub fn linear_scaled<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let inputs = model.random.between(1, 300);
    run(harness, model, inputs, &SCALED, Options::default());
}

/// Weights in every block format.
pub fn linear_blocks<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let inputs = 256 * model.random.between(1, 3);
    run(harness, model, inputs, &BlockFormat::ALL.map(Format::Blocks), Options::default());
    // Formats of short blocks allow widths that are no multiple of the long ones'.
    let mut model = Builder::new(1, seed + 100);
    let inputs = 32 * model.random.between(1, 15);
    let short = BlockFormat::ALL.into_iter().filter(|format| format.block_len() == 32).map(Format::Blocks);
    run(harness, model, inputs, &short.collect::<Vec<_>>(), Options::default());
}

/// Weights whose rows are stored in another order.
pub fn linear_permuted<H: Harness>(harness: &mut H, seed: u64) {
    let blocks = [BlockFormat::Q4_K, BlockFormat::Q8_0].map(Format::Blocks);
    let formats = [&[Format::F32, Format::BF16, Format::I8, Format::E4M3], &blocks[..]].concat();
    run(harness, Builder::new(1, seed), 256, &formats, Options { permuted: true, ..Options::default() });
}

/// Three weights at once, of different formats and widths.
pub fn linears<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let formats = [0; 3].map(|_| model.random.choose(&every_format()));
    run(harness, model, 256, &formats, Options { at_once: true, ..Options::default() });
}

/// A gated product, against the activation of the device's own products.
pub fn linear_gated<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let vocab = model.random.between(2, 60);
    let outputs = model.random.between(1, 70);
    let x = model.table(vocab, 256);
    let [gate, up] = [0; 2].map(|_| {
        let format = model.random.choose(&every_format());
        model.matrix(outputs, 256, format)
    });
    let activation = model.random.choose(&[Gated::Silu, Gated::Gelu, Gated::GeluTanh, Gated::Clamped { limit: 2.0 }]);
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &GatedProducts { x, gate, up, activation });
    for emitted in &emitted {
        let [gate, up] = [0, 1].map(|i| rows_of(output(emitted, Output::Layer(i)), outputs));
        let expected = reference::gated(&gate, &up, activation);
        let what = format!("{activation:?} product of {outputs} outputs");
        check(harness, Op::Gated, what, output(emitted, Output::Layer(2)), &expected);
    }
}

/// Logits, with a head of each plain format and some block formats.
pub fn head<H: Harness>(harness: &mut H, seed: u64) {
    for format in FLOATS.into_iter().chain(SCALED).chain([Format::Blocks(BlockFormat::Q6_K)]) {
        let mut model = Builder::new(1, seed);
        let (vocab, inputs) = (model.random.between(2, 200), format.block_len().max(32) * model.random.between(1, 3));
        let weight = model.matrix(vocab, inputs, format);
        let count = model.random.between(1, 5);
        let hidden = model.random.values(count * inputs);
        let model = model.finish();
        let sampling = SamplingBatch { rows: vec![SamplingRow::default(); count], keep_logits: true };
        let result = harness.sample(&model, &hidden, &sampling, &Head(weight));
        let (x, weight) = (rows_of(&hidden, inputs), model.rows(weight));
        let what = format!("{count} rows times a head of {format} [{vocab}, {inputs}]");
        check_product(harness, Op::Head(format), what, &result.logits, [&x, &weight]);
    }
}
