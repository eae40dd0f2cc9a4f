//! The suite can fail: a device with a fault does not pass the case that is about it.

use super::harness::Cpu;
use super::options;
use nxd_cpu::{Activations, Isa, KvDtype};
use nxd_ops::testing::{self, Emitted, Harness, KvSetup, Model, Op, Program, SampleResult, cases};
use nxd_ops::{
    AttendSpec, Axis, Batch, Centre, ExpertsSpec, Gated, Input, KvLayer, Map, NormSpec, Ops, Output, Rope, RouterSpec,
    Rows, SamplingBatch, Temperature, TopKRouter, Weighing, Weight,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a device does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    // In its ops.
    EmbedScaled,
    AddForgotten,
    BiasForgotten,
    ScaleRounded,
    OneGelu,
    NormWithoutEps,
    NormWithoutOffset,
    NormWithoutBias,
    NormOfOneRank,
    NormOffCentre,
    ClampForgotten,
    SoftCapClamps,
    PositionsAreTokens,
    TemperatureForgotten,
    AddNormOfOne,
    LinearScaled,
    HeadScaled,
    LinearsShareTheFirst,
    GateAndUpSwapped,
    RouteUndivided,
    CorrectionForgotten,
    GroupsForgotten,
    JitterDoubled,
    ExpertsSwapped,
    WeighedTooLate,
    ExpertBiasForgotten,
    RopeForgotten,
    KeysNotWritten,
    KeysAndValuesSwapped,
    AttendScale,
    SinksForgotten,
    SoftcapForgotten,
    AllReduceForgotten,
    GatherScaled,
    DrawOfScaledLogits,
    // In what it makes of a step's input.
    CachesForgotten,
    OneRopeLen,
    FirstRowsWanted,
    SeedIgnored,
    PositionIgnored,
    PromptPenalised,
    HistoryIgnored,
    MaskIgnored,
    NanAsZero,
    TypicalIgnored,
    LogprobMissing,
}

/// The CPU device with a fault.
struct Faulty {
    device: Cpu,
    fault: Fault,
    known: &'static [(&'static str, &'static str)],
}

struct FaultyProgram<'p, P> {
    program: &'p P,
    fault: Fault,
}

struct FaultyOps<'o, O> {
    ops: &'o mut O,
    fault: Fault,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        let options = options(Isa::detect(), Activations::F32);
        Faulty { device: Cpu { options, kv: KvDtype::F32 }, fault, known: &[] }
    }
}

impl Harness for Faulty {
    fn forward<P: Program>(&mut self, model: &Model, kv: &KvSetup, batches: &[Batch], program: &P) -> Vec<Emitted> {
        let program = FaultyProgram { program, fault: self.fault };
        let mut batches = batches.to_vec();
        for batch in &mut batches {
            match self.fault {
                Fault::OneRopeLen => {
                    let first = batch.rope_lens[0];
                    batch.rope_lens.fill(first);
                }
                Fault::FirstRowsWanted => batch.wanted = (0..batch.wanted.len() as u32).collect(),
                _ => {}
            }
        }
        if self.fault == Fault::CachesForgotten {
            let alone = |batch| self.device.forward(model, kv, std::slice::from_ref(batch), &program).remove(0);
            return batches.iter().map(alone).collect();
        }
        self.device.forward(model, kv, &batches, &program)
    }

    fn sample<P: Program>(
        &mut self,
        model: &Model,
        hidden: &[f32],
        sampling: &SamplingBatch,
        program: &P,
    ) -> SampleResult {
        let program = FaultyProgram { program, fault: self.fault };
        let (mut hidden, mut sampling) = (hidden.to_vec(), sampling.clone());
        if self.fault == Fault::NanAsZero {
            hidden.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = 0.0);
        }
        for row in &mut sampling.rows {
            match self.fault {
                Fault::SeedIgnored => row.params.seed = 0,
                Fault::PositionIgnored => row.position = 0,
                Fault::PromptPenalised => row.generated_from = 0,
                Fault::HistoryIgnored => row.history.clear(),
                Fault::MaskIgnored => row.allowed = None,
                Fault::TypicalIgnored => row.params.typical_p = 1.0,
                Fault::LogprobMissing => row.logprobs = row.logprobs.map(|count| count.saturating_sub(1)),
                _ => {}
            }
        }
        self.device.sample(model, &hidden, &sampling, &program)
    }

    fn tolerance(&self, op: Op) -> f64 {
        self.device.tolerance(op)
    }

    fn known_failures(&self) -> &[(&'static str, &'static str)] {
        self.known
    }
}

impl<P: Program> Program for FaultyProgram<'_, P> {
    fn record<O: Ops>(&self, ops: &mut O) {
        self.program.record(&mut FaultyOps { ops, fault: self.fault });
    }
}

impl<O: Ops> FaultyOps<'_, O> {
    /// `x`, a thousandth larger where the device has `fault`.
    fn scaled_by(&mut self, fault: Fault, x: O::Tensor) -> O::Tensor {
        if self.fault == fault { self.ops.scale(x, 1.001) } else { x }
    }
}

impl<O: Ops> Ops for FaultyOps<'_, O> {
    type Tensor = O::Tensor;

    fn embed(&mut self, table: Weight) -> O::Tensor {
        let x = self.ops.embed(table);
        self.scaled_by(Fault::EmbedScaled, x)
    }

    fn embed_positions(&mut self, table: Weight) -> O::Tensor {
        if self.fault == Fault::PositionsAreTokens { self.ops.embed(table) } else { self.ops.embed_positions(table) }
    }

    fn input(&mut self, input: Input) -> O::Tensor {
        self.ops.input(input)
    }

    fn emit(&mut self, output: Output, x: &O::Tensor) {
        self.ops.emit(output, x);
    }

    fn select_rows(&mut self, x: &O::Tensor, rows: Rows) -> O::Tensor {
        self.ops.select_rows(x, rows)
    }

    fn add(&mut self, x: O::Tensor, y: &O::Tensor) -> O::Tensor {
        if self.fault == Fault::AddForgotten { x } else { self.ops.add(x, y) }
    }

    fn bias(&mut self, x: O::Tensor, bias: Weight) -> O::Tensor {
        if self.fault == Fault::BiasForgotten { x } else { self.ops.bias(x, bias) }
    }

    fn scale(&mut self, x: O::Tensor, factor: f32) -> O::Tensor {
        let rounded = if self.fault == Fault::ScaleRounded { half_precision(factor) } else { factor };
        self.ops.scale(x, rounded)
    }

    fn map(&mut self, x: O::Tensor, f: Map) -> O::Tensor {
        match f {
            Map::Clamp(_) if self.fault == Fault::ClampForgotten => x,
            Map::SoftCap(cap) if self.fault == Fault::SoftCapClamps => self.ops.map(x, Map::Clamp(cap)),
            _ => self.ops.map(x, f),
        }
    }

    fn temper(&mut self, x: O::Tensor, temperature: &Temperature) -> O::Tensor {
        if self.fault == Fault::TemperatureForgotten { x } else { self.ops.temper(x, temperature) }
    }

    fn gated(&mut self, gate: O::Tensor, up: &O::Tensor, activation: Gated) -> O::Tensor {
        match activation {
            Gated::Gelu if self.fault == Fault::OneGelu => self.ops.gated(gate, up, Gated::GeluTanh),
            _ => self.ops.gated(gate, up, activation),
        }
    }

    fn norm(&mut self, x: &O::Tensor, spec: &NormSpec) -> O::Tensor {
        match self.fault {
            Fault::NormWithoutEps => self.ops.norm(x, &NormSpec { eps: 1e-9, ..*spec }),
            Fault::NormWithoutOffset => self.ops.norm(x, &NormSpec { offset: 0.0, ..*spec }),
            Fault::NormWithoutBias => self.ops.norm(x, &NormSpec { bias: None, ..*spec }),
            Fault::NormOfOneRank => self.ops.norm(x, &NormSpec { spread: None, ..*spec }),
            Fault::NormOffCentre => self.ops.norm(x, &NormSpec { centre: Centre::Zero, ..*spec }),
            _ => self.ops.norm(x, spec),
        }
    }

    fn add_norm(&mut self, residual: O::Tensor, x: &O::Tensor, spec: &NormSpec) -> (O::Tensor, O::Tensor) {
        let (sum, normed) = self.ops.add_norm(residual, x, spec);
        if self.fault == Fault::AddNormOfOne {
            return (sum, self.ops.norm(x, spec));
        }
        (sum, normed)
    }

    fn linear(&mut self, x: &O::Tensor, weight: Weight) -> O::Tensor {
        let y = self.ops.linear(x, weight);
        self.scaled_by(Fault::LinearScaled, y)
    }

    fn linears<const N: usize>(&mut self, x: &O::Tensor, weights: [Weight; N]) -> [O::Tensor; N] {
        let weights = if self.fault == Fault::LinearsShareTheFirst { [weights[0]; N] } else { weights };
        self.ops.linears(x, weights)
    }

    fn linear_gated(&mut self, x: &O::Tensor, gate: Weight, up: Weight, activation: Gated) -> O::Tensor {
        let (gate, up) = if self.fault == Fault::GateAndUpSwapped { (up, gate) } else { (gate, up) };
        self.ops.linear_gated(x, gate, up, activation)
    }

    fn head(&mut self, x: &O::Tensor, weight: Weight) -> O::Tensor {
        let logits = self.ops.head(x, weight);
        self.scaled_by(Fault::HeadScaled, logits)
    }

    fn route(&mut self, logits: &O::Tensor, spec: &RouterSpec) -> O::Tensor {
        let spec = match (*spec, self.fault) {
            (RouterSpec::TopK(spec), Fault::RouteUndivided) => {
                RouterSpec::TopK(TopKRouter { normalise: false, ..spec })
            }
            (RouterSpec::TopK(spec), Fault::CorrectionForgotten) => {
                RouterSpec::TopK(TopKRouter { correction: None, ..spec })
            }
            (RouterSpec::TopK(spec), Fault::GroupsForgotten) => RouterSpec::TopK(TopKRouter { groups: None, ..spec }),
            (RouterSpec::Sparsemixer { jitter }, Fault::JitterDoubled) => {
                RouterSpec::Sparsemixer { jitter: 2.0 * jitter }
            }
            (spec, _) => spec,
        };
        self.ops.route(logits, &spec)
    }

    fn experts(&mut self, x: &O::Tensor, affinities: &O::Tensor, spec: &ExpertsSpec) -> O::Tensor {
        let mut spec = spec.clone();
        match self.fault {
            Fault::ExpertsSwapped => spec.experts.reverse(),
            Fault::WeighedTooLate => spec.weighing = Weighing::Output,
            Fault::ExpertBiasForgotten => spec.experts.iter_mut().for_each(|expert| expert.down.bias = None),
            _ => {}
        }
        self.ops.experts(x, affinities, &spec)
    }

    fn rope(&mut self, x: O::Tensor, rope: Rope) -> O::Tensor {
        if self.fault == Fault::RopeForgotten { x } else { self.ops.rope(x, rope) }
    }

    fn kv_write(&mut self, layer: KvLayer, k: &O::Tensor, v: &O::Tensor) {
        match self.fault {
            Fault::KeysAndValuesSwapped => self.ops.kv_write(layer, v, k),
            Fault::KeysNotWritten => {
                let nothing = self.ops.scale(k.clone(), 0.0);
                self.ops.kv_write(layer, &nothing, v);
            }
            _ => self.ops.kv_write(layer, k, v),
        }
    }

    fn attend(&mut self, q: &O::Tensor, layer: KvLayer, spec: &AttendSpec) -> O::Tensor {
        let mut spec = *spec;
        match self.fault {
            Fault::AttendScale => spec.scale *= 1.01,
            Fault::SinksForgotten => spec.sinks = None,
            Fault::SoftcapForgotten => spec.softcap = None,
            _ => {}
        }
        self.ops.attend(q, layer, &spec)
    }

    fn all_reduce(&mut self, x: O::Tensor, axis: Axis) -> O::Tensor {
        if self.fault == Fault::AllReduceForgotten { x } else { self.ops.all_reduce(x, axis) }
    }

    fn gather_columns(&mut self, x: O::Tensor, axis: Axis, columns: usize) -> O::Tensor {
        let y = self.ops.gather_columns(x, axis, columns);
        self.scaled_by(Fault::GatherScaled, y)
    }

    fn draw(&mut self, logits: &O::Tensor) {
        match self.fault {
            Fault::DrawOfScaledLogits => {
                let scaled = self.ops.scale(logits.clone(), 1.2);
                self.ops.draw(&scaled);
            }
            _ => self.ops.draw(logits),
        }
    }
}

/// The number in the 11 bits that half precision has.
fn half_precision(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & !0x1fff)
}

type Case = fn(&mut Faulty, u64);

/// Each fault, and cases that must notice it.
const NOTICED: &[(Fault, &[(&str, Case)])] = &[
    (Fault::EmbedScaled, &[("embed", cases::embed), ("embed_over_ranks", cases::embed_over_ranks)]),
    (Fault::AddForgotten, &[("add", cases::add), ("custom", cases::custom)]),
    (Fault::BiasForgotten, &[("bias", cases::bias), ("linear_over_ranks", cases::linear_over_ranks)]),
    (Fault::ScaleRounded, &[("scale", cases::scale)]),
    (Fault::OneGelu, &[("gated", cases::gated)]),
    (Fault::NormWithoutEps, &[("norm", cases::norm), ("norm_of_heads", cases::norm_of_heads)]),
    (Fault::NormWithoutOffset, &[("norm", cases::norm), ("norm_of_heads", cases::norm_of_heads)]),
    (Fault::NormWithoutBias, &[("norm", cases::norm), ("norm_of_heads", cases::norm_of_heads)]),
    (Fault::NormOffCentre, &[("norm", cases::norm), ("norm_of_heads", cases::norm_of_heads)]),
    (Fault::NormOfOneRank, &[("norm_over_ranks", cases::norm_over_ranks)]),
    (Fault::ClampForgotten, &[("map", cases::map)]),
    (Fault::SoftCapClamps, &[("map", cases::map)]),
    (Fault::PositionsAreTokens, &[("positions", cases::positions)]),
    (Fault::TemperatureForgotten, &[("positions", cases::positions)]),
    (Fault::AddNormOfOne, &[("add_norm", cases::add_norm)]),
    (
        Fault::LinearScaled,
        &[
            ("linear_floats", cases::linear_floats),
            ("linear_blocks", cases::linear_blocks),
            ("linear_permuted", cases::linear_permuted),
            ("embed_tied", cases::embed_tied),
            ("linear_over_ranks", cases::linear_over_ranks),
        ],
    ),
    (Fault::HeadScaled, &[("head", cases::head), ("head_over_ranks", cases::head_over_ranks)]),
    (Fault::LinearsShareTheFirst, &[("linears", cases::linears)]),
    (Fault::GateAndUpSwapped, &[("linear_gated", cases::linear_gated)]),
    (Fault::RouteUndivided, &[("route", cases::route), ("route_by_groups", cases::route_by_groups)]),
    (Fault::CorrectionForgotten, &[("route_by_groups", cases::route_by_groups)]),
    (Fault::GroupsForgotten, &[("route_by_groups", cases::route_by_groups)]),
    (Fault::JitterDoubled, &[("route_by_sparsemixer", cases::route_by_sparsemixer)]),
    (Fault::ExpertsSwapped, &[("experts", cases::experts), ("experts_over_ranks", cases::experts_over_ranks)]),
    (Fault::WeighedTooLate, &[("experts", cases::experts)]),
    (Fault::ExpertBiasForgotten, &[("experts", cases::experts), ("experts_over_ranks", cases::experts_over_ranks)]),
    (Fault::RopeForgotten, &[("rope", cases::rope), ("rope_of_request_length", cases::rope_of_request_length)]),
    (Fault::OneRopeLen, &[("rope_of_request_length", cases::rope_of_request_length)]),
    (Fault::KeysNotWritten, &[("attend", cases::attend), ("attend_over_ranks", cases::attend_over_ranks)]),
    (Fault::KeysAndValuesSwapped, &[("attend", cases::attend), ("attend_over_ranks", cases::attend_over_ranks)]),
    (Fault::AttendScale, &[("attend", cases::attend), ("attend_past_poison", cases::attend_past_poison)]),
    (Fault::SinksForgotten, &[("attend_with_sinks_and_caps", cases::attend_with_sinks_and_caps)]),
    (Fault::SoftcapForgotten, &[("attend_with_sinks_and_caps", cases::attend_with_sinks_and_caps)]),
    (Fault::CachesForgotten, &[("attend", cases::attend), ("attend_past_poison", cases::attend_past_poison)]),
    (
        Fault::AllReduceForgotten,
        &[
            ("all_reduce", cases::all_reduce),
            ("embed_over_ranks", cases::embed_over_ranks),
            ("linear_over_ranks", cases::linear_over_ranks),
        ],
    ),
    (Fault::GatherScaled, &[("gather_columns", cases::gather_columns), ("head_over_ranks", cases::head_over_ranks)]),
    (Fault::FirstRowsWanted, &[("select_rows", cases::select_rows)]),
    (Fault::DrawOfScaledLogits, &[("draw_filtered", cases::draw_filtered), ("draw_logprobs", cases::draw_logprobs)]),
    (Fault::SeedIgnored, &[("draw_filtered", cases::draw_filtered)]),
    (Fault::PositionIgnored, &[("draw_filtered", cases::draw_filtered)]),
    (Fault::TypicalIgnored, &[("draw_filtered", cases::draw_filtered)]),
    (Fault::PromptPenalised, &[("draw_penalised", cases::draw_penalised)]),
    (Fault::HistoryIgnored, &[("draw_penalised", cases::draw_penalised)]),
    (Fault::MaskIgnored, &[("draw_forbidden", cases::draw_forbidden)]),
    (Fault::NanAsZero, &[("draw_not_finite", cases::draw_not_finite)]),
    (Fault::LogprobMissing, &[("draw_logprobs", cases::draw_logprobs)]),
];

#[test]
fn every_fault_is_noticed() {
    let mut missed = Vec::new();
    for (fault, cases) in NOTICED {
        for (name, case) in *cases {
            let mut device = Faulty::new(*fault);
            if catch_unwind(AssertUnwindSafe(|| testing::run(&mut device, name, *case))).is_ok() {
                missed.push((fault, name));
            }
        }
    }
    assert!(missed.is_empty(), "faults that cases did not notice: {missed:?}");
}

#[test]
fn a_known_failure_must_fail() {
    let known = &[("norm", "the offset is missing")];
    let mut device = Faulty { known, ..Faulty::new(Fault::NormWithoutOffset) };
    testing::run(&mut device, "norm", cases::norm);
    let mut device = Faulty { known, ..Faulty::new(Fault::AddForgotten) };
    let passing = catch_unwind(AssertUnwindSafe(|| testing::run(&mut device, "norm", cases::norm)));
    let message = *passing.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, "`norm` passes; take it off the known failures, where it stands because the offset is missing");
}

#[test]
#[should_panic(expected = "known failure `nrom` is no case of the suite")]
fn a_known_failure_names_a_case() {
    let device = Faulty { known: &[("nrom", "a slip")], ..Faulty::new(Fault::OneGelu) };
    testing::check_known_failures(&device, &["norm"]);
}
