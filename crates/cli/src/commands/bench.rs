//! `nxd bench`: tokens a second of prompts (`pp`) and of generation (`tg`), without a server; on the CPU also the fraction of what memory
//! gives that generation reads.

use std::time::Instant;

use nxd_cpu::CpuOptions;
use nxd_cpu::limits::memory_bytes_per_s;
use nxd_cpu::team::Team;
use nxd_executor::{Device, Executor, ExecutorOptions, ModelInfo};
use nxd_ops::{SamplingBatch, SamplingRow};
use serde::Serialize;

use super::drive::{self, Chunk};
use super::load;
use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::output;

/// One row of the result.
#[derive(Debug, Serialize)]
struct Row {
    test: String,
    batch: usize,
    depth: usize,
    threads: usize,
    tokens_per_s: Spread,
    weights_bytes: usize,
    /// Of these, what a step reads: of experts those that were chosen, or would be if each were as likely as any other.
    weights_bytes_of_step: f64,
    /// `tg`: bytes that steps read a second, the weights once a step and the K and V that each sequence sees. `pp`: bytes of weights
    /// alone, as if whole prompts were steps.
    bytes_per_s: f64,
    /// What this machine's memory gives to as many threads: the median of a measurement after each run, as machines that are shared
    /// drift. `None` for devices other than the CPU.
    memory_bytes_per_s: Option<f64>,
    /// The bytes that a run of `tg` read a second, by what memory gave right after it: the median. Above 1 where caches hold what steps read.
    fraction_of_memory_limit: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let path = load::resolve(&args.model)?;
    let model = load::open(&path, &args.runtime)?;
    let mut options = load::options(&args.runtime, &args.engine).executor_options();
    let longest = args.depth + args.prompt_tokens.max(args.gen_tokens);
    let most = args.batch.iter().copied().max().unwrap_or(1);
    options.kv.max_model_len = Some(longest.max(1));
    options.kv.max_num_seqs = most;
    let chunk = options.kv.max_num_batched_tokens;
    // Sequences keep all their blocks here, those behind a window too.
    options.kv.max_num_batched_tokens = longest.max(1);
    let mut executor = nxd_executor::load(&model, &options).map_err(load::executor_failure)?;
    let info = executor.info().clone();
    let blocks_each = longest.div_ceil(info.block_size);
    if let Some(&(_, blocks)) = info.kv_groups.iter().find(|(_, blocks)| *blocks < blocks_each * most) {
        let fits = blocks / blocks_each;
        let text = format!(
            "a KV cache of {} bytes holds {fits} sequences of {longest} tokens, --batch asks for {most}",
            info.kv_bytes
        );
        return Err(
            Failure::new(crate::failure::Kind::Memory, text).with_help("lower --batch, or raise --kv-cache-memory")
        );
    }
    let mut bench = Bench { executor: executor.as_mut(), blocks_each, chunk, vocab_size: info.vocab_size };
    let memory = (options.device == Device::Cpu).then(|| memory_team(&options));
    let mut rows = Vec::new();
    for &batch in &args.batch {
        for (name, tokens, generate) in [("pp", args.prompt_tokens, false), ("tg", args.gen_tokens, true)] {
            if tokens == 0 {
                continue;
            }
            // Not timed: weights are packed, work space grows.
            for _ in 0..2 {
                bench.fill(batch, 0, if generate { 1 } else { tokens })?;
            }
            let (mut rates, mut limits, mut fractions) = (Vec::new(), Vec::new(), Vec::new());
            let rows_of_step = if generate { batch } else { batch * tokens };
            let weights_bytes_of_step = info.weights_bytes_of_step(rows_of_step);
            let kv_bytes = if generate { mean_kv_bytes(&info, args.depth, tokens) } else { 0.0 };
            let bytes_a_token = weights_bytes_of_step / rows_of_step as f64 + kv_bytes;
            for _ in 0..args.repeat {
                bench.fill(batch, 0, args.depth)?;
                let start = Instant::now();
                if generate {
                    bench.generate(batch, args.depth, tokens)?
                } else {
                    bench.fill(batch, args.depth, tokens)?
                }
                let rate = (batch * tokens) as f64 / start.elapsed().as_secs_f64();
                rates.push(rate);
                // What memory gives may change from second to second.
                if let Some(limit) = memory.as_ref().map(memory_limit) {
                    limits.push(limit);
                    fractions.extend(generate.then_some(rate * bytes_a_token / limit));
                }
            }
            rates.sort_by(f64::total_cmp);
            let median = rates[rates.len() / 2];
            limits.sort_by(f64::total_cmp);
            fractions.sort_by(f64::total_cmp);
            rows.push(Row {
                test: format!("{name}{tokens}"),
                batch,
                depth: args.depth,
                threads: options.threads,
                tokens_per_s: Spread { median, min: rates[0], max: rates[rates.len() - 1] },
                weights_bytes: info.weights_bytes,
                weights_bytes_of_step,
                bytes_per_s: median * bytes_a_token,
                memory_bytes_per_s: limits.get(limits.len() / 2).copied(),
                fraction_of_memory_limit: fractions.get(fractions.len() / 2).copied(),
            });
        }
    }
    if args.json { output::json(&rows) } else { output::line(&table(&rows)) }
}

/// As many threads as compute, where they compute.
fn memory_team(options: &ExecutorOptions) -> Team {
    let ranks = options.tensor_parallel_size;
    let threads = (options.threads / ranks).max(1) * ranks;
    CpuOptions { threads, pin_threads: options.pin_threads, ..CpuOptions::default() }.team(0, 1)
}

fn memory_limit(team: &Team) -> f64 {
    let _lead = team.lead();
    memory_bytes_per_s(team)
}

/// Bytes of K and V that a generated token of one sequence reads, the mean over `count` tokens from position `start` on.
fn mean_kv_bytes(info: &ModelInfo, start: usize, count: usize) -> f64 {
    let seen = |position: usize| {
        let groups = info.kv_groups.iter().zip(&info.kv_token_bytes);
        let bytes = groups.map(|((spec, _), bytes)| spec.window.unwrap_or(usize::MAX).min(position + 1) * bytes);
        bytes.sum::<usize>() as f64
    };
    (start..start + count).map(seen).sum::<f64>() / count as f64
}

struct Bench<'e> {
    executor: &'e mut dyn Executor,
    blocks_each: usize,
    /// Most tokens a step.
    chunk: usize,
    vocab_size: usize,
}

impl Bench<'_> {
    /// Runs `count` prompt tokens of each of `batch` sequences from position `start` on.
    fn fill(&mut self, batch: usize, start: usize, count: usize) -> Result<(), Failure> {
        let tokens: Vec<u32> = (start..start + count).map(|p| self.token(p)).collect();
        // The same work as a scheduler would hand out: steps of at most `chunk` tokens over the sequences in order.
        let mut left: Vec<(usize, usize)> = (0..batch).map(|sequence| (sequence, 0)).collect();
        while count > 0 && !left.is_empty() {
            let mut room = self.chunk;
            let mut chunks = Vec::new();
            for (sequence, done) in &mut left {
                let take = room.min(count - *done);
                if take == 0 {
                    break;
                }
                let (first, end) = (*done, *done + take);
                let wanted = usize::from(end == count);
                let (sequence, start, tokens) = (*sequence, start + first, &tokens[first..end]);
                chunks.push(Chunk { sequence, start, tokens, wanted, rope_len: start + count });
                *done = end;
                room -= take;
            }
            self.step(&chunks)?;
            left.retain(|(_, done)| *done < count);
        }
        Ok(())
    }

    /// Runs `count` steps of one token for each of `batch` sequences.
    fn generate(&mut self, batch: usize, start: usize, count: usize) -> Result<(), Failure> {
        for position in start..start + count {
            let token = [self.token(position)];
            let chunk =
                |sequence| Chunk { sequence, start: position, tokens: &token, wanted: 1, rope_len: start + count };
            let chunks: Vec<_> = (0..batch).map(chunk).collect();
            self.step(&chunks)?;
        }
        Ok(())
    }

    fn step(&mut self, chunks: &[Chunk<'_>]) -> Result<(), Failure> {
        let batch = drive::batch(self.executor.info(), self.blocks_each, chunks);
        let sampling = SamplingBatch { rows: vec![SamplingRow::default(); batch.wanted.len()], keep_logits: false };
        self.executor.step(&batch, &sampling).map_err(load::executor_failure)?;
        Ok(())
    }

    /// Any token serves; different ones keep the embedding honest.
    fn token(&self, position: usize) -> u32 {
        (position.wrapping_mul(7919) % self.vocab_size) as u32
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<10} {:>6} {:>6} {:>8} {:>12} {:>24} {:>9} {:>9}",
        "test", "batch", "depth", "threads", "tokens/s", "min to max", "GB/s", "of limit"
    );
    for row in rows {
        let Spread { median, min, max } = row.tokens_per_s;
        let range = format!("{min:.1} to {max:.1}");
        let fraction = row.fraction_of_memory_limit.map(|of| format!("{:.0} %", 100.0 * of)).unwrap_or_default();
        text.push_str(&format!(
            "\n{:<10} {:>6} {:>6} {:>8} {median:>12.1} {range:>24} {:>9.2} {fraction:>9}",
            row.test,
            row.batch,
            row.depth,
            row.threads,
            row.bytes_per_s / 1e9
        ));
    }
    if let Some(limit) = rows.first().and_then(|row| row.memory_bytes_per_s) {
        text.push_str(&format!("\nlimit: memory read at {:.2} GB/s by as many threads", limit / 1e9));
    }
    text
}

#[cfg(test)]
mod tests {
    use nxd_ops::{KvSpec, Values};

    use super::*;

    #[test]
    fn a_token_reads_what_each_group_lets_it_see() {
        let spec = |window| KvSpec { num_kv_heads: 1, head_dim: 8, values: Values::Own, window };
        let info = ModelInfo {
            vocab_size: 1,
            hidden_size: 8,
            max_model_len: 64,
            block_size: 16,
            kv_groups: vec![(spec(None), 4), (spec(Some(10)), 4)],
            kv_token_bytes: vec![100, 1],
            weights_bytes: 0,
            mixtures: Vec::new(),
            kv_bytes: 0,
            kernels: Vec::new(),
            kv_dtype: String::new(),
            rope_lens_differ_from: None,
        };
        // Positions 8 and 9 see 9 and 10 tokens, position 10 still 10 of the window.
        assert!((mean_kv_bytes(&info, 8, 3) - (1000.0 + 29.0 / 3.0)).abs() < 1e-9);
        assert!((mean_kv_bytes(&info, 0, 1) - 101.0).abs() < 1e-9);
    }
}
