//! The bit-equality promise: a request's logits are the same bits alone or beside others, in one piece or in chunks, with any block size,
//! with 1 to 4 threads, with any instruction set.

use crate::model::{BLOCKS, Random, Rows, Runner, Setup, ranks, spec};
use nxd_cpu::{Activations, Isa, KvDtype};
use nxd_modules::DecoderSpec;
use nxd_ops::{BlockFormat, Format};
use nxd_testkit::assert_bits;

/// A request's tokens and the logits it must have.
struct Request {
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

const VOCAB: usize = 97;

fn runner(spec: &DecoderSpec, setup: Setup) -> Runner {
    ranks(spec, setup, 1).pop().unwrap()
}

/// Requests run alone, each in one step, by plain scalar code on one thread.
fn alone(spec: &DecoderSpec, setup: Setup, lengths: &[usize], random: &mut Random) -> Vec<Request> {
    let mut runner = runner(spec, Setup { threads: 1, block_size: 16, isa: Isa::Scalar, ..setup });
    let mut request = |&length: &usize| {
        let tokens: Vec<u32> = (0..length).map(|_| random.below(VOCAB) as u32).collect();
        let blocks = (0..length.div_ceil(16) as u32).collect();
        let logits = runner.step(&[Rows { tokens: tokens.clone(), start: 0, blocks }]);
        Request { tokens, logits }
    };
    lengths.iter().map(&mut request).collect()
}

/// Runs the requests together in random chunks, on blocks scattered over the cache, and compares every row's bits.
fn together(spec: &DecoderSpec, setup: Setup, requests: &[Request], random: &mut Random) {
    let mut runner = runner(spec, setup);
    let mut free: Vec<u32> = (0..(BLOCKS * 16 / setup.block_size) as u32).collect();
    for i in (1..free.len()).rev() {
        free.swap(i, random.below(i + 1));
    }
    let blocks: Vec<Vec<u32>> =
        requests.iter().map(|r| free.split_off(free.len() - r.tokens.len().div_ceil(setup.block_size))).collect();
    let mut done = vec![0; requests.len()];
    while (0..requests.len()).any(|r| done[r] < requests[r].tokens.len()) {
        let mut chosen = Vec::new();
        for r in 0..requests.len() {
            let left = requests[r].tokens.len() - done[r];
            if left > 0 && random.below(4) > 0 {
                // Single rows are the commonest: they are what decoding looks like.
                let count = if random.below(2) == 0 { 1 } else { 1 + random.below(left) };
                chosen.push((r, count));
            }
        }
        let rows: Vec<Rows> = chosen
            .iter()
            .map(|&(r, count)| Rows {
                tokens: requests[r].tokens[done[r]..done[r] + count].to_vec(),
                start: done[r],
                blocks: blocks[r].clone(),
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let logits = runner.step(&rows);
        let mut at = 0;
        for (r, count) in chosen {
            let expected = &requests[r].logits[done[r] * VOCAB..(done[r] + count) * VOCAB];
            let what = format!("{setup:?}: request {r}, positions {} to {}", done[r], done[r] + count);
            assert_bits(&logits[at..at + expected.len()], expected, &what);
            at += expected.len();
            done[r] += count;
        }
    }
}

/// One format in both numeric modes, over threads, block sizes, KV types and instruction sets.
fn holds_for(format: Format) {
    let spec = spec(8, 2, (256, 256));
    let modes: &[Activations] =
        if format.is_quantised() { &[Activations::Int8, Activations::F32] } else { &[Activations::F32] };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for &activations in modes {
        for kv in [KvDtype::F32, KvDtype::F16, KvDtype::BF16, KvDtype::I8] {
            let setup = Setup { format, activations, kv, threads: 1, block_size: 16, isa: Isa::detect() };
            let requests = alone(&spec, setup, &[1, 5, 40, 61], &mut random);
            for (threads, block_size, isa) in
                [(1, 16, Isa::detect()), (2, 8, Isa::detect()), (3, 32, Isa::Scalar), (4, 24, Isa::detect())]
            {
                together(&spec, Setup { threads, block_size, isa, ..setup }, &requests, &mut random);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_batch_with_f32_weights() {
    holds_for(Format::F32);
}

#[test]
fn bits_do_not_depend_on_the_batch_with_f16_weights() {
    holds_for(Format::F16);
}

#[test]
fn bits_do_not_depend_on_the_batch_with_bf16_weights() {
    holds_for(Format::BF16);
}

#[test]
fn bits_do_not_depend_on_the_batch_with_plain_blocks() {
    for block in BlockFormat::ALL.into_iter().filter(|b| b.block_len() == 32) {
        holds_for(Format::Blocks(block));
    }
}

#[test]
fn bits_do_not_depend_on_the_batch_with_super_blocks() {
    for block in BlockFormat::ALL.into_iter().filter(|b| b.block_len() == 256) {
        holds_for(Format::Blocks(block));
    }
}

#[test]
fn bits_do_not_depend_on_chunks_across_attention_partitions() {
    let spec = spec(4, 1, (64, 96));
    let mut random = Random(77);
    let setup = Setup {
        format: Format::Blocks(BlockFormat::Q8_0),
        activations: Activations::Int8,
        kv: KvDtype::F16,
        threads: 1,
        block_size: 16,
        isa: Isa::detect(),
    };
    let requests = alone(&spec, setup, &[600, 257, 31], &mut random);
    for threads in 1..=4 {
        together(&spec, Setup { threads, ..setup }, &requests, &mut random);
    }
}
