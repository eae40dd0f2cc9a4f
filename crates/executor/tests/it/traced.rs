//! The traced device against the eager one: the same model source, the same batches, step by step.

use crate::model::{BLOCKS, Made, Random, Rows, Setup, batch, ranks, spec};
use nxd_cpu::{Activations, Isa, KvDtype};
use nxd_modules::{Decoder, DecoderSpec, Sampler};
use nxd_ops::{BlockFormat, Format, Manifest, Mesh, Params, SamplingBatch, SamplingRow};
use nxd_runtime::pjrt::{Client, ClientOption, Plugin};
use nxd_stablehlo::device::{TracedDevice, TracedOptions};
use nxd_stablehlo::record::Element;
use nxd_stablehlo::target::Target;
use std::sync::{Arc, OnceLock};

const VOCAB: usize = 97;
const BLOCK_SIZE: usize = 16;

/// The one client of this process, with two devices.
fn client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let make = || {
        let plugin = Plugin::load(&nxd_testkit::pjrt_cpu_plugin()).unwrap();
        plugin.create_client(&[("cpu_device_count", ClientOption::Int(2))]).unwrap()
    };
    CLIENT.get_or_init(make).clone()
}

/// The model on the traced device.
struct Traced {
    device: TracedDevice,
    decoder: Decoder,
}

impl Traced {
    fn new(spec: &DecoderSpec, format: Format, size: usize) -> Self {
        let mut manifest = Manifest::new(Mesh::tensor(size));
        let decoder = Decoder::new(&mut Params::new(&mut manifest), spec);
        let manifest = Arc::new(manifest);
        let groups = manifest.kv_groups().len();
        let options = TracedOptions::of(Target::CPU);
        let mut device = TracedDevice::bind(client(), manifest, &Made { format }, options).unwrap();
        device.allocate_kv(&vec![BLOCKS; groups], BLOCK_SIZE, Element::F32).unwrap();
        Traced { device, decoder }
    }

    /// Runs a ragged step and gives the logits of all its rows, `[T, V]`.
    fn step(&mut self, requests: &[Rows]) -> Vec<f32> {
        let batch = batch(requests, BLOCK_SIZE, 2);
        let step = self.device.forward(&batch, |tracer| self.decoder.forward(tracer, batch.capture)).unwrap();
        let sampling = SamplingBatch { rows: vec![SamplingRow::default(); batch.num_tokens()], keep_logits: true };
        let sampler = Sampler::new(&self.decoder);
        self.device.sample(&step, &sampling, |tracer| sampler.forward(tracer)).unwrap().1
    }
}

/// Prompts in chunks beside single rows of others, on scattered blocks: every row's logits must be near on both devices.
fn agrees(spec: &DecoderSpec, format: Format, size: usize) {
    let setup = Setup {
        format,
        activations: Activations::F32,
        kv: KvDtype::F32,
        threads: 1,
        block_size: BLOCK_SIZE,
        isa: Isa::detect(),
    };
    let mut eager = ranks(spec, setup, size);
    let mut traced = Traced::new(spec, format, size);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let lengths = [1_usize, 37, 5, 61];
    let tokens: Vec<Vec<u32>> = lengths.iter().map(|&n| (0..n).map(|_| random.below(VOCAB) as u32).collect()).collect();
    let mut free: Vec<u32> = (0..BLOCKS as u32).collect();
    for i in (1..free.len()).rev() {
        free.swap(i, random.below(i + 1));
    }
    let blocks: Vec<Vec<u32>> = lengths.iter().map(|n| free.split_off(free.len() - n.div_ceil(BLOCK_SIZE))).collect();
    let (mut done, mut steps) = ([0; 4], 0);
    while (0..4).any(|r| done[r] < lengths[r]) {
        let mut rows = Vec::new();
        for r in 0..4 {
            let left = lengths[r] - done[r];
            if left > 0 && random.below(4) > 0 {
                let count = if random.below(2) == 0 { 1 } else { 1 + random.below(left) };
                let tokens = tokens[r][done[r]..done[r] + count].to_vec();
                rows.push(Rows { tokens, start: done[r], blocks: blocks[r].clone() });
                done[r] += count;
            }
        }
        if rows.is_empty() {
            continue;
        }
        let expected = std::thread::scope(|scope| {
            let threads: Vec<_> = eager.iter_mut().map(|rank| scope.spawn(|| rank.step(&rows))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).next().unwrap()
        });
        let found = traced.step(&rows);
        assert_eq!(found.len(), expected.len());
        let scale = expected.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
            let what = format!("{format}, {size} ranks, step {steps}, row {}, logit {}", i / VOCAB, i % VOCAB);
            assert!((a - b).abs() <= 1e-4 * scale, "{what}: traced {a}, eager {b}");
        }
        steps += 1;
    }
    assert!(steps > 5, "{steps} steps are no mixed run");
}

#[test]
fn eager_and_traced_agree_through_a_mixed_run() {
    for format in [Format::F32, Format::BF16] {
        agrees(&spec(4, 2, (64, 96)), format, 1);
    }
    agrees(&spec(8, 2, (256, 256)), Format::Blocks(BlockFormat::Q4_K), 1);
}

#[test]
fn eager_and_traced_agree_on_two_ranks() {
    agrees(&spec(6, 1, (64, 96)), Format::F32, 2);
    // Three heads of 32 and 96 columns over two ranks cut blocks of 32.
    agrees(&spec(3, 1, (96, 96)), Format::Blocks(BlockFormat::Q8_0), 2);
    agrees(&spec(3, 3, (96, 160)), Format::Blocks(BlockFormat::Q4_1), 2);
}
