//! `kv_write` and `attend`, through steps of requests that come, share, and go.

use crate::ops::{Ops, Output};
use crate::spec::{AttendSpec, KvLayer, KvSpec};
use crate::testing::check::{check_rows, forward_with, output};
use crate::testing::harness::{Harness, KvSetup, Op, Program};
use crate::testing::model::{Builder, Model};
use crate::testing::reference;
use crate::testing::requests::{Requests, Step, branches, script};
use crate::weight::Weight;

/// Blocks of each KV group.
const NUM_BLOCKS: usize = 16;

/// Attention layers whose queries, keys and values are embedded tokens, so that what a row sees follows from tokens alone.
struct Layers(Vec<Layer>);

struct Layer {
    q: Weight,
    k: Weight,
    v: Weight,
    kv: KvLayer,
    kept: KvSpec,
    spec: AttendSpec,
}

impl Program for Layers {
    fn record<O: Ops>(&self, ops: &mut O) {
        for (i, layer) in self.0.iter().enumerate() {
            let [q, k, v] = [layer.q, layer.k, layer.v].map(|table| ops.embed(table));
            ops.kv_write(layer.kv, &k, &v);
            let y = ops.attend(&q, layer.kv, &layer.spec);
            ops.emit(Output::Layer(i), &y);
        }
    }
}

impl Layer {
    /// A layer that keeps `kept`, with as many query heads for each KV head.
    fn new(model: &mut Builder, vocab: usize, kept: KvSpec, group: usize) -> Self {
        let num_heads = kept.num_kv_heads * group;
        let [q, k, v] =
            [num_heads, kept.num_kv_heads, kept.num_kv_heads].map(|heads| model.table(vocab, heads * kept.head_dim));
        // Large enough that weights differ, whatever head_dim is.
        let scale = (3.0 / (kept.head_dim as f64).sqrt()) as f32;
        Layer { q, k, v, kv: model.kv_layer(kept), kept, spec: AttendSpec::new(num_heads, scale) }
    }
}

fn run<H: Harness>(harness: &mut H, model: &Model, program: &Layers, steps: &[Step], poison: Option<u32>) {
    let batches: Vec<_> = steps.iter().map(|step| step.batch.clone()).collect();
    let groups = model.manifest.kv_groups();
    let kv = KvSetup { num_blocks: vec![NUM_BLOCKS; groups.len()], block_size: harness.block_size() };
    let emitted = forward_with(harness, model, &kv, &batches, program);
    for (i, layer) in program.0.iter().enumerate() {
        let [queries, keys, values] = [layer.q, layer.k, layer.v].map(|table| model.rows(table));
        let sinks = layer.spec.sinks.map(|sinks| model.vector(sinks)).unwrap_or_default();
        for (s, (step, emitted)) in steps.iter().zip(&emitted).enumerate() {
            let row = |(tokens, token): (&Vec<u32>, &u32)| {
                let in_window = layer.kept.window.map_or(0, |window| tokens.len().saturating_sub(window));
                let first = layer.spec.chunk.map_or(0, |chunk| (tokens.len() - 1) / chunk * chunk).max(in_window);
                let [keys, values] = [&keys, &values].map(|table| reference::embed(table, &tokens[first..]));
                reference::attend(&queries[*token as usize], &keys, &values, layer.kept.head_dim, &layer.spec, &sinks)
            };
            let expected = step.seen.iter().zip(&step.batch.token_ids).map(row).collect();
            let what = format!("step {s}, layer {i}: {:?}, {:?}, batch {:?}", layer.kept, layer.spec, step.batch);
            let healthy = |row: usize| poison.is_none_or(|poison| !step.seen[row].contains(&poison));
            check_rows(harness, Op::Attend, what, output(emitted, Output::Layer(i)), &expected, healthy);
        }
    }
}

/// Full and windowed layers, grouped query heads, chunks of prefills beside decode rows, shared, freed and reused blocks.
pub fn attend<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (size, vocab) = (harness.block_size(), 100);
    let head_dim = model.random.choose(&[16, 20, 64, 80]);
    let full = KvSpec { num_kv_heads: model.random.between(1, 3), head_dim, window: None };
    let sliding = KvSpec { window: Some(model.random.between(5, size + 2)), ..full };
    let other = KvSpec { num_kv_heads: 2, head_dim: 24, window: Some(3 * size) };
    let group = model.random.between(1, 4);
    // Two layers of one group, apart from each other, and three groups.
    let layers = [full, sliding, full, other].map(|kept| Layer::new(&mut model, vocab, kept, group));
    let groups = [full, sliding, other];
    let steps = script(&mut model.random, &groups, NUM_BLOCKS, size, vocab);
    run(harness, &model.finish(), &Layers(layers.into()), &steps, None);
}

/// Blocks that are copied before a step: branches of a request see what it saw, and each writes in a block of its own.
pub fn attend_copied<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (size, vocab) = (harness.block_size(), 60);
    let full = KvSpec { num_kv_heads: model.random.between(1, 3), head_dim: 16, window: None };
    let sliding = KvSpec { window: Some(model.random.between(5, size + 2)), head_dim: 24, ..full };
    let group = model.random.between(1, 3);
    let layers = [full, sliding, full].map(|kept| Layer::new(&mut model, vocab, kept, group));
    let steps = branches(&mut model.random, &[full, sliding], NUM_BLOCKS, size, vocab);
    run(harness, &model.finish(), &Layers(layers.into()), &steps, None);
}

/// A bend of the scores, a logit in the sum that has no value, both, and chunks of the context, over full and windowed layers.
pub fn attend_with_sinks_and_caps<H: Harness>(harness: &mut H, seed: u64) {
    let mut model = Builder::new(1, seed);
    let (size, vocab) = (harness.block_size(), 60);
    let head_dim = model.random.choose(&[16, 24]);
    let full = KvSpec { num_kv_heads: model.random.between(1, 3), head_dim, window: None };
    let sliding = KvSpec { window: Some(model.random.between(2, size + 2)), ..full };
    let group = model.random.between(1, 4);
    let kinds = [(full, true, false), (sliding, true, true), (full, false, true), (sliding, false, false)];
    let layers = kinds.map(|(kept, sinks, caps)| {
        let mut layer = Layer::new(&mut model, vocab, kept, group);
        layer.spec.sinks = sinks.then(|| model.vector(layer.spec.num_heads));
        layer.spec.softcap = caps.then_some(0.7);
        layer.spec.chunk = kept.window.filter(|_| !sinks);
        layer
    });
    let steps = script(&mut model.random, &[full, sliding], NUM_BLOCKS, size, vocab);
    run(harness, &model.finish(), &Layers(layers.into()), &steps, None);
}

/// What is not finite stays in the request that made it: neither rows beside it nor the next holder of its blocks see it.
pub fn attend_past_poison<H: Harness>(harness: &mut H, seed: u64) {
    /// The token whose K and V are not finite.
    const POISON: u32 = 0;
    let mut model = Builder::new(1, seed);
    let (size, vocab) = (harness.block_size(), 40);
    let kept = KvSpec { num_kv_heads: model.random.between(1, 2), head_dim: 16, window: None };
    let group = model.random.between(1, 3);
    let mut layer = Layer::new(&mut model, vocab, kept, group);
    let cols = kept.num_kv_heads * kept.head_dim;
    for table in [&mut layer.k, &mut layer.v] {
        let mut values = model.random.values(vocab * cols);
        values[..cols].fill(f32::NAN);
        values[0] = f32::INFINITY;
        *table = model.table_of(cols, &values);
    }
    let random = &mut model.random;
    let mut requests = Requests::new(&[kept], NUM_BLOCKS, size, random);
    let mut tokens = |count: usize| (0..count).map(|_| random.between(1, vocab - 1) as u32).collect::<Vec<_>>();
    let mut poisoned = tokens(2 * size);
    poisoned[1..].fill(POISON);
    let (sick, healthy) = (requests.admit(poisoned), requests.admit(tokens(2 * size)));
    let mut steps = vec![requests.step(&[(sick, 2 * size - 1), (healthy, size + 1)])];
    steps.push(requests.step(&[(healthy, 1), (sick, 1)]));
    requests.finish(sick);
    let heir = requests.admit(tokens(2 * size));
    steps.push(requests.step(&[(heir, size + 2), (healthy, 1)]));
    steps.push(requests.step(&[(healthy, 1), (heir, 1)]));
    run(harness, &model.finish(), &Layers(vec![layer]), &steps, Some(POISON));
}
