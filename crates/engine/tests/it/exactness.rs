//! A request's tokens and the bits of its logits do not depend on what shares its steps, on how its prompt is cut, on the number of KV
//! blocks, on preemption, on what the prefix cache had of it, on its neighbours' adapters, on its place among the completions of one prompt, on priorities, on the order
//! of arrival, or on requests that are taken out.

use crate::adapters::made_up;
use crate::recorder::{Bits, Recorder, Rows, load, models};
use nxd_engine::{
    AdapterId, Engine, EngineOptions, FinishReason, Output, Request, RequestId, SamplingParams, TokenLogprob,
};
use nxd_executor::{Activations, ExecutorOptions, KvDtype, KvOptions};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

/// Choices that a visit may have: tests tell the rows of requests apart by their choices.
const CHOICES: usize = 3;
/// Adapters that an engine has.
const ADAPTERS: usize = 2;

/// A request and when it comes and goes.
#[derive(Clone, Debug)]
struct Visit {
    /// Which of the common beginnings its prompt has, and how many tokens of it.
    common: (usize, usize),
    /// The rest of its prompt.
    own: Vec<u32>,
    max_tokens: usize,
    temperature: f32,
    repetition_penalty: f32,
    seed: u64,
    n: usize,
    priority: i64,
    salt: bool,
    adapter: Option<usize>,
    prompt_logprobs: bool,
    arrives: usize,
    leaves: Option<usize>,
}

/// What the visits meet.
#[derive(Clone, Debug)]
struct Schedule {
    visits: Vec<Visit>,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    /// Blocks beyond those that the largest request needs.
    further_blocks: usize,
    block_size: usize,
    threads: usize,
    prefix_caching: bool,
}

fn visit() -> impl Strategy<Value = Visit> {
    let prompt = ((0usize..2, 0usize..60), proptest::collection::vec(any::<u32>(), 1..40));
    let drawn = (prop_oneof![Just(0.0f32), Just(0.9)], prop_oneof![Just(1.0f32), Just(1.3)], any::<u64>());
    let served = (
        prop_oneof![3 => Just(1usize), 1 => 2..=CHOICES],
        prop_oneof![3 => Just(0i64), 1 => -1i64..2],
        proptest::bool::weighted(0.2),
        proptest::option::weighted(0.4, 0..ADAPTERS),
        proptest::bool::weighted(0.2),
    );
    let leaves = proptest::option::weighted(0.2, 0usize..30);
    (prompt, 1usize..30, drawn, served, 0usize..20, leaves).prop_map(
        |((common, own), max_tokens, drawn, (n, priority, salt, adapter, prompt_logprobs), arrives, leaves)| {
            let (temperature, repetition_penalty, seed) = drawn;
            Visit {
                common,
                own,
                max_tokens,
                temperature,
                repetition_penalty,
                seed,
                n,
                priority,
                salt,
                adapter,
                prompt_logprobs,
                arrives,
                leaves,
            }
        },
    )
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let limits = (1usize..7, 1usize..80, 0usize..4, prop_oneof![Just(8usize), Just(16)], 1usize..4, any::<bool>());
    (proptest::collection::vec(visit(), 1..8), limits).prop_map(|(visits, limits)| {
        let (max_num_seqs, max_num_batched_tokens, further_blocks, block_size, threads, prefix_caching) = limits;
        Schedule { visits, max_num_seqs, max_num_batched_tokens, further_blocks, block_size, threads, prefix_caching }
    })
}

impl Visit {
    fn request(&self, index: usize, vocab_size: usize, adapters: &[AdapterId]) -> Request {
        let (which, count) = self.common;
        let common = (0..count).map(|i| (i * i + 31 * which) as u32);
        Request {
            prompt: common.chain(self.own.iter().copied()).map(|id| id % vocab_size as u32).collect(),
            params: SamplingParams {
                temperature: self.temperature,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
                ..SamplingParams::default()
            },
            max_tokens: Some(self.max_tokens),
            n: self.n as u32,
            choice: (index * CHOICES) as u32,
            priority: self.priority,
            cache_salt: self.salt.then(|| "a tenant".to_owned()),
            prompt_logprobs: self.prompt_logprobs.then_some(2),
            adapter: self.adapter.map(|which| adapters[which]),
            ..Request::default()
        }
    }

    fn prompt_len(&self) -> usize {
        self.common.1 + self.own.len()
    }
}

/// How a model computes and stores keys and values.
#[derive(Clone, Copy)]
struct Numbers {
    activations: Activations,
    dtype: KvDtype,
}

fn options(numbers: Numbers, block_size: usize, threads: usize) -> ExecutorOptions {
    let Numbers { activations, dtype } = numbers;
    let kv = KvOptions {
        block_size,
        dtype,
        budget_bytes: 64 << 20,
        // Beyond what some models were made for, so that frequencies that follow the length differ between requests.
        max_model_len: Some(160),
        max_num_seqs: 8,
        max_num_batched_tokens: 128,
    };
    ExecutorOptions { threads, activations, kv, ..ExecutorOptions::default() }
}

/// What came of a visit.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    /// Of each choice.
    tokens: Vec<Vec<u32>>,
    prompt_logprobs: Option<Vec<Vec<TokenLogprob>>>,
}

impl Answer {
    fn new(visit: &Visit) -> Self {
        Answer { tokens: vec![Vec::new(); visit.n], prompt_logprobs: None }
    }

    fn take(&mut self, output: Output) {
        self.tokens[output.choice as usize % CHOICES].extend(output.token);
        assert!(output.prompt_logprobs.is_none() || self.prompt_logprobs.is_none(), "said twice");
        self.prompt_logprobs = self.prompt_logprobs.take().or(output.prompt_logprobs);
    }

    /// Whether this is `whole`, or what there was of it when the visit left.
    fn is_start_of(&self, whole: &Answer) -> bool {
        self.tokens.iter().zip(&whole.tokens).all(|(some, all)| all.starts_with(some))
            && (self.prompt_logprobs.is_none() || self.prompt_logprobs == whole.prompt_logprobs)
    }
}

/// What schedules must have met for the comparison to mean something.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    preemptions: usize,
    prefix_hits: usize,
}

/// Runs `visits` as scheduled.
fn run((engine, adapters): (&mut Engine, &[AdapterId]), visits: &[Visit], seen: &mut Seen) -> Vec<Answer> {
    let vocab_size = engine.info().vocab_size;
    let mut ids: BTreeMap<RequestId, usize> = BTreeMap::new();
    let mut answers: Vec<Answer> = visits.iter().map(Answer::new).collect();
    let mut now = 0;
    while engine.has_work() || ids.len() < visits.len() {
        for (index, visit) in visits.iter().enumerate().filter(|(_, visit)| visit.arrives == now) {
            ids.insert(engine.add_request(visit.request(index, vocab_size, adapters)).unwrap(), index);
        }
        for (&id, &index) in &ids {
            if visits[index].leaves == Some(now) {
                engine.abort(id);
            }
        }
        for output in engine.step().unwrap() {
            let index = ids[&output.id];
            let finished = output.finished;
            let choice = output.choice as usize % CHOICES;
            answers[index].take(output);
            if let Some(finished) = finished {
                assert_eq!(finished.reason, FinishReason::Length);
                assert_eq!(answers[index].tokens[choice].len(), visits[index].max_tokens);
            }
        }
        let (used, blocks) = engine.kv_blocks();
        assert!(used <= blocks);
        now += 1;
        assert!(now < 10_000, "the engine does not get on");
    }
    assert_eq!(engine.kv_blocks().0, 0, "blocks are in use at idle");
    let counts = engine.take_counts();
    seen.preemptions += counts.preemptions;
    seen.prefix_hits += counts.prefix_hits;
    answers
}

/// Each visit's answer and logits when it is alone and its prompt is computed at once, each choice by itself.
fn alone((engine, adapters): (&mut Engine, &[AdapterId]), bits: &Bits, visits: &[Visit]) -> (Vec<Answer>, Rows) {
    bits.lock().unwrap().clear();
    let mut answers: Vec<Answer> = visits.iter().map(Answer::new).collect();
    for (index, visit) in visits.iter().enumerate() {
        let request = visit.request(index, engine.info().vocab_size, adapters);
        for choice in request.choice..request.choice + request.n {
            let id = engine.add_request(Request { choice, n: 1, ..request.clone() }).unwrap();
            while engine.has_work() {
                let mut outputs = engine.step().unwrap();
                assert!(outputs.len() == 1 && outputs[0].id == id, "the prompt is computed at once");
                let output = outputs.remove(0);
                let first = choice == request.choice;
                answers[index].take(if first { output } else { Output { prompt_logprobs: None, ..output } });
            }
        }
    }
    (answers, std::mem::take(&mut bits.lock().unwrap()))
}

/// Compares random schedules with each request alone.
fn compare(numbers: Numbers, cases: u32) {
    let mut all = Seen::default();
    let models = models();
    for (dir, model) in &models {
        let (recorder, expected_bits) = Recorder::new(load(dir, model, &options(numbers, 16, 1)), |_, blocks| blocks);
        let limits = EngineOptions { max_num_seqs: 1, max_num_batched_tokens: 128, enable_prefix_caching: false };
        let mut reference = Engine::new(Box::new(recorder), limits);
        let parts = [0, 1].map(|seed| made_up(model, seed));
        let load_all = |engine: &mut Engine| parts.each_ref().map(|parts| engine.load_adapter(parts).unwrap());
        let of_reference = load_all(&mut reference);
        let reference = std::cell::RefCell::new(&mut reference);
        let seen = std::cell::Cell::new(Seen::default());
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&schedule(), |schedule| {
            let Schedule { visits, block_size, further_blocks, .. } = &schedule;
            let (expected, expected_logits) =
                alone((&mut reference.borrow_mut(), &of_reference), &expected_bits, visits);
            let longest = visits.iter().map(|v| v.prompt_len() + v.max_tokens - 1).max().unwrap_or(1);
            let executor = load(dir, model, &options(numbers, *block_size, schedule.threads));
            let (recorder, bits) = Recorder::new(executor, |spec, _| {
                let whole = longest.div_ceil(*block_size);
                let least = spec.window.map_or(whole, |window| whole.min((window + block_size - 2) / block_size + 1));
                least + further_blocks
            });
            let limits = EngineOptions {
                max_num_seqs: schedule.max_num_seqs,
                max_num_batched_tokens: schedule.max_num_batched_tokens,
                enable_prefix_caching: schedule.prefix_caching,
            };
            let mut here = seen.get();
            let mut engine = Engine::new(Box::new(recorder), limits);
            let adapters = load_all(&mut engine);
            let answers = run((&mut engine, &adapters), visits, &mut here);
            seen.set(here);
            for (visit, (answer, expected)) in visits.iter().zip(answers.iter().zip(&expected)) {
                prop_assert!(answer.is_start_of(expected), "{:?} instead of {:?}", answer, expected);
                prop_assert!(visit.leaves.is_some() || answer == expected);
            }
            for (place, logits) in bits.lock().unwrap().iter() {
                prop_assert!(expected_logits[place] == *logits, "logits of (choice, position) {:?} differ", place);
            }
            Ok(())
        });
        outcome.unwrap_or_else(|failure| panic!("{}: {failure}", dir.display()));
        println!("{}: {cases} schedules, {:?}", dir.display(), seen.get());
        all.preemptions += seen.get().preemptions;
        all.prefix_hits += seen.get().prefix_hits;
    }
    println!("{} golden models ran", models.len());
    assert!(all.preemptions > 0, "no schedule was tight enough for a preemption");
    assert!(all.prefix_hits > 0, "no prefix was found");
}

#[test]
fn golden_models_give_the_same_bits_in_any_schedule_with_f32_activations() {
    compare(Numbers { activations: Activations::F32, dtype: KvDtype::F32 }, 16);
}

#[test]
fn golden_models_give_the_same_bits_in_any_schedule_with_int8_activations() {
    compare(Numbers { activations: Activations::Int8, dtype: KvDtype::F16 }, 16);
}

#[test]
fn golden_models_give_the_same_bits_in_any_schedule_with_eight_bits_a_key_and_value() {
    for dtype in [KvDtype::I8, KvDtype::E4M3] {
        compare(Numbers { activations: Activations::Int8, dtype }, 4);
    }
}
