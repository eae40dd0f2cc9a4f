//! What a model loses by the type of its KV cache: how far its predictions are from those with f32 keys and values.
//!
//! `cargo bench -p nxd-benches --bench kv_cache -- /path/to/model.gguf` prints the table of `docs/quantisation.md`. The text is
//! `docs/architecture.md`, in pieces that are requests by themselves; everything but the cache is f32. The last row is what integer products
//! lose with an f32 cache. With `--test` a tiny checkpoint reads a few tokens.

use nxd_executor::{Activations, CpuExecutor, Executor, ExecutorOptions, KvDtype, KvOptions};
use nxd_models::{LoadMode, Model};
use nxd_ops::{Batch, GroupTables, SamplingBatch, SamplingRow};
use std::error::Error;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Tokens of a step: the logits of so many positions are held at once, once for each type.
const CHUNK: usize = 128;

/// How much is read.
struct Effort {
    model: PathBuf,
    pieces: usize,
    piece_len: usize,
}

/// A type of the cache and a way to multiply, and what came of them.
struct Cache {
    dtype: KvDtype,
    activations: Activations,
    executor: CpuExecutor,
    /// Of each position, the Kullback-Leibler divergence of its distribution from the one with an f32 cache, in nats.
    divergences: Vec<f64>,
    /// Positions whose most likely token is the same.
    same: usize,
    /// What the tokens that did follow were taken for, as negative logarithms.
    surprises: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tiny = || root.join("crates/testkit/goldens/llama-mha-default");
    let named = std::env::args().skip(1).find(|arg| !arg.starts_with("--")).map(PathBuf::from);
    let effort = match std::env::args().any(|arg| arg == "--test") {
        true => Effort { model: tiny(), pieces: 1, piece_len: 24 },
        false => Effort { model: named.unwrap_or_else(tiny), pieces: 4, piece_len: 1024 },
    };
    let model = Model::open(&effort.model, LoadMode::Mmap)?;
    let text = std::fs::read_to_string(root.join("docs/architecture.md"))?;
    let vocab_size = model.spec().vocab_size as u32;
    let tokens = match model.tokenizer() {
        Some(tokenizer) => tokenizer.encode(&text, false)?,
        None => text.bytes().map(|byte| u32::from(byte) % vocab_size).collect(),
    };
    let of_types = KvDtype::ALL.map(|dtype| (dtype, Activations::F32));
    let kinds = of_types.into_iter().chain([(KvDtype::F32, Activations::Int8)]);
    let mut caches = kinds.map(|kind| cache(&model, kind, &effort)).collect::<Result<Vec<_>, _>>()?;
    for piece in tokens.chunks_exact(effort.piece_len).take(effort.pieces) {
        for start in (0..piece.len()).step_by(CHUNK) {
            chunk(&mut caches, piece, start..piece.len().min(start + CHUNK))?;
        }
    }
    std::io::stdout().write_all(table(&mut caches).as_bytes())?;
    Ok(())
}

fn cache(
    model: &Model,
    (dtype, activations): (KvDtype, Activations),
    effort: &Effort,
) -> Result<Cache, Box<dyn Error>> {
    let len = effort.piece_len;
    let options = ExecutorOptions::default();
    // One request keeps all its blocks, those behind a window too.
    let kv = KvOptions { dtype, max_model_len: Some(len), max_num_seqs: 1, max_num_batched_tokens: len, ..options.kv };
    let executor = CpuExecutor::load(model, &ExecutorOptions { activations, kv, ..options })?;
    Ok(Cache { dtype, activations, executor, divergences: Vec::new(), same: 0, surprises: Vec::new() })
}

/// Runs the positions `rows` of a piece with each cache and compares with the first one, which is f32.
fn chunk(caches: &mut [Cache], piece: &[u32], rows: Range<usize>) -> Result<(), Box<dyn Error>> {
    let mut reference: Option<Vec<Vec<f64>>> = None;
    for cache in caches {
        let batch = batch(&cache.executor, piece, &rows);
        let sampling = SamplingBatch { rows: vec![SamplingRow::default(); rows.len()], keep_logits: true };
        let logits = cache.executor.step(&batch, &sampling)?.logits;
        let found: Vec<Vec<f64>> = logits.chunks_exact(logits.len() / rows.len()).map(log_softmax).collect();
        let expected = reference.get_or_insert_with(|| found.clone());
        for ((position, found), expected) in rows.clone().zip(&found).zip(expected) {
            let terms = expected.iter().zip(found).map(|(p, q)| p.exp() * (p - q));
            cache.divergences.push(terms.sum());
            cache.same += usize::from(most_likely(found) == most_likely(expected));
            cache.surprises.extend(piece.get(position + 1).map(|&next| -found[next as usize]));
        }
    }
    Ok(())
}

/// The step that has these rows of the only request.
fn batch(executor: &CpuExecutor, piece: &[u32], rows: &Range<usize>) -> Batch {
    let info = executor.info();
    let [had, has] = [rows.start, rows.end].map(|tokens| tokens.div_ceil(info.block_size) as u32);
    let tables = GroupTables {
        starts: vec![0, has],
        blocks: (0..has).collect(),
        first_blocks: vec![0],
        zero_blocks: (had..has).collect(),
        copy_blocks: Vec::new(),
    };
    Batch {
        token_ids: piece[rows.clone()].to_vec(),
        positions: (rows.start as u32..rows.end as u32).collect(),
        query_starts: vec![0, rows.len() as u32],
        rope_lens: vec![piece.len() as u32],
        groups: vec![tables; info.kv_groups.len()],
        wanted: (0..rows.len() as u32).collect(),
        ..Batch::default()
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - top).exp()).sum();
    let base = f64::from(top) + sum.ln();
    logits.iter().map(|logit| f64::from(*logit) - base).collect()
}

fn most_likely(row: &[f64]) -> Option<usize> {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)))
}

fn table(caches: &mut [Cache]) -> String {
    let positions = caches.first().map_or(0, |cache| cache.divergences.len());
    let mut text = format!(
        "{positions} positions\n\n\
         | `--kv-cache-dtype` | bytes a token | mean divergence | the 99th percentile | same token | perplexity |\n\
         | --- | --- | --- | --- | --- | --- |\n"
    );
    for Cache { dtype, activations, executor, divergences, same, surprises } in caches {
        let bytes: usize = executor.info().kv_token_bytes.iter().sum();
        divergences.sort_by(f64::total_cmp);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (most, part) = (divergences[positions * 99 / 100], *same as f64 * 100.0 / positions as f64);
        let (divergence, perplexity) = (mean(divergences), mean(surprises).exp());
        let mode = if *activations == Activations::Int8 { ", `--activations int8`" } else { "" };
        text.push_str(&format!(
            "| {dtype}{mode} | {bytes} | {divergence:.1e} | {most:.1e} | {part:.2} % | {perplexity:.3} |\n"
        ));
    }
    text
}
