//! Real checkpoints through the executor's door: hidden rows, copied blocks, and what it says of a model.

use crate::model::{Random, Rows, batch};
use nxd_cpu::KvDtype;
use nxd_executor::{CpuExecutor, Executor, ExecutorOptions, KvOptions};
use nxd_models::{LoadMode, Model};
use nxd_ops::{Batch, SamplingBatch, SamplingRow};
use nxd_testkit::assert_bits;
use std::path::Path;

const BLOCK_SIZE: usize = 16;
/// With full attention, and with layers that see a window of the context.
const CHECKPOINTS: [&str; 3] = ["llama-gqa-llama3-rope-tied", "mistral-sliding-window", "gemma3-local-global"];

fn load(checkpoint: &str, kv: KvDtype, ranks: usize) -> CpuExecutor {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/goldens").join(checkpoint);
    let model = Model::open(&folder, LoadMode::Mmap).unwrap();
    let options = ExecutorOptions::default();
    let kv = KvOptions { block_size: BLOCK_SIZE, dtype: kv, budget_bytes: 16 << 20, max_num_seqs: 8, ..options.kv };
    CpuExecutor::load(&model, &ExecutorOptions { threads: 2, tensor_parallel_size: ranks, kv, ..options }).unwrap()
}

fn tokens(executor: &CpuExecutor, count: usize, random: &mut Random) -> Vec<u32> {
    (0..count).map(|_| random.below(executor.info().vocab_size) as u32).collect()
}

fn batch_of(executor: &CpuExecutor, rows: &[Rows]) -> Batch {
    batch(rows, BLOCK_SIZE, executor.info().kv_groups.len())
}

/// The hidden rows of a step and the logits of these.
fn run(executor: &mut CpuExecutor, batch: &Batch) -> (Vec<f32>, Vec<f32>) {
    let step = executor.forward(batch).unwrap();
    let sampling = SamplingBatch { rows: vec![SamplingRow::default(); batch.wanted.len()], keep_logits: true };
    let hidden = executor.hidden(step).unwrap().iter().copied().collect();
    (hidden, executor.sample(step, &sampling).unwrap().logits)
}

#[test]
fn hidden_rows_have_the_same_bits_whatever_shares_the_batch() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (checkpoint, ranks) in CHECKPOINTS.into_iter().zip([1, 2, 1]) {
        let mut executor = load(checkpoint, KvDtype::F16, ranks);
        let width = executor.info().hidden_size;
        let lengths = [1_usize, 7, 33, 20];
        let blocks = [vec![3], vec![0], vec![6, 1, 4], vec![2, 5]];
        let prompts = lengths.map(|length| tokens(&executor, length, &mut random));
        let request = |r: usize, start: usize, count: usize| {
            let tokens: &Vec<u32> = &prompts[r];
            Rows { tokens: tokens[start..start + count].to_vec(), start, blocks: blocks[r].clone() }
        };
        let alone: Vec<Vec<f32>> = (0..lengths.len())
            .map(|r| {
                let alone = batch_of(&executor, &[request(r, 0, lengths[r])]);
                run(&mut executor, &alone).0
            })
            .collect();
        let (mut done, mut shared) = ([0; 4], 0);
        while done != lengths {
            let mut chosen = Vec::new();
            for r in 0..lengths.len() {
                let left = lengths[r] - done[r];
                if left > 0 && random.below(4) > 0 {
                    chosen.push((r, 1 + random.below(left)));
                }
            }
            let rows: Vec<Rows> = chosen.iter().map(|&(r, count)| request(r, done[r], count)).collect();
            let together = batch_of(&executor, &rows);
            let step = executor.forward(&together).unwrap();
            let hidden: Vec<f32> = executor.hidden(step).unwrap().iter().copied().collect();
            let mut hidden = hidden.as_slice();
            for &(r, count) in &chosen {
                let (found, rest) = hidden.split_at(count * width);
                let what = format!(
                    "{checkpoint}, {ranks} ranks: hidden rows {} to {} of request {r}",
                    done[r],
                    done[r] + count
                );
                assert_bits(found, &alone[r][done[r] * width..][..count * width], &what);
                hidden = rest;
                done[r] += count;
            }
            shared += usize::from(chosen.len() > 1);
        }
        assert!(shared > 0, "no step had several requests");
    }
}

#[test]
fn requests_that_branch_off_in_copied_blocks_have_the_bits_of_requests_that_ran_alone() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for (checkpoint, kv) in CHECKPOINTS.into_iter().flat_map(|checkpoint| KvDtype::ALL.map(|kv| (checkpoint, kv))) {
        for ranks in [1, 2] {
            let mut executor = load(checkpoint, kv, ranks);
            // Two full blocks and one with five tokens; the second branch needs a block of its own behind that.
            let prompt = tokens(&executor, 37, &mut random);
            let tails = [5, 14, 3].map(|count| tokens(&executor, count, &mut random));
            let alone = tails.clone().map(|tail| {
                let rows = Rows { tokens: [prompt.clone(), tail].concat(), start: 0, blocks: vec![0, 1, 2, 3] };
                let mut executor = load(checkpoint, kv, ranks);
                let batch = batch_of(&executor, &[rows]);
                run(&mut executor, &batch)
            });

            // What another request left in the blocks must not be seen.
            let other = Rows { tokens: tokens(&executor, 64, &mut random), start: 0, blocks: vec![5, 6, 7, 8] };
            let other = batch_of(&executor, &[other]);
            run(&mut executor, &other);
            let trunk = batch_of(&executor, &[Rows { tokens: prompt.clone(), start: 0, blocks: vec![0, 1, 2] }]);
            run(&mut executor, &trunk);
            let blocks = [vec![0, 1, 2], vec![0, 1, 5, 7], vec![0, 1, 6]];
            let branch =
                |(tail, blocks): (&Vec<u32>, Vec<u32>)| Rows { tokens: tail.clone(), start: prompt.len(), blocks };
            let rows: Vec<Rows> = tails.iter().zip(blocks).map(branch).collect();
            let mut branches = batch_of(&executor, &rows);
            for tables in &mut branches.groups {
                tables.zero_blocks.extend([5, 6]);
                tables.copy_blocks = vec![(2, 5), (5, 6)];
            }
            let (hidden, logits) = run(&mut executor, &branches);

            let (width, vocab) = (executor.info().hidden_size, executor.info().vocab_size);
            let mut at = 0;
            for (tail, (expected_hidden, expected_logits)) in tails.iter().zip(&alone) {
                let what = format!("{checkpoint}, {kv}, {ranks} ranks: {} tokens behind a copy", tail.len());
                let rows = at..at + tail.len();
                let (found, expected) = (&hidden[rows.start * width..rows.end * width], &expected_hidden[37 * width..]);
                assert_bits(found, expected, &what);
                assert_bits(&logits[rows.start * vocab..rows.end * vocab], &expected_logits[37 * vocab..], &what);
                at = rows.end;
            }
        }
    }
}

#[test]
fn a_copy_of_a_block_that_the_cache_does_not_have_is_refused() {
    let mut executor = load(CHECKPOINTS[0], KvDtype::F16, 1);
    let had = executor.info().kv_groups[0].1 as u32;
    for copy in [(had, 0), (0, had), (u32::MAX, 1)] {
        let mut batch = batch_of(&executor, &[Rows { tokens: vec![1], start: 0, blocks: vec![0] }]);
        batch.groups[0].copy_blocks = vec![(0, 1), copy];
        let text = executor.forward(&batch).unwrap_err().to_string();
        assert_eq!(text, format!("batch names block {} of group 0, the cache has {had}", copy.0.max(copy.1)));
    }
}

#[test]
fn a_model_says_from_which_length_on_its_rotations_differ() {
    let differ_from = |checkpoint| load(checkpoint, KvDtype::F16, 1).info().rope_lens_differ_from;
    assert_eq!(differ_from("llama-dynamic-ntk"), Some(80));
    for checkpoint in ["llama-mha-default", "llama-gqa-llama3-rope-tied", "qwen2-yarn-swa"] {
        assert_eq!(differ_from(checkpoint), None, "{checkpoint}");
    }
}

#[test]
fn a_model_says_how_its_cache_stores() {
    assert_eq!(load(CHECKPOINTS[0], KvDtype::I8, 1).info().kv_dtype, "int8");
    assert_eq!(load(CHECKPOINTS[0], KvDtype::BF16, 1).info().kv_dtype, "bf16");
    assert_eq!(load(CHECKPOINTS[0], KvDtype::E4M3, 1).info().kv_dtype, "fp8");
}

#[cfg(feature = "pjrt")]
#[test]
fn eight_bits_a_key_and_value_are_refused_by_a_traced_device_before_its_plugin_is_opened() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/goldens").join(CHECKPOINTS[0]);
    let model = Model::open(&folder, LoadMode::Mmap).unwrap();
    for (dtype, name) in [(KvDtype::I8, "int8"), (KvDtype::E4M3, "fp8")] {
        let options = ExecutorOptions { device: "pjrt:/no.so".parse().unwrap(), ..ExecutorOptions::default() };
        let kv = KvOptions { dtype, ..options.kv };
        let error = nxd_executor::load(&model, &ExecutorOptions { kv, ..options }).err().unwrap().to_string();
        let expected = "is for the CPU; the device `pjrt:/no.so` stores f32, bf16 or f16";
        assert_eq!(error, format!("--kv-cache-dtype {name} {expected}"));
    }
}
