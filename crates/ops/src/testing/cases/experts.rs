//! `route` and `experts`.

use super::every_format;
use crate::experts::{
    Expert, ExpertsSpec, GroupWorth, Projection, RouterGroups, RouterSpec, Score, TopKRouter, Weighing,
};
use crate::format::Format;
use crate::ops::{Ops, Output};
use crate::spec::Gated;
use crate::testing::check::{check, forward, output, rows_of};
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::{Builder, split};
use crate::testing::reference::{self, Rows};
use crate::testing::requests;
use crate::testing::routing;
use crate::weight::{Dim, Role, Segment, ShardLayout, Sharding, Weight};
use nxd_collectives::Axis;
use std::sync::Arc;

/// Routes by embedded logits, in several ways.
struct Route {
    logits: Weight,
    specs: Vec<RouterSpec>,
}

impl Program for Route {
    fn record<O: Ops>(&self, ops: &mut O) {
        let logits = ops.embed(self.logits);
        for (i, spec) in self.specs.iter().enumerate() {
            let affinities = ops.route(&logits, spec);
            ops.emit(Output::Layer(i), &affinities);
        }
    }
}

/// Random logits of which token 0 has equal ones, and token 1 such that sum to less than the smallest number once they are exponents.
fn logits(model: &mut Builder, vocab: usize, experts: usize) -> Weight {
    let mut values: Vec<f32> = model.random.values(vocab * experts).iter().map(|x| 4.0 * x).collect();
    values[..experts].fill(0.5);
    values[experts..2 * experts].iter_mut().for_each(|x| *x *= 40.0);
    model.table_of(experts, &values)
}

fn run_routers<H: Harness>(
    harness: &mut H,
    seed: u64,
    experts: usize,
    specs: impl Fn(&mut Builder) -> Vec<RouterSpec>,
) {
    let mut model = Builder::new(1, seed);
    let vocab = model.random.between(2, 40);
    let logits = logits(&mut model, vocab, experts);
    let specs = specs(&mut model);
    let program = Route { logits, specs };
    let mut batches = requests::batches(&mut model.random, vocab);
    batches[1].token_ids[..2].copy_from_slice(&[0, 1]);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let logits = reference::embed(&model.rows(logits), &batch.token_ids);
        for (i, spec) in program.specs.iter().enumerate() {
            let correction = match spec {
                RouterSpec::TopK(TopKRouter { correction: Some(weight), .. }) => model.vector(*weight),
                _ => Vec::new(),
            };
            let expected = routing::route(&logits, spec, &correction);
            let what = format!("{spec:?} of {} rows to {experts} experts", batch.num_tokens());
            check(harness, Op::Route, what, output(emitted, Output::Layer(i)), &expected);
        }
    }
}

/// The best experts by each score, divided by their sum or not; one expert, and all.
pub fn route<H: Harness>(harness: &mut H, seed: u64) {
    let experts = [1, 7, 40][seed as usize % 3];
    run_routers(harness, seed, experts, |model| {
        let top_k = model.random.between(1, experts);
        let mut specs = Vec::new();
        for (score, normalise) in [Score::Softmax, Score::Sigmoid].into_iter().flat_map(|s| [(s, false), (s, true)]) {
            specs.push(RouterSpec::TopK(TopKRouter { normalise, ..TopKRouter::new(score, top_k) }));
        }
        specs.push(RouterSpec::TopK(TopKRouter::new(Score::Softmax, experts)));
        specs
    });
}

/// Corrected scores and groups of experts.
pub fn route_by_groups<H: Harness>(harness: &mut H, seed: u64) {
    let (count, len) = ([2, 4, 8][seed as usize % 3], 2 + seed as usize % 4);
    let experts = count * len;
    run_routers(harness, seed, experts, |model| {
        let top = model.random.between(1, count);
        let top_k = model.random.between(1, top * len);
        let correction = Some(model.vector(experts));
        let groups = |worth| Some(RouterGroups { count, top, worth });
        let softmax = TopKRouter::new(Score::Softmax, top_k);
        let sigmoid = TopKRouter { score: Score::Sigmoid, normalise: true, scale: 2.5, ..softmax };
        vec![
            RouterSpec::TopK(TopKRouter { groups: groups(GroupWorth::Best), ..softmax }),
            RouterSpec::TopK(TopKRouter { correction, ..sigmoid }),
            RouterSpec::TopK(TopKRouter { correction, groups: groups(GroupWorth::BestTwo), ..sigmoid }),
        ]
    });
}

/// Two experts, each against those that are close.
pub fn route_by_sparsemixer<H: Harness>(harness: &mut H, seed: u64) {
    let experts = [2, 16, 5][seed as usize % 3];
    let jitters = [0.01, 0.2, 1.0];
    run_routers(harness, seed, experts, |_| jitters.map(|jitter| RouterSpec::Sparsemixer { jitter }).to_vec());
}

/// What experts make of embedded rows, together and one by one.
struct Experts {
    x: Weight,
    affinities: Weight,
    /// The input of each expert on its own.
    inputs: Vec<Weight>,
    spec: ExpertsSpec,
}

impl Program for Experts {
    fn record<O: Ops>(&self, ops: &mut O) {
        for (i, (&input, expert)) in self.inputs.iter().zip(&self.spec.experts).enumerate() {
            let x = ops.embed(input);
            let mut project = |x: &O::Tensor, projection: Projection| {
                let y = ops.linear(x, projection.weight);
                projection.bias.map_or(y.clone(), |bias| ops.bias(y, bias))
            };
            let (gate, up) = (project(&x, expert.gate), project(&x, expert.up));
            let inner = ops.gated(gate, &up, self.spec.activation);
            let y = {
                let y = ops.linear(&inner, expert.down.weight);
                expert.down.bias.map_or(y.clone(), |bias| ops.bias(y, bias))
            };
            ops.emit(Output::Layer(1 + i), &y);
        }
        let (x, affinities) = (ops.embed(self.x), ops.embed(self.affinities));
        let sum = ops.experts(&x, &affinities, &self.spec);
        ops.emit(Output::Layer(0), &sum);
    }
}

/// Affinities of random experts: token 0 has none at all, token 1 all.
fn affinities(model: &mut Builder, vocab: usize, experts: usize) -> Vec<f32> {
    let mut values = vec![0.0; vocab * experts];
    for (token, row) in values.chunks_mut(experts).enumerate() {
        for value in row {
            if token == 1 || (token > 1 && model.random.unit() < 0.4) {
                *value = model.random.value();
            }
        }
    }
    values
}

/// The experts of `spec` in `format`, against the device's own products.
fn run_experts<H: Harness>(harness: &mut H, seed: u64, format: Format, weighing: Weighing, bias: bool) {
    let mut model = Builder::new(1, seed);
    let (vocab, count) = (model.random.between(2, 20), model.random.between(1, 5));
    let [hidden, inner] = [0; 2].map(|_| match format.block_len() {
        1 => model.random.between(1, 70),
        block => block * model.random.between(1, 2),
    });
    let activation = model.random.choose(&[Gated::Silu, Gated::GeluTanh, Gated::Clamped { limit: 0.5 }]);
    let values = model.random.values(vocab * hidden);
    let x = model.table_of(hidden, &values);
    let weights = affinities(&mut model, vocab, count);
    let mut projection = |outputs: usize, inputs: usize| {
        let weight = model.matrix(outputs, inputs, format);
        Projection { weight, bias: bias.then(|| model.vector(outputs)) }
    };
    let experts: Vec<Expert> = (0..count)
        .map(|_| Expert {
            gate: projection(inner, hidden),
            up: projection(inner, hidden),
            down: projection(hidden, inner),
        })
        .collect();
    let mut input = |expert: usize| {
        if weighing == Weighing::Output {
            return x;
        }
        let weighed = values.iter().enumerate().map(|(i, value)| value * weights[i / hidden * count + expert]);
        model.table_of(hidden, &weighed.collect::<Vec<_>>())
    };
    let inputs = (0..count).map(&mut input).collect();
    let affinities = model.table_of(count, &weights);
    let program = Experts { x, affinities, inputs, spec: ExpertsSpec { experts, activation, weighing } };
    let mut batches = requests::batches(&mut model.random, vocab);
    batches[1].token_ids[..2].copy_from_slice(&[0, 1]);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let affinities = reference::embed(&model.rows(affinities), &batch.token_ids);
        let mut expected: Rows = vec![vec![0.0; hidden]; batch.num_tokens()];
        for expert in 0..count {
            let results = rows_of(output(emitted, Output::Layer(1 + expert)), hidden);
            for ((sum, result), affinities) in expected.iter_mut().zip(results).zip(&affinities) {
                let factor = match weighing {
                    _ if affinities[expert] == 0.0 => continue,
                    Weighing::Output => affinities[expert],
                    Weighing::Input => 1.0,
                };
                sum.iter_mut().zip(result).for_each(|(sum, y)| *sum += factor * y);
            }
        }
        let what =
            format!("{count} experts of {format} [{inner}, {hidden}], {activation:?}, {weighing:?}, bias {bias}");
        check(harness, Op::Experts, what, output(emitted, Output::Layer(0)), &expected);
    }
}

/// Experts in every format, weighed after and before, with and without biases; rows without an expert, and with all.
pub fn experts<H: Harness>(harness: &mut H, seed: u64) {
    for (i, format) in every_format().into_iter().enumerate() {
        let kind = seed as usize + i;
        let weighing = if kind.is_multiple_of(3) { Weighing::Input } else { Weighing::Output };
        run_experts(harness, seed * 100 + i as u64, format, weighing, kind.is_multiple_of(2));
    }
}

/// Sums over ranks what experts make whose inner columns are spread over them.
struct Spread {
    x: Weight,
    affinities: Weight,
    spec: ExpertsSpec,
}

impl Program for Spread {
    fn record<O: Ops>(&self, ops: &mut O) {
        let (x, affinities) = (ops.embed(self.x), ops.embed(self.affinities));
        let part = ops.experts(&x, &affinities, &self.spec);
        let sum = ops.all_reduce(part, Axis::Tensor);
        ops.emit(Output::Layer(0), &sum);
    }
}

/// Inner columns spread over two ranks, with padding; the first rank alone has the last bias.
pub fn experts_over_ranks<H: Harness>(harness: &mut H, seed: u64) {
    const RANKS: usize = 2;
    let mut model = Builder::new(RANKS, seed);
    let (vocab, count) = (model.random.between(2, 20), model.random.between(1, 4));
    let (hidden, inner) = (model.random.between(1, 60), 2 * model.random.between(1, 30) + 1);
    let x = model.table(vocab, hidden);
    let weights = affinities(&mut model, vocab, count);
    let affinities = model.table_of(count, &weights);
    let held = [Segment::Range { start: 0, len: hidden }, Segment::Zeros { len: hidden }].map(|segment| vec![segment]);
    let layout = Arc::new(ShardLayout::new(held.into()));
    let once = || Sharding::Split { dim: Dim::Rows, axis: Axis::Tensor, layout: Arc::clone(&layout) };
    let mut projection = |shape: [usize; 2], cut: Sharding, bias: Sharding| Projection {
        weight: model.weight(Role::Matrix, shape, cut, Format::F32),
        bias: Some(model.weight(Role::Vector, [shape[0], 1], bias, Format::F32)),
    };
    let rows = || split(Dim::Rows, inner, RANKS);
    let experts: Vec<Expert> = (0..count)
        .map(|_| Expert {
            gate: projection([inner, hidden], rows(), rows()),
            up: projection([inner, hidden], rows(), rows()),
            down: projection([hidden, inner], split(Dim::Columns, inner, RANKS), once()),
        })
        .collect();
    let spec = ExpertsSpec { experts, activation: Gated::Silu, weighing: Weighing::Output };
    let program = Spread { x, affinities, spec };
    let batches = requests::batches(&mut model.random, vocab);
    let model = model.finish();
    let emitted = forward(harness, &model, &batches, &program);
    for (batch, emitted) in batches.iter().zip(&emitted) {
        let [x, affinities] = [x, affinities].map(|table| reference::embed(&model.rows(table), &batch.token_ids));
        let project = |x: &Rows, projection: Projection| {
            let y = reference::linear(x, &model.rows(projection.weight));
            projection.bias.map_or(y.clone(), |bias| reference::bias(&y, &model.vector(bias)))
        };
        let mut expected: Rows = vec![vec![0.0; hidden]; x.len()];
        for (i, expert) in program.spec.experts.iter().enumerate() {
            let inner = reference::gated(&project(&x, expert.gate), &project(&x, expert.up), Gated::Silu);
            for ((sum, y), affinities) in expected.iter_mut().zip(project(&inner, expert.down)).zip(&affinities) {
                sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += affinities[i] * y);
            }
        }
        let what = format!("{count} experts [{inner}, {hidden}] on {RANKS} ranks");
        check(harness, Op::Experts, what, output(emitted, Output::Layer(0)), &expected);
    }
}
