//! Drawing one token on one thread: greedy (the largest logit), by temperature alone, and through filters, for vocabularies of two sizes.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nxd_cpu::sampling::{SamplingScratch, draw_row};
use nxd_ops::{SamplingParams, SamplingRow};
use std::hint::black_box;
use std::time::Duration;

/// The vocabularies of a small model and of a large one.
const VOCABULARIES: [usize; 2] = [49_152, 262_144];

fn draws(c: &mut Criterion) {
    let params = SamplingParams { temperature: 0.8, seed: 7, ..SamplingParams::default() };
    let kinds = [
        ("argmax", SamplingParams::default()),
        ("temperature", params),
        ("top-k 40, top-p 0.95", SamplingParams { top_k: 40, top_p: 0.95, ..params }),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..params }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..params }),
    ];
    let mut scratch = SamplingScratch::default();
    for vocab_size in VOCABULARIES {
        // Most of the probability on some hundred tokens that lie anywhere, as models have it.
        let logit = |i: usize| ((i.wrapping_mul(2_654_435_761) >> 7) % 10_007) as f32 / 10_007.0;
        let logits: Vec<f32> = (0..vocab_size).map(|i| 4.0 * logit(i).powi(9) * 5.0 - 10.0).collect();
        let mut group = c.benchmark_group(format!("draw/{vocab_size}"));
        group.throughput(Throughput::Elements(vocab_size as u64));
        for (name, params) in kinds {
            let mut row = SamplingRow { params, ..SamplingRow::default() };
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    row.position = row.position.wrapping_add(1);
                    draw_row(black_box(&logits), &row, &mut scratch)
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = draws
}
criterion_main!(benches);
