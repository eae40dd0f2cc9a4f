//! `embed` and `select_rows`: rows are copied, and decoded.

use super::every_format;
use crate::format::Format;
use crate::ops::{Ops, Output, Rows};
use crate::testing::check::{check, check_product, forward, output};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::Builder;
use crate::testing::{reference, requests};
use crate::weight::{Role, Sharding, Weight};

/// Embeds with each table.
struct Embed(Vec<Weight>);

impl Program for Embed {
    fn record<O: Ops>(&self, ops: &mut O) {
        for (i, &table) in self.0.iter().enumerate() {
            let x = ops.embed(table);
            ops.emit(Output::Layer(i), &x);
        }
    }
}

/// Embeds, keeps the wanted rows, and shows both.
struct Select(Weight);

impl Program for Select {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.0);
        ops.emit(Output::Embedding, &x);
        let x = ops.select_rows(&x, Rows::Wanted);
        ops.emit(Output::Hidden, &x);
    }
}

/// Embeds, and multiplies by the same table.
struct Tied(Weight);

impl Program for Tied {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.0);
        ops.emit(Output::Embedding, &x);
        let y = ops.linear(&x, self.0);
        ops.emit(Output::Layer(0), &y);
    }
}

/// A table in each format.
pub fn embed<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let vocab = model.random.between(2, 60);
    let formats = every_format();
    let mut table = |&format: &Format| {
        let blocks = model.random.between(1, if format.is_quantised() { 2 } else { 80 });
        model.weight(Role::Embedding, [vocab, blocks * format.block_len()], Sharding::Replicated, format)
    };
    let program = Embed(formats.iter().map(&mut table).collect());
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        for (i, (&format, &table)) in formats.iter().zip(&program.0).enumerate() {
            let expected = reference::embed(&model.rows(table), &batch.token_ids);
            let what = format!("rows of a table of {format}");
            check(harness, Op::Embed(format), what, output(emitted, Output::Layer(i)), &expected);
        }
    }
}

/// A table that is a matrix too, as tied LM heads are, in each kind of format.
pub fn embed_tied<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let formats = every_format();
    let format = formats[seed as usize * 5 % formats.len()];
    let vocab = model.random.between(2, 60);
    let blocks = model.random.between(1, 3);
    let shape = [vocab, blocks * format.block_len().max(32)];
    let table = model.weight(Role::TiedEmbedding, shape, Sharding::Replicated, format);
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &Tied(table));
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let rows = model.rows(table);
        let x = reference::embed(&rows, &batch.token_ids);
        check(harness, Op::Embed(format), format!("rows of {format}"), output(emitted, Output::Embedding), &x);
        let what = format!("products with the table of {format} {shape:?}");
        check_product(harness, Op::Linear(format), what, output(emitted, Output::Layer(0)), [&x, &rows]);
    }
}

/// The wanted rows, also when there are none.
pub fn select_rows<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (vocab, cols) = (model.random.between(2, 60), model.random.between(1, 70));
    let table = model.table(vocab, cols);
    let mut batches = requests::batches(&mut model.random, vocab);
    // A chunk in the middle of a prefill wants nothing; all rows are wanted where prompts are scored.
    batches.push(requests::batch(&mut model.random, vocab, &[3, 4]));
    batches[2].wanted.clear();
    batches.push(requests::batch(&mut model.random, vocab, &[5]));
    batches[3].wanted = (0..5).collect();
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &Select(table));
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let x = reference::embed(&model.rows(table), &batch.token_ids);
        check(harness, Op::SelectRows, "all rows", output(emitted, Output::Embedding), &x);
        let wanted = batch.wanted.iter().map(|&row| x[row as usize].clone()).collect();
        check(harness, Op::SelectRows, "wanted rows", output(emitted, Output::Hidden), &wanted);
    }
}
