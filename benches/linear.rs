//! Matrix products of the CPU device: a decode row and a prompt of 128 rows, by format, at the shape of a small model's MLP.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nxd_cpu::kernels::linear::{Activations, PackedMatrix, Scratch, linears};
use nxd_cpu::{Isa, team::Team};
use nxd_ops::{BlockFormat, Format, LocalWeight, Role, Sharding, SharedBytes, StoredWeight, WeightSpec};
use std::hint::black_box;

const ROWS: usize = 1536;
const COLS: usize = 576;

/// A matrix of made-up bytes; speed does not depend on values as long as they are finite.
fn matrix(format: Format, team: &Team) -> PackedMatrix {
    let spec = WeightSpec {
        name: "weight".to_owned(),
        role: Role::Matrix,
        shape: [ROWS, COLS],
        sharding: Sharding::Replicated,
    };
    let bytes = ROWS * format.row_bytes(COLS).expect("whole blocks");
    let data = SharedBytes::from((0..bytes).map(|i| (i % 37) as u8).collect::<Vec<u8>>());
    let stored = StoredWeight { origin: "made up".to_owned(), format, shape: spec.shape, data, order: None };
    let local = LocalWeight::new(&spec, stored, 0).expect("shape and length fit");
    PackedMatrix::pack(&local, Activations::Int8, Isa::detect(), team)
}

fn products(c: &mut Criterion) {
    let team = Team::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let blocks = [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q5_0];
    let formats = [Format::F32, Format::F16].into_iter().chain(blocks.map(Format::Blocks));
    for format in formats {
        let matrix = matrix(format, &team);
        for rows in [1, 8, 128] {
            let mut group = c.benchmark_group(format!("linear/{format}"));
            // One row is bound by the bytes of the weights, many by the operations on them.
            group.throughput(match rows {
                1 => Throughput::Bytes(matrix.bytes() as u64),
                _ => Throughput::Elements((2 * rows * ROWS * COLS) as u64),
            });
            let x: Vec<f32> = (0..rows * COLS).map(|i| ((i % 101) as f32 - 50.0) / 64.0).collect();
            let (mut y, mut scratch) = (vec![0.0; rows * ROWS], Scratch::new());
            group.bench_with_input(BenchmarkId::from_parameter(rows), &rows, |b, &rows| {
                b.iter(|| linears(&team, Isa::detect(), black_box(&x), rows, &[&matrix], &mut [&mut y], &mut scratch));
            });
            group.finish();
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
