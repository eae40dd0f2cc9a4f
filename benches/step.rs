//! Whole steps of a tiny model through the executor: what scheduling, barriers and small ops cost beside the products.

use criterion::{Criterion, criterion_group, criterion_main};
use nxd_executor::{CpuExecutor, Executor, ExecutorOptions};
use nxd_models::{LoadMode, Model};
use nxd_ops::{Batch, GroupTables, SamplingBatch, SamplingRow};
use std::path::Path;

/// A step of `requests` requests, `rows` tokens each, at the start of their contexts.
fn batch(executor: &CpuExecutor, requests: u32, rows: u32) -> Batch {
    let info = executor.info();
    let each = rows.div_ceil(info.block_size as u32);
    let tables = GroupTables {
        starts: (0..=requests).map(|r| r * each).collect(),
        blocks: (0..requests * each).collect(),
        first_blocks: vec![0; requests as usize],
        zero_blocks: Vec::new(),
        copy_blocks: Vec::new(),
    };
    Batch {
        token_ids: (0..requests * rows).map(|i| i % 300).collect(),
        positions: (0..requests).flat_map(|_| 0..rows).collect(),
        query_starts: (0..=requests).map(|r| r * rows).collect(),
        rope_lens: vec![rows; requests as usize],
        groups: vec![tables; info.kv_groups.len()],
        wanted: (1..=requests).map(|r| r * rows - 1).collect(),
        ..Batch::default()
    }
}

fn steps(c: &mut Criterion) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/testkit/goldens/llama-mha-default");
    let model = Model::open(&dir, LoadMode::Mmap).expect("the checkpoint is in the repository");
    let mut executor = CpuExecutor::load(&model, &ExecutorOptions::default()).expect("it loads");
    for (name, requests, rows) in [("decode of 1", 1, 1), ("decode of 8", 8, 1), ("prompt of 128", 1, 128)] {
        let batch = batch(&executor, requests, rows);
        let sampling = SamplingBatch { rows: vec![SamplingRow::default(); requests as usize], keep_logits: false };
        c.bench_function(&format!("step/{name}"), |b| {
            b.iter(|| executor.step(&batch, &sampling).expect("the batch fits"));
        });
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
