//! Sampling programs on XLA's CPU plugin: against golden data, against double precision, and at the edges.

mod draws;
mod edges;
mod golden;
mod numbers;
mod plugin;
mod reference;

use super::{SampleBucket, filter, graph, inputs, outputs, record};
use crate::host::HostArray;
use crate::program::{Program, ProgramBuilder, ResultKey};
use crate::record::Element;
use crate::target::{Spread, Target, check};
use nxd_ops::{Drawn, SamplingParams, SamplingRow};

/// Sampling with nothing but the plain softmax.
const PLAIN: SamplingParams = SamplingParams {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    typical_p: 1.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    seed: 0,
};

/// The CPU plugin under another name and with few candidates, as of a device that cannot sort.
const FEW: Target = Target { candidates: Some(8), ..Target::CPU };

fn row(params: SamplingParams) -> SamplingRow {
    SamplingRow { params, ..SamplingRow::default() }
}

/// The program of a bucket that is given its logits.
fn program(bucket: &SampleBucket, vocab_size: usize, target: &Target) -> Program {
    let mut b = ProgramBuilder::new();
    if target.rules.guarded_integers {
        b.rec.guard_integers();
    }
    let logits = b.input("logits", &[bucket.rows, vocab_size], Element::F32);
    record(&mut b, &logits, bucket, target);
    b.finish(&bucket.to_string(), 1, Spread::Replicas)
}

/// What rows draw from their logits, each `[V]`. Rows that fill the bucket are given NaN.
fn draw(logits: &[Vec<f32>], rows: &[SamplingRow], target: &Target) -> Vec<Drawn> {
    let bucket = SampleBucket::of(rows, false);
    let results = plugin::run(&program(&bucket, logits[0].len(), target), &given(logits, rows, &bucket));
    outputs(&bucket, rows, &results)
}

/// The tokens that each row may draw, with their probabilities, in the order in which the random number runs over them.
fn kept(logits: &[Vec<f32>], rows: &[SamplingRow], target: &Target) -> Vec<Vec<(u32, f64)>> {
    let bucket = SampleBucket::of(rows, false);
    let mut b = ProgramBuilder::new();
    let vocab_size = logits[0].len();
    let raw = b.input("logits", &[bucket.rows, vocab_size], Element::F32);
    let adjusted = graph::adjusted(&mut b, &raw, &bucket);
    let sound = graph::Sound::record(&mut b.rec, &adjusted);
    let kept = filter::record(&mut b, &sound, &bucket, target);
    b.result(ResultKey::Named("weights"), &kept.weights);
    let ids = kept.ids.unwrap_or_else(|| b.rec.iota(1, &[bucket.rows, vocab_size], Element::I32));
    b.result(ResultKey::Named("ids"), &ids);
    let program = b.finish(&format!("kept_{bucket}"), 1, Spread::Replicas);
    let results = plugin::run(&program, &given(logits, rows, &bucket));
    let (weights, ids) = (floats(&results["weights"]), ints(&results["ids"]));
    let width = ids.len() / bucket.rows;
    let of_row = |(ids, weights): (&[i32], &[f32])| -> Vec<(u32, f64)> {
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let pairs = ids.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
        pairs.map(|(&id, &weight)| (id as u32, f64::from(weight) / total)).collect()
    };
    ids.chunks(width).zip(weights.chunks(width)).map(of_row).take(rows.len()).collect()
}

fn given(logits: &[Vec<f32>], rows: &[SamplingRow], bucket: &SampleBucket) -> crate::inputs::Inputs {
    let vocab_size = logits[0].len();
    let mut all = logits.concat();
    all.resize(bucket.rows * vocab_size, f32::NAN);
    let mut given = inputs(bucket, rows);
    given.insert("logits".to_owned(), HostArray::f32s(&[bucket.rows, vocab_size], &all));
    given
}

fn floats(array: &HostArray) -> Vec<f32> {
    array.data.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
}

fn ints(array: &HostArray) -> Vec<i32> {
    array.data.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
}

#[test]
fn programs_keep_to_every_targets_rules() {
    let params = SamplingParams { typical_p: 0.9, top_k: 5, presence_penalty: 1.0, ..PLAIN };
    let all = SamplingRow {
        history: vec![1],
        logprobs: Some(5),
        bias: vec![(1, 1.0)],
        allowed: Some([1].into()),
        ..row(params)
    };
    let fixed = SamplingRow { target: Some(1), logprobs: Some(0), ..row(params) };
    for target in Target::ALL {
        for rows in
            [vec![all.clone(); 3], vec![all.clone(), fixed.clone()], vec![row(PLAIN)], vec![SamplingRow::default(); 64]]
        {
            let bucket = SampleBucket::of(&rows, false);
            check(&program(&bucket, 128_256, &target), &target)
                .unwrap_or_else(|broken| panic!("{bucket} for {}: {broken}", target.name));
        }
    }
}
