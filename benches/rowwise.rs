//! Kernels that go over rows once: norms, gated activations, rotation, sums. One row of a small model, which the leader does alone, and 512
//! rows, which the team shares; bytes read and written a second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nxd_cpu::kernels::{elementwise, gated, norm, rope};
use nxd_cpu::{Isa, team::Team};
use nxd_ops::{Gated, NormSpec, Weight};
use std::hint::black_box;
use std::time::Duration;

const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const HEADS: usize = 9;
const HEAD_DIM: usize = 64;

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i % 1009) as f32 - 504.0) / 512.0).collect()
}

fn rows(c: &mut Criterion) {
    let team = Team::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let isa = Isa::detect();
    let mut bench = |name: &str, rows: usize, streams: usize, width: usize, run: &mut dyn FnMut()| {
        let mut group = c.benchmark_group(format!("rowwise/{name}"));
        group.throughput(Throughput::Bytes((streams * rows * width * size_of::<f32>()) as u64));
        group.bench_function(BenchmarkId::from_parameter(rows), |b| b.iter(&mut *run));
        group.finish();
    };
    for count in [1, 512] {
        let (x, mut out) = (values(count * HIDDEN), values(count * HIDDEN));
        let weight = values(HIDDEN);
        let spec = NormSpec::rms(Weight(0), HIDDEN, 1e-5);
        let affine = norm::Affine { weight: Some(&weight), bias: None };
        bench("rms norm", count, 2, HIDDEN, &mut || {
            norm::norm(&team, isa, black_box(&x), affine, &spec, &mut out);
        });
        // Zeros, as sums of a bench that runs for long must stay within bounds.
        let (mut sum, zeros) = (values(count * HIDDEN), vec![0.0; count * HIDDEN]);
        bench("add and rms norm", count, 4, HIDDEN, &mut || {
            norm::add_norm(&team, isa, &mut sum, black_box(&zeros), affine, &spec, &mut out);
        });
        bench("add", count, 3, HIDDEN, &mut || elementwise::add(&team, isa, &mut sum, black_box(&zeros)));
        for (name, activation) in [("silu", Gated::Silu), ("gelu", Gated::Gelu), ("gelu tanh", Gated::GeluTanh)] {
            // So large that the activation gives it back: the values stay however often it is applied.
            let gate = values(count * INTERMEDIATE).into_iter().map(|x| x + 32.0);
            let (mut gate, up): (Vec<f32>, _) = (gate.collect(), vec![1.0; count * INTERMEDIATE]);
            bench(&format!("gated {name}"), count, 3, INTERMEDIATE, &mut || {
                gated::gated(&team, isa, activation, &mut gate, black_box(&up));
            });
        }
        let (mut q, half) = (values(count * HEADS * HEAD_DIM), HEAD_DIM / 2);
        let (sin, cos): (Vec<f32>, Vec<f32>) = (0..count * half).map(|i| (i as f32 * 0.1).sin_cos()).unzip();
        bench("rope", count, 2, HEADS * HEAD_DIM, &mut || {
            rope::rope(&team, isa, black_box(&mut q), &cos, &sin, HEAD_DIM, HEAD_DIM);
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = rows
}
criterion_main!(benches);
