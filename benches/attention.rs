//! Attention of the CPU device, a layer a call: a decode row at several depths (bound by the bytes of K and V), a batch of them, and a
//! prompt of 512 (bound by the operations on its pairs). Blocks are scattered, and calls go round layers that together exceed the caches.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nxd_cpu::kernels::attention::{Attend, AttendScratch, attend};
use nxd_cpu::kv::{KvCache, Place};
use nxd_cpu::{Isa, KvDtype, team::Team};
use nxd_ops::{AttendSpec, Batch, GroupTables, KvSpec, Values};
use std::hint::black_box;

const BLOCK: usize = 16;
/// Bytes of K and V that calls go round.
const BYTES: usize = 96 << 20;
const DTYPES: [KvDtype; 4] = [KvDtype::F32, KvDtype::F16, KvDtype::I8, KvDtype::E4M3];

/// Name, query heads, KV heads, values a head.
const MODELS: [(&str, usize, usize, usize); 2] = [("135M", 9, 3, 64), ("8B", 32, 8, 128)];

/// Requests that have some tokens in the cache, the last `rows` of which are a step's.
struct Work {
    cache: KvCache,
    batch: Batch,
    spec: AttendSpec,
    layers: usize,
    q: Vec<f32>,
}

impl Work {
    fn new(team: &Team, model: usize, dtype: KvDtype, requests: usize, depth: usize, rows: usize) -> Self {
        let (_, num_heads, num_kv_heads, head_dim) = MODELS[model];
        let kept = KvSpec { num_kv_heads, head_dim, values: Values::Own, window: None };
        let each = depth.div_ceil(BLOCK);
        let num_blocks = requests * each;
        let one_layer = |layers| KvCache::new(layers, &kept, num_blocks, BLOCK, dtype).expect("the memory can be had");
        let layers = BYTES.div_ceil(one_layer(1).bytes());
        let mut cache = one_layer(layers);
        let mut blocks: Vec<u32> = (0..num_blocks as u32).collect();
        blocks.sort_unstable_by_key(|b| b.wrapping_mul(0x9e37_79b9));
        let batch = |rows: usize| Batch {
            token_ids: vec![0; requests * rows],
            positions: (0..requests).flat_map(|_| (depth - rows) as u32..depth as u32).collect(),
            query_starts: (0..=requests).map(|r| (r * rows) as u32).collect(),
            rope_lens: vec![depth as u32; requests],
            groups: vec![GroupTables {
                starts: (0..=requests).map(|r| (r * each) as u32).collect(),
                blocks: blocks.clone(),
                first_blocks: vec![0; requests],
                zero_blocks: Vec::new(),
                copy_blocks: Vec::new(),
            }],
            ..Batch::default()
        };
        let values = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| ((i % 1009) as f32 * f).sin()).collect() };
        let width = num_kv_heads * head_dim;
        let all = batch(depth);
        let (k, v) = (values(all.num_tokens() * width, 0.7), values(all.num_tokens() * width, 0.3));
        for layer in 0..layers {
            cache.write(team, Isa::detect(), &Place { layer, batch: &all, tables: &all.groups[0] }, &k, Some(&v));
        }
        let batch = batch(rows);
        let q = values(batch.num_tokens() * num_heads * head_dim, 1.3);
        Work { cache, batch, spec: AttendSpec::new(num_heads, 0.125), layers, q }
    }

    fn measure(&self, team: &Team, b: &mut criterion::Bencher<'_>) {
        let (mut out, mut scratch, mut layer) = (vec![0.0; self.q.len()], AttendScratch::default(), 0);
        b.iter(|| {
            let place = Place { layer, batch: &self.batch, tables: &self.batch.groups[0] };
            let work = Attend { cache: &self.cache, place, spec: &self.spec, sinks: None };
            attend(team, Isa::detect(), black_box(&self.q), &work, &mut out, &mut scratch);
            layer = (layer + 1) % self.layers;
        });
    }
}

fn decode(c: &mut Criterion) {
    let team = Team::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    for (model, (name, ..)) in MODELS.into_iter().enumerate() {
        for dtype in DTYPES {
            let mut group = c.benchmark_group(format!("decode/{name}/{dtype}"));
            for (requests, depth) in [(1, 512), (1, 2048), (1, 8192), (8, 512)] {
                let work = Work::new(&team, model, dtype, requests, depth, 1);
                group.throughput(Throughput::Bytes((work.cache.bytes() / work.layers) as u64));
                let id = BenchmarkId::from_parameter(format!("{requests}x{depth}"));
                group.bench_function(id, |b| work.measure(&team, b));
            }
            group.finish();
        }
    }
}

fn prefill(c: &mut Criterion) {
    let team = Team::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    for (model, (name, num_heads, _, head_dim)) in MODELS.into_iter().enumerate() {
        for dtype in DTYPES {
            let mut group = c.benchmark_group(format!("prefill/{name}/{dtype}"));
            for (depth, rows) in [(512, 512), (2048, 512)] {
                let work = Work::new(&team, model, dtype, 1, depth, rows);
                let pairs = rows * (depth - rows) + rows * (rows + 1) / 2;
                group.throughput(Throughput::Elements((4 * pairs * num_heads * head_dim) as u64));
                let id = BenchmarkId::from_parameter(format!("{rows} to {depth}"));
                group.bench_function(id, |b| work.measure(&team, b));
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(std::time::Duration::from_millis(200)).measurement_time(std::time::Duration::from_secs(1)).sample_size(20);
    targets = decode, prefill
}
criterion_main!(benches);
