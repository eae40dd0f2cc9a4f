//! The engine's own work: steps over an executor that computes nothing, so that what is left is planning, blocks, tables, text and channels.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::ArrayView2;
use nxd_engine::service::{Event, Job, Limits, Service};
use nxd_engine::{Engine, EngineOptions, Request};
use nxd_executor::{Executor, ExecutorError, ModelInfo, StepId, StepOutput};
use nxd_models::{LoadMode, Model};
use nxd_ops::{Batch, Drawn, KvSpec, Output, SamplingBatch, Values};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens of each prompt, as many as a chat has.
const PROMPT: usize = 512;

/// Draws a token for every row without looking at anything.
struct Nothing {
    info: ModelInfo,
}

impl Executor for Nothing {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn forward(&mut self, _: &Batch) -> Result<StepId, ExecutorError> {
        Ok(StepId(0))
    }

    fn sample(&mut self, _: StepId, sampling: &SamplingBatch) -> Result<StepOutput, ExecutorError> {
        let token = |(row, draw): (usize, &nxd_ops::SamplingRow)| {
            let id = (draw.position as usize * 7 + row) % self.info.vocab_size;
            Drawn::Token { id: id as u32, logprobs: Vec::new() }
        };
        Ok(StepOutput { drawn: sampling.rows.iter().enumerate().map(token).collect(), logits: Vec::new() })
    }

    fn hidden(&self, _: StepId) -> Result<ArrayView2<'_, f32>, ExecutorError> {
        Ok(ArrayView2::from_shape((0, 1), &[]).expect("nothing fits into nothing"))
    }

    fn captured(&self, _: StepId) -> Result<&[(Output, Vec<f32>)], ExecutorError> {
        Ok(&[])
    }
}

fn model() -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/testkit/goldens/llama-mha-default");
    Model::open(&dir, LoadMode::Mmap).expect("the checkpoint is in the repository")
}

fn engine(model: &Model, max_num_seqs: usize) -> Engine {
    let spec = KvSpec { num_kv_heads: 1, head_dim: 8, values: Values::Own, window: None };
    let info = ModelInfo {
        vocab_size: model.spec().vocab_size,
        hidden_size: 1,
        max_model_len: 1 << 20,
        block_size: 16,
        kv_groups: vec![(spec, 1 << 17)],
        kv_token_bytes: vec![1],
        weights_bytes: 1,
        mixtures: Vec::new(),
        kv_bytes: 1,
        kernels: Vec::new(),
        kv_dtype: "f16".to_owned(),
        rope_lens_differ_from: None,
    };
    let options =
        EngineOptions { max_num_seqs, max_num_batched_tokens: PROMPT * max_num_seqs, ..EngineOptions::default() };
    Engine::new(Box::new(Nothing { info }), options)
}

/// A request that goes on for as long as somebody measures.
fn endless(model: &Model, index: u32) -> Request {
    let prompt = (0..PROMPT as u32).map(|i| (i * 31 + index) % model.spec().vocab_size as u32).collect();
    Request { prompt, ..Request::default() }
}

/// Decode steps of the engine alone.
fn steps(c: &mut Criterion) {
    let model = model();
    let mut group = c.benchmark_group("engine/step");
    for batch in [1, 8, 64] {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            let mut engine = engine(&model, batch);
            for index in 0..batch as u32 {
                engine.add_request(endless(&model, index)).expect("it can be served");
            }
            engine.step().expect("nothing fails");
            b.iter(|| engine.step().expect("nothing fails"));
        });
    }
    group.finish();
}

/// Tokens through the service: a step, text, mailboxes, and a reader for each stream.
fn service(c: &mut Criterion) {
    let model = Arc::new(model());
    let mut group = c.benchmark_group("engine/service");
    for batch in [1, 8] {
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter_custom(|steps| {
                let service = Service::start(engine(&model, batch), Arc::clone(&model), Limits::default(), |_| {});
                let handle = service.as_ref().expect("a thread can be had").handle();
                let mut streams: Vec<_> = (0..batch as u32)
                    .map(|index| {
                        let max_tokens = Some(steps as usize + 1);
                        let job = Job::new(Request { max_tokens, ..endless(&model, index) });
                        handle.submit(handle.admit().expect("there is room"), job).expect("it can be served")
                    })
                    .collect();
                let mut start = None;
                for stream in &mut streams {
                    while let Some(event) = stream.recv_timeout(Duration::from_secs(60)) {
                        if matches!(event, Event::Piece(_)) {
                            start.get_or_insert_with(Instant::now);
                        }
                    }
                }
                start.map_or(Duration::ZERO, |start| start.elapsed())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps, service);
criterion_main!(benches);
