//! A small decoder with made-up weights of any format, and a way to run ragged steps on it.

use nxd_collectives::ThreadGroup;
use nxd_cpu::{Activations, CpuDevice, CpuOptions, Isa, KvDtype};
use nxd_modules::{
    AttentionSpec, Decoder, DecoderSpec, FeedForwardSpec, HeadSpec, LatentSpec, LayerSpec, MlpSpec, MoeSpec,
    NormPlacement, NormStyle, QkNorm, QkNormOver, Sampler, SharedExpertSpec,
};
use nxd_ops::{
    Batch, BlockFormat, Format, Gated, GroupTables, Manifest, Mesh, Params, Role, RopeScaling, RopeSpec, RouterSpec,
    SamplingBatch, SamplingRow, Scales, Score, SharedBytes, SourceError, StoredWeight, TopKRouter, Weighing,
    WeightSource, WeightSpec,
};
use std::sync::Arc;
use std::time::Duration;

/// The same with experts in the place of MLPs, a shared one among them.
pub(crate) fn mixture(mut spec: DecoderSpec) -> DecoderSpec {
    for layer in &mut spec.layers {
        let FeedForwardSpec::Dense(MlpSpec { intermediate_size, activation, .. }) = layer.mlp else { continue };
        layer.mlp = FeedForwardSpec::Moe(MoeSpec {
            num_experts: 5,
            intermediate_size,
            activation,
            bias: false,
            weighing: Weighing::Output,
            router: RouterSpec::TopK(TopKRouter { normalise: true, ..TopKRouter::new(Score::Softmax, 2) }),
            router_bias: false,
            correction: false,
            shared: Some(SharedExpertSpec { intermediate_size, weighed: true }),
        });
    }
    spec
}

/// A decoder with full and sliding layers, grouped heads and biases: what exercises every op.
pub(crate) fn spec(num_heads: usize, num_kv_heads: usize, sizes: (usize, usize)) -> DecoderSpec {
    let (hidden_size, intermediate_size) = sizes;
    let head_dim = 32;
    let layer = |window| LayerSpec {
        attention: AttentionSpec {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: 0.176_776_7,
            softcap: None,
            qkv_bias: true,
            output_bias: false,
            clip: None,
            qk_norm: Some(QkNorm { norm: NormStyle::rms(1e-6), over: QkNormOver::Head, after_rope: false }),
            rope: Some(RopeSpec { head_dim, rotary_dim: head_dim, theta: 1e4, scaling: RopeScaling::None }),
            temperature: None,
            window,
            chunk: None,
            sinks: false,
            latent: None,
        },
        mlp: FeedForwardSpec::Dense(MlpSpec { intermediate_size, activation: Gated::Silu, gated: true, bias: false }),
    };
    DecoderSpec {
        vocab_size: 97,
        hidden_size,
        max_position_embeddings: 4096,
        learned_positions: false,
        embedding_scale: None,
        norm: NormStyle::rms(1e-6),
        norm_placement: NormPlacement::Pre,
        residual_scale: None,
        head: HeadSpec { tied: true, ..HeadSpec::default() },
        layers: vec![layer(None), layer(Some(24))],
    }
}

/// A decoder with latent attention, full and sliding, queries compressed in one of two layers.
pub(crate) fn latent_spec(num_heads: usize) -> DecoderSpec {
    let mut spec = spec(num_heads, num_heads, (64, 96));
    let norm = NormStyle::rms(1e-6);
    for (layer, q_lora_rank) in spec.layers.iter_mut().zip([None, Some(32)]) {
        let (kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim) = (64, 32, 16, 32);
        let scaling = RopeScaling::None;
        layer.attention.rope = Some(RopeSpec { head_dim: 16, rotary_dim: 16, theta: 1e4, scaling });
        layer.attention.latent =
            Some(LatentSpec { q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, norm });
    }
    spec
}

/// Weights made from their names: matrices in `format`, vectors in f32.
pub(crate) struct Made {
    pub(crate) format: Format,
}

impl WeightSource for Made {
    fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
        let seed = spec.name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
        let mut random = Random(seed | 1);
        let [rows, cols] = spec.shape;
        let mut scales = None;
        let (format, data) = match (spec.role, self.format) {
            (Role::Vector, _) => (Format::F32, floats(rows, |_| 1.0 + 0.2 * random.unit())),
            (_, Format::F32) => (Format::F32, floats(rows * cols, |_| 0.2 * random.unit())),
            (_, Format::F16) => (Format::F16, (0..rows * cols).flat_map(|_| half(0.2 * random.unit())).collect()),
            (_, Format::BF16) => {
                let upper = |x: f32| ((x.to_bits() >> 16) as u16).to_le_bytes();
                (Format::BF16, (0..rows * cols).flat_map(|_| upper(0.2 * random.unit())).collect())
            }
            (_, Format::I8) => {
                scales = Some(Scales::of_rows((0..rows).map(|_| 0.002 * (1.5 + random.unit())).collect::<Vec<_>>()));
                (Format::I8, (0..rows * cols).map(|_| random.next() as u8).collect())
            }
            (_, Format::E4M3 | Format::E5M2) => {
                // Smaller blocks than real ones, so that a small matrix has several.
                let count = rows.div_ceil(40) * cols.div_ceil(24);
                let values = (0..count).map(|_| 0.1 * (1.5 + random.unit())).collect();
                scales = Some(Scales { rows: 40, cols: 24, values });
                // Any sign and mantissa, and exponents about that of 1.
                let (mask, exponent, at) = if self.format == Format::E4M3 { (0x87, 5, 3) } else { (0x83, 13, 2) };
                let byte = |bits: u64| bits as u8 & mask | (exponent + (bits >> 8 & 1) as u8) << at;
                (self.format, (0..rows * cols).map(|_| byte(random.next())).collect())
            }
            (_, Format::Blocks(block)) => {
                assert_eq!(cols % block.block_len(), 0);
                let blocks = rows * cols / block.block_len();
                (self.format, (0..blocks).flat_map(|_| random_block(block, &mut random)).collect())
            }
        };
        let data = SharedBytes::from(data);
        Ok(StoredWeight {
            origin: format!("made: tensor `{}`", spec.name),
            format,
            shape: spec.shape,
            data: data.into(),
            order: None,
            scales,
        })
    }
}

fn floats(count: usize, value: impl FnMut(usize) -> f32) -> Vec<u8> {
    (0..count).map(value).flat_map(f32::to_le_bytes).collect()
}

/// A small number as f16, its magnitude between 2⁻¹⁴ and 1: cut, not rounded.
fn half(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 255) as i32 - 112;
    let magnitude = if exponent <= 0 { 0 } else { (exponent as u16) << 10 | (bits >> 13 & 1023) as u16 };
    ((bits >> 16) as u16 & 0x8000 | magnitude).to_le_bytes()
}

/// Random integers and scales, the block's f16 factors small and finite.
fn random_block(block: BlockFormat, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..block.block_bytes()).map(|_| random.next() as u8).collect();
    // Where the f16 factors lie, and how large the integers times the inner scales get.
    let (places, size): (&[usize], f32) = match block {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::IQ4_NL => (&[0], 16.0),
        BlockFormat::Q8_0 => (&[0], 128.0),
        BlockFormat::Q4_1 | BlockFormat::Q5_1 => (&[0, 2], 16.0),
        BlockFormat::Q2_K => (&[80, 82], 30.0),
        BlockFormat::Q3_K => (&[108], 128.0),
        BlockFormat::Q4_K | BlockFormat::Q5_K => (&[0, 2], 1000.0),
        BlockFormat::Q6_K => (&[208], 4000.0),
        BlockFormat::IQ4_XS => (&[0], 3000.0),
        BlockFormat::MXFP4 => {
            bytes[0] = 120 + (random.next() % 4) as u8;
            (&[], 1.0)
        }
        BlockFormat::INT4 | BlockFormat::INT4_128 | BlockFormat::INT8 => {
            let size = if block == BlockFormat::INT8 { 128.0 } else { 16.0 };
            bytes[..4].copy_from_slice(&(0.5 / size * (0.5 + 0.5 * random.unit().abs())).to_le_bytes());
            bytes[4..6].copy_from_slice(&(-8 - (random.next() % 2) as i16).to_le_bytes());
            (&[], 1.0)
        }
    };
    for &place in places {
        bytes[place..place + 2].copy_from_slice(&half(0.5 / size * (0.5 + 0.5 * random.unit().abs())));
    }
    bytes
}

/// xorshift64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// In -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) format: Format,
    pub(crate) activations: Activations,
    pub(crate) kv: KvDtype,
    pub(crate) threads: usize,
    pub(crate) block_size: usize,
    pub(crate) isa: Isa,
}

pub(crate) const BLOCKS: usize = 128;

/// One rank's device with a decoder on it.
pub(crate) struct Runner {
    device: CpuDevice,
    decoder: Decoder,
    pub(crate) setup: Setup,
    vocab_size: usize,
}

/// Tokens of one request that run in a step.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) tokens: Vec<u32>,
    pub(crate) start: usize,
    /// Physical blocks of the request, of both groups alike.
    pub(crate) blocks: Vec<u32>,
}

/// The ranks of a model, each to be run by a thread of its own.
pub(crate) fn ranks(spec: &DecoderSpec, setup: Setup, size: usize) -> Vec<Runner> {
    let groups: Vec<_> = match size {
        1 => vec![None],
        _ => ThreadGroup::new(size, Duration::from_secs(60)).into_iter().map(Some).collect(),
    };
    let runner = |(rank, group)| {
        let mut manifest = Manifest::new(Mesh::tensor(size));
        let decoder = Decoder::new(&mut Params::new(&mut manifest), spec);
        let options =
            CpuOptions { threads: setup.threads, activations: setup.activations, isa: setup.isa, pin_threads: false };
        let source = Made { format: setup.format };
        let manifest = Arc::new(manifest);
        let groups = manifest.kv_groups().len();
        let mut device = CpuDevice::bind(manifest, &source, rank, group, options).unwrap();
        device.allocate_kv(&vec![BLOCKS * 16 / setup.block_size; groups], setup.block_size, setup.kv).unwrap();
        Runner { device, decoder, setup, vocab_size: spec.vocab_size }
    };
    groups.into_iter().enumerate().map(runner).collect()
}

/// The ragged step of these rows, every row wanted; all KV groups share the requests' tables.
pub(crate) fn batch(requests: &[Rows], block_size: usize, groups: usize) -> Batch {
    let mut batch = Batch { query_starts: vec![0], ..Batch::default() };
    let mut tables = GroupTables { starts: vec![0], ..GroupTables::default() };
    for rows in requests {
        let end = rows.start + rows.tokens.len();
        batch.token_ids.extend(&rows.tokens);
        batch.positions.extend(rows.start as u32..end as u32);
        batch.query_starts.push(batch.token_ids.len() as u32);
        batch.rope_lens.push(end as u32);
        let (had, has) = (rows.start.div_ceil(block_size), end.div_ceil(block_size));
        tables.blocks.extend(&rows.blocks[..has]);
        tables.zero_blocks.extend(&rows.blocks[had..has]);
        tables.starts.push(tables.blocks.len() as u32);
        tables.first_blocks.push(0);
    }
    batch.groups = vec![tables; groups];
    batch.wanted = (0..batch.num_tokens() as u32).collect();
    batch
}

impl Runner {
    /// Runs a ragged step and gives the rows that are wanted, `[W, E]`.
    pub(crate) fn hidden(&mut self, batch: &Batch) -> Vec<f32> {
        let mut step = self.device.open(batch);
        self.decoder.forward(&mut step, batch.capture);
        step.close().unwrap().hidden
    }

    /// Runs a ragged step and gives the logits of all its rows, `[T, V]`.
    pub(crate) fn step(&mut self, requests: &[Rows]) -> Vec<f32> {
        let batch = batch(requests, self.setup.block_size, 2);
        let hidden = self.hidden(&batch);
        let sampling = SamplingBatch { rows: vec![SamplingRow::default(); batch.num_tokens()], keep_logits: true };
        let mut step = self.device.open_sampling(&hidden, &sampling);
        Sampler::new(&self.decoder).forward(&mut step);
        let logits = step.close().unwrap().logits;
        assert!(logits.is_empty() || logits.len() == batch.num_tokens() * self.vocab_size);
        logits
    }
}
