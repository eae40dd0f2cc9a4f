//! Products and attention have the same bits with teams of any size, far larger than the machine too.

use nxd_cpu::kernels::attention::{Attend, AttendScratch, attend};
use nxd_cpu::kernels::linear::{Activations, PackedMatrix, Scratch, linears};
use nxd_cpu::kv::{KvCache, Place};
use nxd_cpu::{Isa, KvDtype, team::Team};
use nxd_ops::{
    AttendSpec, Batch, BlockFormat, Format, GroupTables, KvSpec, LocalWeight, Role, Sharding, StoredWeight, Values,
    WeightSpec,
};
use nxd_testkit::assert_bits;

const TEAMS: [usize; 5] = [1, 2, 3, 8, 64];

fn values(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| ((i % 1009) as f32 * step).sin()).collect()
}

/// A matrix of made-up bytes whose 16-bit factors are small and finite.
fn weight(format: Format, rows: usize, cols: usize) -> LocalWeight {
    let shape = [rows, cols];
    let spec = WeightSpec { name: "w".into(), role: Role::Matrix, shape, sharding: Sharding::Replicated };
    let bytes = (0..rows * format.row_bytes(cols).unwrap()).map(|i| (i * 31 % 61) as u8).collect::<Vec<u8>>();
    let stored =
        StoredWeight { origin: "made up".into(), format, shape, data: bytes.into(), order: None, scales: None };
    LocalWeight::new(&spec, stored, 0).unwrap()
}

#[test]
fn products_do_not_depend_on_the_size_of_the_team() {
    let cols = 512;
    // Fewer panels than members, more of them, and a last one that is not full.
    let kinds = [
        (Format::Blocks(BlockFormat::Q8_0), Activations::Int8, 40),
        (Format::Blocks(BlockFormat::Q4_K), Activations::Int8, 1100),
        (Format::Blocks(BlockFormat::Q4_0), Activations::F32, 250),
        (Format::F16, Activations::F32, 1030),
        (Format::BF16, Activations::Int8, 1030),
    ];
    for rows in [1, 5, 70] {
        let x = values(rows * cols, 0.37);
        let run = |threads: usize, isa: Isa| {
            let team = Team::new(threads);
            let pack = |(format, mode, n)| PackedMatrix::pack(&weight(format, n, cols), mode, isa, &team);
            let matrices = kinds.map(pack);
            let mut outs = matrices.each_ref().map(|matrix| vec![f32::NAN; rows * matrix.rows()]);
            let mut slices: Vec<&mut [f32]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
            let matrices = matrices.each_ref();
            linears(&team, isa, &x, rows, &matrices, &mut slices, &mut Scratch::new());
            outs.concat()
        };
        let expected = run(1, Isa::Scalar);
        assert!(expected.iter().all(|value| value.is_finite()), "a product that is not finite would prove little");
        for threads in TEAMS {
            assert_bits(&run(threads, Isa::detect()), &expected, &format!("{rows} rows, {threads} threads"));
        }
    }
}

#[test]
fn attention_does_not_depend_on_the_size_of_the_team() {
    let (num_heads, kept) = (6, KvSpec { num_kv_heads: 2, head_dim: 24, values: Values::Own, window: None });
    let (depth, block_size) = (530_usize, 16);
    let blocks = depth.div_ceil(block_size);
    let tables = GroupTables {
        starts: vec![0, blocks as u32, 2 * blocks as u32],
        blocks: (0..2 * blocks as u32).rev().collect(),
        first_blocks: vec![0; 2],
        zero_blocks: Vec::new(),
        copy_blocks: Vec::new(),
    };
    // The last `rows` tokens of two requests: decode, a chunk, and a whole prompt.
    let batch = |rows: usize| Batch {
        token_ids: vec![0; 2 * rows],
        positions: (0..2).flat_map(|_| (depth - rows) as u32..depth as u32).collect(),
        query_starts: vec![0, rows as u32, 2 * rows as u32],
        rope_lens: vec![depth as u32; 2],
        groups: vec![tables.clone()],
        ..Batch::default()
    };
    let width = kept.num_kv_heads * kept.head_dim;
    let (k, v) = (values(2 * depth * width, 0.7), values(2 * depth * width, 0.3));
    let dtypes = [KvDtype::F16, KvDtype::I8, KvDtype::E4M3];
    for (dtype, rows) in dtypes.into_iter().flat_map(|dtype| [1, 9, depth].map(|n| (dtype, n))) {
        let q = values(2 * rows * num_heads * kept.head_dim, 1.3);
        let run = |threads: usize, isa: Isa| {
            let team = Team::new(threads);
            let mut cache = KvCache::new(1, &kept, 2 * blocks, block_size, dtype).unwrap();
            let all = batch(depth);
            cache.write(&team, isa, &Place { layer: 0, batch: &all, tables: &all.groups[0] }, &k, Some(&v));
            let (batch, spec) = (batch(rows), AttendSpec::new(num_heads, 0.2));
            let place = Place { layer: 0, batch: &batch, tables: &batch.groups[0] };
            let (mut out, mut scratch) = (vec![f32::NAN; q.len()], AttendScratch::default());
            let work = Attend { cache: &cache, place, spec: &spec, sinks: None };
            attend(&team, isa, &q, &work, &mut out, &mut scratch);
            out
        };
        let expected = run(1, Isa::Scalar);
        assert!(expected.iter().all(|value| value.is_finite()));
        for threads in TEAMS {
            assert_bits(&run(threads, Isa::detect()), &expected, &format!("{dtype}, {rows} rows, {threads} threads"));
        }
    }
}
