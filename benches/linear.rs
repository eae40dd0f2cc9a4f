//! Matrix products of the CPU device by format and instruction set: a decode row, which waits for memory, and batches of 8 and 512 rows,
//! which wait for arithmetic. Weights of one row are cycled through more memory than caches hold.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nxd_cpu::kernels::linear::{Activations, PackedMatrix, Scratch, linears};
use nxd_cpu::{Isa, team::Team};
use nxd_ops::{Format, LocalWeight, Role, Sharding, StoredWeight, WeightSpec};
use std::hint::black_box;

/// The shape of a small model's MLP, its inputs whole blocks of every format.
const ROWS: usize = 3072;
const COLS: usize = 768;
/// Weights that a row passes by until it meets one again, in bytes: several times a last-level cache.
const CYCLE: usize = 160 << 20;

/// A matrix of made-up bytes; speed does not depend on values as long as they are finite.
fn matrix(format: Format, team: &Team) -> PackedMatrix {
    let spec = WeightSpec {
        name: "weight".to_owned(),
        role: Role::Matrix,
        shape: [ROWS, COLS],
        sharding: Sharding::Replicated,
    };
    let bytes = ROWS * format.row_bytes(COLS).expect("whole blocks");
    let data = (0..bytes).map(|i| (i % 37) as u8).collect::<Vec<u8>>().into();
    let stored =
        StoredWeight { origin: "made up".to_owned(), format, shape: spec.shape, data, order: None, scales: None };
    let local = LocalWeight::new(&spec, stored, 0).expect("shape and length fit");
    PackedMatrix::pack(&local, Activations::Int8, Isa::detect(), team)
}

fn products(c: &mut Criterion) {
    let team = Team::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    for format in Format::all() {
        let first = matrix(format, &team);
        let count = CYCLE.div_ceil(first.bytes());
        let matrices: Vec<_> = std::iter::once(first).chain((1..count).map(|_| matrix(format, &team))).collect();
        for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar) {
            let mut group = c.benchmark_group(format!("linear/{format}/{}", isa.name()));
            for rows in [1, 8, 512] {
                // One row is bound by the bytes of the weights, many by the operations on them.
                let (throughput, used) = match rows {
                    1 => (Throughput::Bytes(matrices[0].bytes() as u64), &matrices[..]),
                    _ => (Throughput::Elements((2 * rows * ROWS * COLS) as u64), &matrices[..1]),
                };
                group.throughput(throughput);
                let x: Vec<f32> = (0..rows * COLS).map(|i| ((i % 101) as f32 - 50.0) / 64.0).collect();
                let (mut y, mut scratch) = (vec![0.0; rows * ROWS], Scratch::new());
                let mut weights = used.iter().cycle();
                group.bench_with_input(BenchmarkId::from_parameter(rows), &rows, |b, &rows| {
                    b.iter(|| {
                        let weight = weights.next().expect("a cycle has no end");
                        linears(&team, isa, black_box(&x), rows, &[weight], &mut [&mut y], &mut scratch);
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
