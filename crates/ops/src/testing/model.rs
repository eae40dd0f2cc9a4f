//! Small random models: a manifest, and the weights that it declares.

use super::random::Random;
use super::reference::Rows;
use crate::format::{BlockFormat, Format};
use crate::quant;
use crate::spec::{KvLayer, KvSpec, NormSpec, Rope, RopeSpec};
use crate::weight::{
    Dim, Manifest, Params, Role, Scales, ShardLayout, Sharding, SourceError, StoredWeight, Weight, WeightSource,
    WeightSpec,
};
use half::{bf16, f16};
use nxd_collectives::{Axis, Mesh};
use std::sync::Arc;

/// A manifest and its weights.
#[derive(Clone, Debug)]
pub struct Model {
    /// What is declared. Its mesh says how many ranks take part.
    pub manifest: Arc<Manifest>,
    /// The weights, in order of declaration.
    stored: Vec<StoredWeight>,
}

impl WeightSource for Model {
    fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
        let declared = self.manifest.weights().iter().position(|weight| weight.name == spec.name);
        let missing = || SourceError::Missing {
            file: "the op suite's model".to_owned(),
            tensor: spec.name.clone(),
            hint: String::new(),
        };
        declared.map(|index| self.stored[index].clone()).ok_or_else(missing)
    }
}

impl Model {
    /// Ranks of the model's mesh.
    pub fn ranks(&self) -> usize {
        self.manifest.mesh().ranks()
    }

    /// Tokens that every embedding of the model has.
    pub(super) fn vocab_size(&self) -> usize {
        let is_table = |spec: &&WeightSpec| matches!(spec.role, Role::Embedding | Role::TiedEmbedding);
        let tables = self.manifest.weights().iter().filter(is_table);
        tables.map(|spec| spec.shape[0]).min().unwrap_or_default()
    }

    /// The whole weight as numbers, whatever rank holds them.
    pub(super) fn rows(&self, weight: Weight) -> Rows {
        let stored = &self.stored[weight.0 as usize];
        let [rows, cols] = stored.shape;
        let data = stored.data.bytes().expect("made-up weights are bytes");
        let row_bytes = data.len() / rows;
        let row = |row: usize| {
            let at = stored.order.as_ref().map_or(row, |order| order[row] as usize);
            let mut values = vec![0.0; cols];
            quant::decode_row(stored.format, &data[at * row_bytes..][..row_bytes], &mut values);
            if let Some(scales) = &stored.scales {
                values.iter_mut().enumerate().for_each(|(col, value)| *value *= scales.at(cols, at, col));
            }
            values.into_iter().map(f64::from).collect()
        };
        (0..rows).map(row).collect()
    }

    /// The values of a vector.
    pub(super) fn vector(&self, weight: Weight) -> Vec<f64> {
        self.rows(weight).concat()
    }
}

/// Declares a model and makes up its weights.
pub(super) struct Builder {
    manifest: Manifest,
    stored: Vec<StoredWeight>,
    pub(super) random: Random,
}

impl Builder {
    /// An empty model over `ranks` ranks.
    pub(super) fn new(ranks: usize, seed: u64) -> Self {
        Builder { manifest: Manifest::new(Mesh::tensor(ranks)), stored: Vec::new(), random: Random::new(seed) }
    }

    pub(super) fn finish(self) -> Model {
        Model { manifest: Arc::new(self.manifest), stored: self.stored }
    }

    /// A replicated f32 table: how numbers enter a forward step.
    pub(super) fn table(&mut self, vocab_size: usize, cols: usize) -> Weight {
        self.weight(Role::Embedding, [vocab_size, cols], Sharding::Replicated, Format::F32)
    }

    /// A replicated table of given values.
    pub(super) fn table_of(&mut self, cols: usize, values: &[f32]) -> Weight {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.declare(Role::Embedding, [values.len() / cols, cols], Sharding::Replicated, Format::F32, data)
    }

    /// A replicated vector in one of the plain formats.
    pub(super) fn vector(&mut self, len: usize) -> Weight {
        let format = self.random.choose(&[Format::F32, Format::F16, Format::BF16]);
        self.weight(Role::Vector, [len, 1], Sharding::Replicated, format)
    }

    /// A replicated matrix.
    pub(super) fn matrix(&mut self, outputs: usize, inputs: usize, format: Format) -> Weight {
        self.weight(Role::Matrix, [outputs, inputs], Sharding::Replicated, format)
    }

    /// A weight of random values.
    pub(super) fn weight(&mut self, role: Role, shape: [usize; 2], sharding: Sharding, format: Format) -> Weight {
        let count = shape[0] * shape[1];
        let data = random_bytes(&mut self.random, format, count / format.block_len());
        let scales = random_scales(&mut self.random, format, shape);
        let weight = self.declare(role, shape, sharding, format, data);
        if let Some(stored) = self.stored.last_mut() {
            stored.scales = scales;
        }
        weight
    }

    /// A norm with a random weight.
    pub(super) fn norm(&mut self, width: usize, offset: f32) -> NormSpec {
        NormSpec { offset, ..NormSpec::rms(self.vector(width), width, 1e-5) }
    }

    pub(super) fn rope(&mut self, spec: &RopeSpec) -> Rope {
        Params::new(&mut self.manifest).rope(spec)
    }

    pub(super) fn kv_layer(&mut self, spec: KvSpec) -> KvLayer {
        Params::new(&mut self.manifest).kv_layer(spec)
    }

    /// The stored rows of the latest weight in random order, as checkpoints with permuted heads have them.
    pub(super) fn permute_rows(&mut self) {
        if let Some(stored) = self.stored.last_mut() {
            stored.order = Some(self.random.permutation(stored.shape[0]).into());
        }
    }

    fn declare(&mut self, role: Role, shape: [usize; 2], sharding: Sharding, format: Format, data: Vec<u8>) -> Weight {
        let name = format!("weight{}", self.stored.len());
        let origin = format!("the op suite's model: tensor `{name}`");
        self.stored.push(StoredWeight { origin, format, shape, data: data.into(), order: None, scales: None });
        Params::new(&mut self.manifest).weight(&name, role, shape, sharding)
    }
}

/// `dim` spread evenly over `ranks`, the last padded.
pub(super) fn split(dim: Dim, len: usize, ranks: usize) -> Sharding {
    Sharding::Split { dim, axis: Axis::Tensor, layout: Arc::new(ShardLayout::even(len, ranks)) }
}

/// `blocks` blocks of a format: plain numbers in `[-1, 1)`, or any integers under scales that keep values below about 4.
fn random_bytes(random: &mut Random, format: Format, blocks: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(blocks * format.block_bytes());
    for _ in 0..blocks {
        match format {
            Format::F32 => bytes.extend(random.value().to_le_bytes()),
            Format::F16 => bytes.extend(f16::from_f32(random.value()).to_le_bytes()),
            Format::BF16 => bytes.extend(bf16::from_f32(random.value()).to_le_bytes()),
            Format::I8 | Format::E4M3 | Format::E5M2 => bytes.push(random_byte(random, format)),
            Format::Blocks(block) => {
                let mut of_block: Vec<u8> = (0..block.block_bytes()).map(|_| (random.unit() * 256.0) as u8).collect();
                random_single(random, block, &mut of_block);
                let (at, largest) = scales(block);
                for &at in at {
                    let scale = f16::from_f64((0.2 + 0.8 * random.unit()) / largest);
                    of_block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
                bytes.extend(of_block);
            }
        }
    }
    bytes
}

/// Puts a scale, and a zero point among the integers, where a block has one of each.
fn random_single(random: &mut Random, block: BlockFormat, bytes: &mut [u8]) {
    let (largest, zero) = match block {
        BlockFormat::MXFP4 => {
            bytes[0] = 100 + random.between(0, 25) as u8;
            return;
        }
        BlockFormat::INT4 | BlockFormat::INT4_128 => (15.0, random.between(0, 16) as i16),
        BlockFormat::INT8 => (128.0, random.between(0, 256) as i16 - 128),
        _ => return,
    };
    bytes[..4].copy_from_slice(&(((0.2 + 0.8 * random.unit()) / largest) as f32).to_le_bytes());
    bytes[4..6].copy_from_slice(&(-zero).to_le_bytes());
}

/// A byte that is a finite number.
fn random_byte(random: &mut Random, format: Format) -> u8 {
    loop {
        let byte = (random.unit() * 256.0) as u8;
        let mut value = [0.0];
        quant::decode_row(format, &[byte], &mut value);
        if value[0].is_finite() {
            return byte;
        }
    }
}

/// Scales that keep values below about 1: of the tensor, of its rows, or of blocks that small tensors have several of.
fn random_scales(random: &mut Random, format: Format, [rows, cols]: [usize; 2]) -> Option<Scales> {
    let largest = match format {
        Format::I8 => 128.0,
        Format::E4M3 => 448.0,
        Format::E5M2 => 57_344.0,
        _ => return None,
    };
    let mut scale = || ((0.5 + 0.5 * random.unit()) / largest) as f32;
    let (tensor, of_rows) =
        (Scales::of_tensor(scale()), Scales::of_rows((0..rows).map(|_| scale()).collect::<Vec<_>>()));
    if format == Format::I8 {
        return Some(if random.unit() < 0.5 { tensor } else { of_rows });
    }
    let count = rows.div_ceil(24) * cols.div_ceil(40);
    let blocks = Scales { rows: 24, cols: 40, values: (0..count).map(|_| scale()).collect() };
    let third = random.between(0, 2);
    Some([tensor, of_rows, blocks].into_iter().nth(third).expect("one of three"))
}

/// Where a block keeps its half-precision scale and minimum, if it has any, and about the largest integer that the scale multiplies.
///
/// Source: the block structures of `ggml-common.h` in llama.cpp.
fn scales(format: BlockFormat) -> (&'static [usize], f64) {
    match format {
        BlockFormat::Q4_0 => (&[0], 8.0),
        BlockFormat::Q4_1 => (&[0, 2], 15.0),
        BlockFormat::Q5_0 => (&[0], 16.0),
        BlockFormat::Q5_1 => (&[0, 2], 31.0),
        BlockFormat::Q8_0 | BlockFormat::IQ4_NL => (&[0], 128.0),
        BlockFormat::Q2_K => (&[80, 82], 3.0 * 15.0),
        BlockFormat::Q3_K => (&[108], 4.0 * 32.0),
        BlockFormat::Q4_K => (&[0, 2], 15.0 * 63.0),
        BlockFormat::Q5_K => (&[0, 2], 31.0 * 63.0),
        BlockFormat::Q6_K => (&[208], 32.0 * 128.0),
        BlockFormat::IQ4_XS => (&[0], 128.0 * 32.0),
        BlockFormat::MXFP4 | BlockFormat::INT4 | BlockFormat::INT4_128 | BlockFormat::INT8 => (&[], 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_weights_of_every_format_are_sane() {
        for format in Format::all() {
            let mut model = Builder::new(1, 3);
            let weight = model.matrix(20, 512, format);
            let values = model.finish().rows(weight).concat();
            let largest = values.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
            let distinct: std::collections::BTreeSet<_> = values.iter().map(|value| value.to_bits()).collect();
            assert_eq!(values.len(), 20 * 512);
            assert!((0.3..5.0).contains(&largest), "{format}: {largest}");
            assert!(distinct.len() > 100, "{format}: {} distinct values", distinct.len());
        }
    }
}
