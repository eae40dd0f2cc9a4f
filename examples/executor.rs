//! Door 2, use a model with a scheduler of one's own: three requests of different lengths decode greedily in shared steps.
//!
//! `cargo run --package nxd-examples --example executor [MODEL]`

use anyhow::{Context, Result, bail};
use nxd_executor::{CpuExecutor, Executor, ExecutorOptions};
use nxd_models::{LoadMode, Model};
use nxd_ops::{Batch, Drawn, GroupTables, SamplingBatch, SamplingRow};
use std::path::PathBuf;

/// Blocks that each request owns, in every KV group.
const BLOCKS_EACH: usize = 8;

#[allow(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/testkit/goldens/llama-mha-default");
    let model = Model::open(&std::env::args_os().nth(1).map_or(tiny, PathBuf::from), LoadMode::Mmap)?;
    let mut executor = CpuExecutor::load(&model, &ExecutorOptions::default())?;

    // What each request has computed so far, and the tokens it runs next: the prompt first, then one a step.
    let prompts: [&[u32]; 3] = [&[305, 68, 234, 465], &[17], &[502, 271, 356]];
    let mut requests: Vec<(usize, Vec<u32>)> = prompts.iter().map(|prompt| (0, prompt.to_vec())).collect();
    let mut outputs = vec![Vec::new(); prompts.len()];
    for _ in 0..8 {
        let batch = ragged(executor.info(), &requests);
        let sampling = SamplingBatch { rows: vec![SamplingRow::default(); requests.len()], ..SamplingBatch::default() };
        let output = executor.step(&batch, &sampling)?;
        for (i, drawn) in output.drawn.iter().enumerate() {
            let Drawn::Token { id, .. } = drawn else { bail!("the logits of request {i} are not finite") };
            outputs[i].push(*id);
            let (done, tokens) = &mut requests[i];
            (*done, *tokens) = (*done + tokens.len(), vec![*id]);
        }
    }
    for (prompt, output) in prompts.iter().zip(&outputs) {
        println!("{prompt:?} -> {output:?}");
    }
    // As computed by another implementation (the golden data of this checkpoint) for a longer prompt; here only that all went on.
    outputs.iter().all(|o| o.len() == 8).then_some(()).context("a request fell behind")
}

/// One step of all requests: prompts and single tokens side by side, without padding.
fn ragged(info: &nxd_executor::ModelInfo, requests: &[(usize, Vec<u32>)]) -> Batch {
    let mut batch = Batch { query_starts: vec![0], ..Batch::default() };
    let mut tables = GroupTables { starts: vec![0], ..GroupTables::default() };
    for (i, (done, tokens)) in requests.iter().enumerate() {
        let end = done + tokens.len();
        batch.token_ids.extend(tokens);
        batch.positions.extend(*done as u32..end as u32);
        batch.query_starts.push(batch.token_ids.len() as u32);
        batch.rope_lens.push(end as u32);
        batch.wanted.push(batch.token_ids.len() as u32 - 1);
        let block = |index: usize| (i * BLOCKS_EACH + index) as u32;
        let (had, has) = (done.div_ceil(info.block_size), end.div_ceil(info.block_size));
        tables.blocks.extend((0..has).map(block));
        tables.zero_blocks.extend((had..has).map(block));
        tables.starts.push(tables.blocks.len() as u32);
        tables.first_blocks.push(0);
    }
    batch.groups = vec![tables; info.kv_groups.len()];
    batch
}
