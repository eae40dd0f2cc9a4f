//! `nxd bench`: tokens a second of prompts (`pp`) and of generation (`tg`), without a server.

use std::time::Instant;

use nxd_executor::Executor;
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
    /// Bytes of weights read a second when each step reads them once; for `pp`, at the rate of whole prompts.
    bytes_per_s: f64,
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
            options.kv.budget_bytes
        );
        return Err(
            Failure::new(crate::failure::Kind::Memory, text).with_help("lower --batch, or raise --kv-cache-memory")
        );
    }
    let mut bench = Bench { executor: executor.as_mut(), blocks_each, chunk, vocab_size: info.vocab_size };
    let mut rows = Vec::new();
    for &batch in &args.batch {
        for (name, tokens, generate) in [("pp", args.prompt_tokens, false), ("tg", args.gen_tokens, true)] {
            if tokens == 0 {
                continue;
            }
            let mut rates = Vec::new();
            for _ in 0..args.repeat {
                bench.fill(batch, 0, args.depth)?;
                let start = Instant::now();
                if generate {
                    bench.generate(batch, args.depth, tokens)?
                } else {
                    bench.fill(batch, args.depth, tokens)?
                }
                rates.push((batch * tokens) as f64 / start.elapsed().as_secs_f64());
            }
            rates.sort_by(f64::total_cmp);
            let median = rates[rates.len() / 2];
            let steps_per_s = median / if generate { batch } else { batch * tokens } as f64;
            rows.push(Row {
                test: format!("{name}{tokens}"),
                batch,
                depth: args.depth,
                threads: options.threads,
                tokens_per_s: Spread { median, min: rates[0], max: rates[rates.len() - 1] },
                weights_bytes: info.weights_bytes,
                bytes_per_s: steps_per_s * info.weights_bytes as f64,
            });
        }
    }
    if args.json { output::json(&rows) } else { output::line(&table(&rows)) }
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
        "{:<10} {:>6} {:>6} {:>8} {:>12} {:>24} {:>9}",
        "test", "batch", "depth", "threads", "tokens/s", "min to max", "GB/s"
    );
    for row in rows {
        let Spread { median, min, max } = row.tokens_per_s;
        let range = format!("{min:.1} to {max:.1}");
        text.push_str(&format!(
            "\n{:<10} {:>6} {:>6} {:>8} {median:>12.1} {range:>24} {:>9.2}",
            row.test,
            row.batch,
            row.depth,
            row.threads,
            row.bytes_per_s / 1e9
        ));
    }
    text
}
