//! Two ranks: weights cut in every way, and the collectives that go with the cuts.

use super::every_format;
use crate::format::Format;
use crate::ops::{Input, Ops, Output};
use crate::sampling::{SamplingBatch, SamplingRow};
use crate::spec::{AttendSpec, KvLayer, KvSpec, Values};
use crate::testing::check::{check, check_product, forward, forward_with, output, rows_of};
use crate::testing::harness::{Harness, KvSetup, Op, Program};
use crate::testing::model::{Builder, split};
use crate::testing::reference::{self, Rows};
use crate::testing::requests::{self, script};
use crate::weight::{Dim, Role, Segment, ShardLayout, Sharding, Weight};
use nxd_collectives::Axis;
use std::sync::Arc;

const RANKS: usize = 2;

/// The sum and the columns of what every rank embeds alike.
struct Collect {
    x: Weight,
    columns: usize,
}

impl Program for Collect {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.x);
        let sum = ops.all_reduce(x.clone(), Axis::Tensor);
        ops.emit(Output::Layer(0), &sum);
        let side_by_side = ops.gather_columns(x, Axis::Tensor, self.columns);
        ops.emit(Output::Layer(1), &side_by_side);
    }
}

/// Embeds with tables whose rows are spread over the ranks.
struct Embed(Vec<Weight>);

impl Program for Embed {
    fn record<O: Ops>(&self, ops: &mut O) {
        for (i, &table) in self.0.iter().enumerate() {
            let rows = ops.embed(table);
            let x = ops.all_reduce(rows, Axis::Tensor);
            ops.emit(Output::Layer(i), &x);
        }
    }
}

/// To inner columns that are spread over the ranks, and back, as an MLP does.
struct Mlp {
    x: Weight,
    up: Weight,
    bias: Weight,
    down: Weight,
}

impl Program for Mlp {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.x);
        let inner = ops.linear(&x, self.up);
        let inner = ops.bias(inner, self.bias);
        let y = ops.linear(&inner, self.down);
        let y = ops.all_reduce(y, Axis::Tensor);
        ops.emit(Output::Layer(0), &y);
    }
}

/// The logits of a head that is spread over the ranks.
struct Head {
    weight: Weight,
    vocab_size: usize,
}

impl Program for Head {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.input(Input::Hidden);
        let logits = ops.head(&x, self.weight);
        let logits = ops.gather_columns(logits, Axis::Tensor, self.vocab_size);
        ops.emit(Output::Logits, &logits);
    }
}

/// Attention whose heads are spread over the ranks.
struct Attention {
    x: Weight,
    q: Weight,
    k: Weight,
    v: Weight,
    kv: KvLayer,
    spec: AttendSpec,
    columns: usize,
}

impl Program for Attention {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.x);
        let [q, k, v] = ops.linears(&x, [self.q, self.k, self.v]);
        ops.kv_write(self.kv, &k, Some(&v));
        let y = ops.attend(&q, self.kv, &self.spec);
        let y = ops.gather_columns(y, Axis::Tensor, self.columns);
        ops.emit(Output::Layer(0), &y);
    }
}

fn collect<H: Harness>(harness: &mut H, seed: u64, layer: usize, expect: impl Fn(&[f64], usize) -> Vec<f64>) {
    let mut model = Builder::new(RANKS, seed);
    let (vocab, cols) = (model.random.between(2, 60), model.random.between(1, 300));
    let columns = model.random.between(cols, 2 * cols);
    let program = Collect { x: model.table(vocab, cols), columns };
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let x = reference::embed(&model.rows(program.x), &batch.token_ids);
        let expected = x.iter().map(|row| expect(row, columns)).collect();
        let what = format!("{} rows of {cols} columns from {RANKS} ranks, cut to {columns}", x.len());
        check(harness, Op::Collective, what, output(emitted, Output::Layer(layer)), &expected);
    }
}

/// The sum over ranks.
pub fn all_reduce<H: Harness>(harness: &mut H, seed: u64) {
    collect(harness, seed, 0, |row, _| row.iter().map(|x| RANKS as f64 * x).collect());
}

/// Columns side by side, without the padding behind them.
pub fn gather_columns<H: Harness>(harness: &mut H, seed: u64) {
    collect(harness, seed, 1, |row, columns| row.repeat(RANKS)[..columns].to_vec());
}

/// Tables whose tokens are spread over the ranks, unevenly.
pub fn embed_over_ranks<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(RANKS, seed);
    let vocab = 2 * model.random.between(1, 30) + 1;
    let formats = every_format();
    let mut table = |&format: &Format| {
        let shape = [vocab, format.block_len() * if format.is_quantised() { 1 } else { 50 }];
        model.weight(Role::Embedding, shape, split(Dim::Rows, vocab, RANKS), format)
    };
    let program = Embed(formats.iter().map(&mut table).collect());
    let mut batches = requests::batches(&mut model.random, vocab);
    // The padding begins behind the last token.
    batches[1].token_ids[0] = vocab as u32 - 1;
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        for (i, (&format, &table)) in formats.iter().zip(&program.0).enumerate() {
            let expected = reference::embed(&model.rows(table), &batch.token_ids);
            let what = format!("{vocab} tokens of {format} on {RANKS} ranks");
            check(harness, Op::Embed(format), what, output(emitted, Output::Layer(i)), &expected);
        }
    }
}

/// The first rank holds `first` of `len` values, the second the others and padding.
fn uneven(len: usize, first: usize) -> Arc<ShardLayout> {
    let rest = [Segment::Range { start: first, len: len - first }, Segment::Zeros { len: 2 * first - len }];
    let rest = rest.into_iter().filter(|segment| !segment.is_empty()).collect();
    Arc::new(ShardLayout::new(vec![vec![Segment::Range { start: 0, len: first }], rest]))
}

/// Outputs cut over ranks, then inputs: in every format, inside blocks, evenly, with padding, and with a rank that has nothing else.
pub fn linear_over_ranks<H: Harness>(harness: &mut H, seed: u64) {
    for (i, format) in every_format().into_iter().enumerate() {
        let mut model = Builder::new(RANKS, seed * 100 + i as u64);
        let (vocab, cols) = (model.random.between(2, 30), model.random.between(1, 60));
        let inner = if format.is_quantised() { 3 * format.block_len() } else { model.random.between(2, 90) };
        let half = inner.div_ceil(2);
        let first = match (seed + i as u64) % 3 {
            0 => half,
            1 => model.random.between(half, inner - 1),
            _ => inner,
        };
        let layout = uneven(inner, first);
        let cut = |dim| Sharding::Split { dim, axis: Axis::Tensor, layout: Arc::clone(&layout) };
        let program = Mlp {
            x: model.table(vocab, cols),
            up: model.weight(Role::Matrix, [inner, cols], cut(Dim::Rows), Format::F32),
            bias: model.weight(Role::Vector, [inner, 1], cut(Dim::Rows), Format::F32),
            down: model.weight(Role::Matrix, [cols, inner], cut(Dim::Columns), format),
        };
        let batches = requests::batches(&mut model.random, vocab);
        let model = model.finish();
        let emitted = forward(harness, &model, &batches, &program);
        for (batch, emitted) in batches.iter().zip(&emitted) {
            let x = reference::embed(&model.rows(program.x), &batch.token_ids);
            let inner_rows = reference::linear(&x, &model.rows(program.up));
            let inner_rows = reference::bias(&inner_rows, &model.vector(program.bias));
            let down = model.rows(program.down);
            let what = format!("{inner} inner columns of {format}, {first} on the first of {RANKS} ranks");
            check_product(harness, Op::Linear(format), what, output(emitted, Output::Layer(0)), [&inner_rows, &down]);
        }
    }
}

/// A head whose tokens are spread over the ranks, with padding.
pub fn head_over_ranks<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(RANKS, seed);
    let (vocab, inputs) = (2 * model.random.between(1, 90) + 1, model.random.between(1, 70));
    let weight = model.weight(Role::Matrix, [vocab, inputs], split(Dim::Rows, vocab, RANKS), Format::F32);
    let count = model.random.between(1, 4);
    let hidden = model.random.values(count * inputs);
    let model = model.finish();
    let sampling = SamplingBatch { rows: vec![SamplingRow::default(); count], keep_logits: true };
    let result = harness.sample(&model, &hidden, &sampling, &Head { weight, vocab_size: vocab });
    let (x, weight) = (rows_of(&hidden, inputs), model.rows(weight));
    let what = format!("{count} rows times a head [{vocab}, {inputs}] on {RANKS} ranks");
    check_product(harness, Op::Head(Format::F32), what, &result.logits, [&x, &weight]);
}

/// Heads spread over the ranks: each rank has a cache of its own, under the same block tables.
pub fn attend_over_ranks<H: Harness>(harness: &mut H, seed: u64) {
    const HEAD_DIM: usize = 16;
    let mut model = Builder::new(RANKS, seed);
    let (size, vocab, num_blocks) = (harness.block_size(), 50, 16);
    let (kv_heads, group) = (model.random.between(1, 2), model.random.between(1, 3));
    let kept = KvSpec { num_kv_heads: kv_heads, head_dim: HEAD_DIM, values: Values::Own, window: None };
    let hidden = 24;
    let mut projection = |heads: usize| {
        let rows = RANKS * heads * HEAD_DIM;
        model.weight(Role::Matrix, [rows, hidden], split(Dim::Rows, rows, RANKS), Format::F32)
    };
    let [q, k, v] = [kv_heads * group, kv_heads, kv_heads].map(&mut projection);
    let spec = AttendSpec::new(kv_heads * group, 0.1);
    let columns = RANKS * kv_heads * group * HEAD_DIM;
    let program = Attention { x: model.table(vocab, hidden), q, k, v, kv: model.kv_layer(kept), spec, columns };
    let steps = script(&mut model.random, &[kept], num_blocks, size, vocab);
    let model = model.finish();
    let batches: Vec<_> = steps.iter().map(|step| step.batch.clone()).collect();
    let kv = KvSetup { num_blocks: vec![num_blocks], block_size: size };
    let emitted = forward_with(harness, &model, &kv, &batches, &program);
    let x = model.rows(program.x);
    let [queries, keys, values] = [q, k, v].map(|weight| reference::linear(&x, &model.rows(weight)));
    for (s, (step, emitted)) in steps.iter().zip(&emitted).enumerate() {
        let row = |(tokens, token): (&Vec<u32>, &u32)| {
            let [keys, values] = [&keys, &values].map(|table| reference::embed(table, tokens));
            reference::attend(&queries[*token as usize], &keys, &values, &kept, &spec, &[])
        };
        let expected: Rows = step.seen.iter().zip(&step.batch.token_ids).map(row).collect();
        let what = format!("step {s}: {kept:?}, {spec:?} on {RANKS} ranks");
        check(harness, Op::Attend, what, output(emitted, Output::Layer(0)), &expected);
    }
}
