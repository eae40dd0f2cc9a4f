//! `rope`, with every way to stretch its frequencies.

use crate::ops::{Ops, Output};
use crate::spec::{Rope, RopeScaling, RopeSpec};
use crate::testing::check::{check, forward, output};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::Builder;
use crate::testing::random::Random;
use crate::testing::{reference, requests};
use crate::weight::Weight;

/// Rotates an embedded row in each way.
struct Rotate {
    x: Weight,
    ropes: Vec<Rope>,
}

impl Program for Rotate {
    fn record<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.x);
        for (i, &rope) in self.ropes.iter().enumerate() {
            let y = ops.rope(x.clone(), rope);
            ops.emit(Output::Layer(i), &y);
        }
    }
}

/// The trained context of the specs here: some requests of a batch lie below it, some beyond.
const TRAINED: usize = 64;

/// Rotates by each of `scalings`, over all of a head and over part of it.
fn run<H: Harness>(harness: &mut H, seed: u64, scalings: impl Fn(&mut Random, usize) -> Vec<RopeScaling>) {
    let mut model = Builder::new(1, seed);
    let (vocab, heads) = (model.random.between(2, 60), model.random.between(1, 4));
    let head_dim = 2 * model.random.between(3, 40);
    let x = model.table(vocab, heads * head_dim);
    let mut specs = Vec::new();
    // A dynamic base needs more than one frequency.
    for rotary_dim in [head_dim, 2 * model.random.between(2, head_dim / 2)] {
        let of = |scaling| RopeSpec { head_dim, rotary_dim, theta: 10_000.0, scaling };
        specs.extend(scalings(&mut model.random, rotary_dim / 2).into_iter().map(of));
    }
    let program = Rotate { x, ropes: specs.iter().map(|spec| model.rope(spec)).collect() };
    let mut batches = requests::batches(&mut model.random, vocab);
    // One request at the very start, one whose length is longer than its rows say.
    batches.push(requests::batch(&mut model.random, vocab, &[3, 4, 1]));
    batches[2].positions.copy_from_slice(&[0, 1, 2, 20, 21, 22, 23, 100_000]);
    batches[2].rope_lens = vec![3, 5 * TRAINED as u32, 100_001];
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let x = reference::embed(&model.rows(x), &batch.token_ids);
        let of_request = |r: usize| batch.positions[batch.rows(r)].iter().map(move |&p| (p, batch.rope_lens[r]));
        let at: Vec<_> = (0..batch.num_requests()).flat_map(of_request).collect();
        for (i, spec) in specs.iter().enumerate() {
            let what = format!("{heads} heads rotated by {spec:?} at (position, length) {at:?}");
            check(harness, Op::Rope, what, output(emitted, Output::Layer(i)), &reference::rope(&x, spec, &at));
        }
    }
}

/// Divisors of `count` frequencies.
fn divisors(random: &mut Random, count: usize) -> std::sync::Arc<[f64]> {
    (0..count).map(|_| 1.0 + 7.0 * random.unit()).collect()
}

/// Frequencies that are the same for every request.
pub fn rope<H: Harness>(harness: &mut H, seed: u64) {
    run(harness, seed, |random, count| {
        vec![
            RopeScaling::None,
            RopeScaling::Linear { factor: 2.5 },
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: TRAINED,
            },
            RopeScaling::Yarn {
                factor: 4.0,
                original_max_position_embeddings: 1000 * TRAINED,
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: true,
                attention_factor: 1.139,
            },
            RopeScaling::Factors(divisors(random, count)),
        ]
    });
}

/// Frequencies that follow the length of each request, beside each other in a step.
pub fn rope_of_request_length<H: Harness>(harness: &mut H, seed: u64) {
    run(harness, seed, |random, count| {
        vec![
            RopeScaling::DynamicNtk { factor: 2.0, max_position_embeddings: TRAINED },
            RopeScaling::LongRope {
                short_factor: divisors(random, count),
                long_factor: divisors(random, count),
                original_max_position_embeddings: TRAINED,
                attention_factor: 1.19,
            },
        ]
    });
}
