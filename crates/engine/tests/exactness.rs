//! A request's tokens and the bits of its logits do not depend on what shares its steps, on how its prompt is cut, on the number of KV
//! blocks, on preemption, or on requests that are taken out.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test's own functions unwrap and print, too"
)]

mod recorder;

use nxd_engine::{Engine, EngineOptions, FinishReason, Request, RequestId, SamplingParams};
use nxd_executor::{Activations, ExecutorOptions, KvDtype, KvOptions};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use recorder::{Bits, Recorder, Rows, load, models};
use std::collections::BTreeMap;

/// A request and when it comes and goes.
#[derive(Clone, Debug)]
struct Visit {
    prompt: Vec<u32>,
    max_tokens: usize,
    temperature: f32,
    repetition_penalty: f32,
    seed: u64,
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
}

fn visit() -> impl Strategy<Value = Visit> {
    let prompt = proptest::collection::vec(any::<u32>(), 1..90);
    let drawn = (prop_oneof![Just(0.0f32), Just(0.9)], prop_oneof![Just(1.0f32), Just(1.3)], any::<u64>());
    let leaves = proptest::option::weighted(0.2, 0usize..30);
    (prompt, 1usize..40, drawn, 0usize..12, leaves).prop_map(|(prompt, max_tokens, drawn, arrives, leaves)| {
        let (temperature, repetition_penalty, seed) = drawn;
        Visit { prompt, max_tokens, temperature, repetition_penalty, seed, arrives, leaves }
    })
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let limits = (1usize..7, 1usize..80, 0usize..4, prop_oneof![Just(8usize), Just(16)], 1usize..4);
    (proptest::collection::vec(visit(), 1..8), limits).prop_map(|(visits, limits)| {
        let (max_num_seqs, max_num_batched_tokens, further_blocks, block_size, threads) = limits;
        Schedule { visits, max_num_seqs, max_num_batched_tokens, further_blocks, block_size, threads }
    })
}

impl Visit {
    fn request(&self, choice: usize, vocab_size: usize) -> Request {
        Request {
            prompt: self.prompt.iter().map(|id| id % vocab_size as u32).collect(),
            params: SamplingParams {
                temperature: self.temperature,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
                ..SamplingParams::default()
            },
            max_tokens: Some(self.max_tokens),
            choice: choice as u32,
            ..Request::default()
        }
    }
}

fn options(activations: Activations, block_size: usize, threads: usize) -> ExecutorOptions {
    let dtype = if activations == Activations::F32 { KvDtype::F32 } else { KvDtype::F16 };
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

/// Runs `visits` as scheduled; gives each one's tokens and how often any was preempted.
fn run(engine: &mut Engine, visits: &[Visit]) -> (Vec<Vec<u32>>, usize) {
    let vocab_size = engine.info().vocab_size;
    let mut ids: BTreeMap<RequestId, usize> = BTreeMap::new();
    let mut tokens = vec![Vec::new(); visits.len()];
    let (mut preemptions, mut now) = (0, 0);
    while engine.has_work() || ids.len() < visits.len() {
        for (index, visit) in visits.iter().enumerate().filter(|(_, visit)| visit.arrives == now) {
            ids.insert(engine.add_request(visit.request(index, vocab_size)).unwrap(), index);
        }
        for (&id, &index) in &ids {
            if visits[index].leaves == Some(now) {
                engine.abort(id);
            }
        }
        for output in engine.step().unwrap() {
            let index = ids[&output.id];
            tokens[index].extend(output.token);
            if let Some(finished) = output.finished {
                assert_eq!(finished.reason, FinishReason::Length);
                assert_eq!(tokens[index].len(), visits[index].max_tokens);
                preemptions += finished.stats.preemptions;
            }
        }
        let (used, blocks) = engine.kv_blocks();
        assert!(used <= blocks);
        now += 1;
        assert!(now < 10_000, "the engine does not get on");
    }
    assert_eq!(engine.kv_blocks().0, 0, "blocks are in use at idle");
    (tokens, preemptions)
}

/// Each visit's tokens and logits when it is alone and its prompt is computed at once.
fn alone(engine: &mut Engine, bits: &Bits, visits: &[Visit]) -> (Vec<Vec<u32>>, Rows) {
    bits.lock().unwrap().clear();
    let mut tokens = Vec::new();
    for (index, visit) in visits.iter().enumerate() {
        let id = engine.add_request(visit.request(index, engine.info().vocab_size)).unwrap();
        tokens.push(Vec::new());
        while engine.has_work() {
            let outputs = engine.step().unwrap();
            assert!(
                outputs.iter().all(|output| output.id == id) && outputs.len() == 1,
                "the prompt is computed at once"
            );
            tokens[index].extend(outputs[0].token);
        }
    }
    (tokens, std::mem::take(&mut bits.lock().unwrap()))
}

/// Compares random schedules with each request alone; gives how many preemptions were seen.
fn compare(activations: Activations, cases: u32) -> usize {
    let mut preemptions = 0;
    let models = models();
    for (dir, model) in &models {
        let (recorder, expected_bits) =
            Recorder::new(load(dir, model, &options(activations, 16, 1)), |_, blocks| blocks);
        let mut reference =
            Engine::new(Box::new(recorder), EngineOptions { max_num_seqs: 1, max_num_batched_tokens: 128 });
        let reference = std::cell::RefCell::new(&mut reference);
        let seen = std::cell::Cell::new(0);
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&schedule(), |schedule| {
            let Schedule { visits, block_size, further_blocks, .. } = &schedule;
            let (expected, expected_logits) = alone(&mut reference.borrow_mut(), &expected_bits, visits);
            let longest = visits.iter().map(|v| v.prompt.len() + v.max_tokens - 1).max().unwrap_or(1);
            let executor = load(dir, model, &options(activations, *block_size, schedule.threads));
            let (recorder, bits) = Recorder::new(executor, |spec, _| {
                let whole = longest.div_ceil(*block_size);
                let least = spec.window.map_or(whole, |window| whole.min((window + block_size - 2) / block_size + 1));
                least + further_blocks
            });
            let limits = EngineOptions {
                max_num_seqs: schedule.max_num_seqs,
                max_num_batched_tokens: schedule.max_num_batched_tokens,
            };
            let (tokens, preempted) = run(&mut Engine::new(Box::new(recorder), limits), visits);
            seen.set(seen.get() + preempted);
            for (visit, (tokens, expected)) in visits.iter().zip(tokens.iter().zip(&expected)) {
                prop_assert_eq!(tokens, &expected[..tokens.len()]);
                prop_assert!(visit.leaves.is_some() || tokens.len() == expected.len());
            }
            for (place, logits) in bits.lock().unwrap().iter() {
                prop_assert!(expected_logits[place] == *logits, "logits of (request, position) {:?} differ", place);
            }
            Ok(())
        });
        outcome.unwrap_or_else(|failure| panic!("{}: {failure}", dir.display()));
        println!("{}: {cases} schedules, {} preemptions", dir.display(), seen.get());
        preemptions += seen.get();
    }
    println!("{} golden models ran", models.len());
    preemptions
}

#[test]
fn golden_models_give_the_same_bits_in_any_schedule_with_f32_activations() {
    assert!(compare(Activations::F32, 16) > 0, "no schedule was tight enough for a preemption");
}

#[test]
fn golden_models_give_the_same_bits_in_any_schedule_with_int8_activations() {
    assert!(compare(Activations::Int8, 16) > 0, "no schedule was tight enough for a preemption");
}
