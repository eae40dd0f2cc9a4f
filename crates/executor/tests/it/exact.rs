//! The bit-equality promise: a request's logits are the same bits alone or beside up to 63 others, in one piece or in chunks, with any block
//! size, with 1 to 4 threads, with any instruction set.

use crate::model::{BLOCKS, Random, Rows, Runner, Setup, batch, latent_spec, mixture, ranks, spec};
use nxd_cpu::{Activations, Isa, KvDtype};
use nxd_modules::{DecoderSpec, NormPlacement};
use nxd_ops::{Batch, BlockFormat, Capture, Format};
use nxd_testkit::assert_bits;

/// A request's tokens and the logits it must have.
struct Request {
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

const VOCAB: usize = 97;

/// As small as the format's blocks allow: plain code runs it too.
fn small(format: Format) -> DecoderSpec {
    if format.block_len() == 256 { spec(8, 2, (256, 256)) } else { spec(4, 2, (64, 96)) }
}

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

/// Requests that run together, on blocks scattered over the cache.
struct Running<'r> {
    runner: Runner,
    requests: &'r [Request],
    blocks: Vec<Vec<u32>>,
    done: Vec<usize>,
}

impl<'r> Running<'r> {
    fn new(spec: &DecoderSpec, setup: Setup, requests: &'r [Request], random: &mut Random) -> Self {
        let mut free: Vec<u32> = (0..(BLOCKS * 16 / setup.block_size) as u32).collect();
        random.shuffle(&mut free);
        let blocks =
            requests.iter().map(|r| free.split_off(free.len() - r.tokens.len().div_ceil(setup.block_size))).collect();
        Running { runner: runner(spec, setup), requests, blocks, done: vec![0; requests.len()] }
    }

    /// How many tokens of a request have not run.
    fn left(&self, r: usize) -> usize {
        self.requests[r].tokens.len() - self.done[r]
    }

    /// Runs the next tokens of some requests, as many as stand beside each, and compares every row's bits.
    fn step(&mut self, chosen: &[(usize, usize)]) {
        let rows = |&(r, count): &(usize, usize)| Rows {
            tokens: self.requests[r].tokens[self.done[r]..self.done[r] + count].to_vec(),
            start: self.done[r],
            blocks: self.blocks[r].clone(),
        };
        let rows: Vec<Rows> = chosen.iter().map(rows).collect();
        let logits = self.runner.step(&rows);
        let mut at = 0;
        for &(r, count) in chosen {
            let done = self.done[r];
            let expected = &self.requests[r].logits[done * VOCAB..(done + count) * VOCAB];
            let (setup, batch) = (self.runner.setup, chosen.len());
            let what = format!("{setup:?}: request {r} of {batch}, positions {done} to {}", done + count);
            assert_bits(&logits[at..at + expected.len()], expected, &what);
            at += expected.len();
            self.done[r] += count;
        }
    }
}

/// Runs the requests together in random chunks.
fn together(spec: &DecoderSpec, setup: Setup, requests: &[Request], random: &mut Random) {
    let mut running = Running::new(spec, setup, requests, random);
    while (0..requests.len()).any(|r| running.left(r) > 0) {
        let mut chosen = Vec::new();
        for r in 0..requests.len() {
            let left = running.left(r);
            if left > 0 && random.below(4) > 0 {
                // Single rows are the commonest: they are what decoding looks like.
                let count = if random.below(2) == 0 { 1 } else { 1 + random.below(left) };
                chosen.push((r, count));
            }
        }
        if !chosen.is_empty() {
            running.step(&chosen);
        }
    }
}

/// Requests of a decode step, up to as many as share one: those round which tiles end.
const DECODES: [usize; 11] = [64, 33, 32, 31, 16, 13, 8, 5, 3, 2, 1];
/// The last tokens of each of 64 requests, which those steps run: 208 of 256.
const DECODED: usize = 4;
const MANY: usize = 64;

/// Runs up to 64 requests together: first their prompts in ragged steps of 1 to 64 of them, then a decode step of each size.
fn in_batches(spec: &DecoderSpec, setup: Setup, requests: &[Request], random: &mut Random) {
    let mut running = Running::new(spec, setup, requests, random);
    let mut order: Vec<usize> = (0..requests.len()).collect();
    loop {
        random.shuffle(&mut order);
        let unread = order.iter().copied().filter(|&r| running.left(r) > DECODED);
        let most = 1 + random.below(MANY);
        let chosen: Vec<_> = unread.take(most).map(|r| (r, 1 + random.below(running.left(r) - DECODED))).collect();
        if chosen.is_empty() {
            break;
        }
        running.step(&chosen);
    }
    for size in DECODES {
        random.shuffle(&mut order);
        // Those with the most tokens left, so that there are enough for every step.
        order.sort_by_key(|&r| std::cmp::Reverse(running.left(r)));
        let chosen: Vec<_> = order[..size].iter().map(|&r| (r, 1)).collect();
        running.step(&chosen);
    }
}

/// Up to 64 requests a step, for each format in its numeric modes, with every instruction set and 1 to 4 threads.
fn holds_in_batches(formats: impl Iterator<Item = Format>) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let combinations = formats.flat_map(|format| modes(format).iter().map(move |&mode| (format, mode)));
    for (i, (format, activations)) in combinations.enumerate() {
        let kv = KvDtype::ALL[i % KvDtype::ALL.len()];
        let setup = Setup { format, activations, kv, threads: 1, block_size: 16, isa: Isa::Scalar };
        let lengths: Vec<usize> = (0..MANY).map(|r| DECODED + 1 + r % 3).collect();
        let (spec, first) = (small(format), activations == modes(format)[0]);
        let requests = alone(&spec, setup, &lengths, &mut random);
        for isa in Isa::available() {
            for threads in 1..=4 {
                // Plain code is slow and was the reference already: once for each format, with one of the numbers of threads.
                if isa != Isa::Scalar || (first && threads == 1 + i % 4) {
                    let block_size = [8, 16, 24, 32][random.below(4)];
                    in_batches(&spec, Setup { threads, block_size, isa, ..setup }, &requests, &mut random);
                }
            }
        }
    }
}

/// The numeric modes that weights stored in `format` have.
fn modes(format: Format) -> &'static [Activations] {
    match format {
        Format::F32 | Format::E4M3 | Format::E5M2 => &[Activations::F32],
        _ => &[Activations::Int8, Activations::F32],
    }
}

/// One format in its numeric modes, over threads, block sizes, KV types and instruction sets.
fn holds_for(format: Format) {
    holds(&small(format), format);
}

fn holds(spec: &DecoderSpec, format: Format) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for &activations in modes(format) {
        for kv in KvDtype::ALL {
            let setup = Setup { format, activations, kv, threads: 1, block_size: 16, isa: Isa::detect() };
            let requests = alone(spec, setup, &[1, 5, 40, 61], &mut random);
            // Plain code computes the reference and batches of its own below; with blocks of 256 it would take a minute here.
            let third = if format.block_len() == 256 { Isa::detect() } else { Isa::Scalar };
            for (threads, block_size, isa) in
                [(1, 16, Isa::detect()), (2, 8, Isa::detect()), (3, 32, third), (4, 24, Isa::detect())]
            {
                together(spec, Setup { threads, block_size, isa, ..setup }, &requests, &mut random);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_who_chooses_the_same_experts() {
    for format in [Format::F32, Format::BF16, Format::Blocks(BlockFormat::Q8_0)] {
        holds(&mixture(small(format)), format);
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
fn bits_do_not_depend_on_the_batch_with_int8_weights() {
    holds_for(Format::I8);
}

#[test]
fn bits_do_not_depend_on_the_batch_with_fp8_weights() {
    holds_for(Format::E4M3);
    holds_for(Format::E5M2);
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
fn bits_do_not_depend_on_the_batch_with_latent_attention() {
    let spec = latent_spec(3);
    let mut random = Random(0x9e37_79b9);
    let modes = [
        (Format::F32, KvDtype::F32, Activations::F32),
        (Format::BF16, KvDtype::F16, Activations::F32),
        (Format::F16, KvDtype::F16, Activations::Int8),
        (Format::E4M3, KvDtype::BF16, Activations::F32),
        (Format::Blocks(BlockFormat::Q8_0), KvDtype::I8, Activations::Int8),
        (Format::F32, KvDtype::E4M3, Activations::F32),
    ];
    for (format, kv, activations) in modes {
        let setup = Setup { format, activations, kv, threads: 1, block_size: 16, isa: Isa::detect() };
        let requests = alone(&spec, setup, &[1, 5, 40, 270], &mut random);
        for (threads, block_size, isa) in
            [(1, 16, Isa::detect()), (2, 8, Isa::detect()), (3, 32, Isa::Scalar), (4, 24, Isa::detect())]
        {
            together(&spec, Setup { threads, block_size, isa, ..setup }, &requests, &mut random);
        }
    }
}

/// Rows that nobody wants end before the last layer's MLP, unless all layers are captured.
#[test]
fn bits_do_not_depend_on_which_rows_are_wanted() {
    let format = Format::Blocks(BlockFormat::Q8_0);
    let small = small(format);
    let placed = |norm_placement| DecoderSpec { norm_placement, ..small.clone() };
    let others = [NormPlacement::Sandwich, NormPlacement::Post, NormPlacement::Parallel].map(placed);
    let (kv, isa) = (KvDtype::F16, Isa::detect());
    let setup = Setup { format, activations: Activations::Int8, kv, threads: 2, block_size: 16, isa };
    for spec in [small.clone(), mixture(small.clone()), latent_spec(3)].into_iter().chain(others) {
        let mut runner = runner(&spec, setup);
        let rows = |len: u32, blocks| Rows { tokens: (1..=len).collect(), start: 0, blocks };
        let all = batch(&[rows(20, vec![3, 1]), rows(9, vec![0])], setup.block_size, 2);
        let captured = runner.hidden(&Batch { capture: Capture::Layers, ..all.clone() });
        let row = |row: u32| &captured[row as usize * spec.hidden_size..][..spec.hidden_size];
        for wanted in [all.wanted.clone(), vec![19, 28], vec![0, 1, 18], vec![28], vec![]] {
            let expected: Vec<f32> = wanted.iter().flat_map(|&wanted| row(wanted)).copied().collect();
            let hidden = runner.hidden(&Batch { wanted: wanted.clone(), ..all.clone() });
            assert_bits(&hidden, &expected, &format!("{:?}, rows {wanted:?}", spec.norm_placement));
        }
    }
}

#[test]
fn bits_do_not_depend_on_up_to_64_requests_with_plain_floats_and_blocks() {
    holds_in_batches(Format::all().filter(|format| format.block_len() <= 32));
}

#[test]
fn bits_do_not_depend_on_up_to_64_requests_with_super_blocks() {
    let blocks = BlockFormat::ALL.into_iter().filter(|b| b.block_len() == 256).map(Format::Blocks);
    holds_in_batches(blocks);
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
