//! The traced [`Ops`]: each op appends to a program instead of computing.
//!
//! What the eager device knows as values, a program has as arguments: tokens, positions, block tables, lengths, seeds. So one
//! program serves every step of its bucket. Rows and table entries that only fill the bucket write to a block of their own and are
//! masked where they would be read, so they cannot touch real ones.
//!
//! Norms, rotary embeddings, softmax and logits are f32 whatever the activations are. Reading order: this file, `weight` (widening and
//! products), `norm`, `rope`, `attention`, `experts`.

mod attention;
mod experts;
mod norm;
mod rope;
mod weight;

pub use attention::{COPY_FROM, COPY_TO, first_block_name, slots_name, table_name};
pub use rope::frequencies_name;

use crate::bucket::{CopyBucket, ForwardBucket};
use crate::kernel::Kernels;
use crate::layout::WeightLayout;
use crate::program::{Program, ProgramBuilder, ResultKey};
use crate::record::{Element, Fold, Ranks, Value};
use crate::sampling::{self, SampleBucket};
use crate::target::{Spread, Target};
use nxd_ops::{
    AttendSpec, Axis, ExpertsSpec, Gated, Input, Kernel, KvLayer, Manifest, Map, NormSpec, Ops, Output, Rope,
    RouterSpec, Rows, Temperature, Weight,
};
use std::collections::HashMap;

/// What all programs of a model share.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'s> {
    /// What the model declared.
    pub manifest: &'s Manifest,
    /// How each weight is stored, by handle.
    pub layouts: &'s [WeightLayout],
    /// The KV cache.
    pub kv: &'s KvShape,
    /// What compiles the program.
    pub target: &'s Target,
    /// Kernels that take the place of composed ops.
    pub kernels: &'s Kernels,
    /// The type of activations.
    pub dtype: Element,
    /// How ranks are told to the compiler.
    pub spread: Spread,
}

/// The shape of the KV cache on one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// The type of stored keys and values.
    pub element: Element,
    /// Tokens a block.
    pub block_size: usize,
    /// Blocks of each KV group; one more is allocated, for rows that only fill a bucket.
    pub num_blocks: Vec<usize>,
}

impl KvShape {
    /// Slots of a group's caches, those of the filling block included.
    pub fn slots(&self, group: usize) -> usize {
        (self.num_blocks[group] + 1) * self.block_size
    }
}

/// Rows that a sampling program starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HiddenShape {
    /// Rows of the hidden buffer.
    pub rows: usize,
    /// Its columns, the hidden size.
    pub cols: usize,
}

/// What is recorded.
#[derive(Clone, Debug)]
enum Purpose {
    Forward(ForwardBucket),
    Sample(SampleBucket, HiddenShape),
    Copy(CopyBucket),
}

/// One open recording.
pub struct Tracer<'s> {
    setting: Setting<'s>,
    purpose: Purpose,
    b: ProgramBuilder,
    /// KV group of each layer.
    groups: Vec<usize>,
    /// Cosines and sines of each rotary embedding, `[T, rotary_dim / 2]`.
    angles: HashMap<u32, (Value, Value)>,
}

impl<'s> Tracer<'s> {
    /// Opens the recording of a forward program.
    pub fn forward(setting: Setting<'s>, bucket: &ForwardBucket) -> Self {
        Tracer::open(setting, Purpose::Forward(bucket.clone()))
    }

    /// Opens the recording of a program from hidden rows to tokens.
    pub fn sample(setting: Setting<'s>, bucket: &SampleBucket, hidden: HiddenShape) -> Self {
        Tracer::open(setting, Purpose::Sample(bucket.clone(), hidden))
    }

    /// The program that copies blocks within the caches of a KV group.
    pub fn copy(setting: Setting<'s>, bucket: CopyBucket) -> Program {
        let mut tracer = Tracer::open(setting, Purpose::Copy(bucket));
        tracer.copy_blocks(bucket);
        tracer.finish()
    }

    fn open(setting: Setting<'s>, purpose: Purpose) -> Self {
        let groups = setting.manifest.kv_groups();
        let group_of = |spec| groups.iter().position(|g| g == spec).expect("groups are made of the layers' specs");
        let groups = setting.manifest.kv_layers().iter().map(group_of).collect();
        let mut b = ProgramBuilder::new();
        if setting.target.rules.guarded_integers {
            b.rec.guard_integers();
        }
        Tracer { setting, purpose, b, groups, angles: HashMap::new() }
    }

    /// Ends the recording.
    pub fn finish(self) -> Program {
        let name = match &self.purpose {
            Purpose::Forward(bucket) => bucket.to_string(),
            Purpose::Sample(bucket, _) => bucket.to_string(),
            Purpose::Copy(bucket) => bucket.to_string(),
        };
        let ranks = self.ranks().count;
        self.b.finish(&name, ranks, self.setting.spread)
    }

    fn ranks(&self) -> Ranks {
        Ranks {
            count: self.setting.manifest.mesh().size(Axis::Tensor),
            partitions: self.setting.spread == Spread::Partitions,
        }
    }

    /// The bucket of a forward program.
    fn bucket(&self) -> &ForwardBucket {
        match &self.purpose {
            Purpose::Forward(bucket) => bucket,
            Purpose::Sample(..) | Purpose::Copy(_) => {
                unreachable!("only a forward program has tokens, positions and tables")
            }
        }
    }

    fn layout(&self, weight: Weight) -> &'s WeightLayout {
        &self.setting.layouts[weight.0 as usize]
    }

    /// `x` in the type of activations.
    fn activation(&mut self, x: &Value) -> Value {
        self.b.rec.convert(x, self.setting.dtype)
    }

    fn f32(&mut self, x: &Value) -> Value {
        self.b.rec.convert(x, Element::F32)
    }

    /// Makes `x` a result in f32, which is what hosts read.
    fn result(&mut self, output: Output, x: &Value) {
        let x = self.f32(x);
        self.b.result(ResultKey::Output(output), &x);
    }
}

impl Ops for Tracer<'_> {
    type Tensor = Value;

    fn embed(&mut self, table: Weight) -> Value {
        let tokens = self.b.input("tokens", &[self.bucket().rows()], Element::I32);
        self.look_up(table, &tokens)
    }

    fn embed_positions(&mut self, table: Weight) -> Value {
        let positions = self.b.input("positions", &[self.bucket().rows()], Element::I32);
        self.look_up(table, &positions)
    }

    fn input(&mut self, input: Input) -> Value {
        let Input::Hidden = input;
        let Purpose::Sample(bucket, shape) = &self.purpose else {
            unreachable!("a forward step makes hidden rows, it does not take them")
        };
        let (count, shape) = (bucket.rows, *shape);
        let hidden = self.b.input("hidden", &[shape.rows, shape.cols], Element::F32);
        let rows = self.b.input("rows", &[count], Element::I32);
        let hidden = self.b.rec.take_rows(&hidden, &rows);
        self.activation(&hidden)
    }

    fn emit(&mut self, output: Output, x: &Value) {
        let wanted = match (output, &self.purpose) {
            (Output::Embedding | Output::Layer(_), Purpose::Forward(bucket)) => bucket.capture,
            (Output::Logits, Purpose::Sample(bucket, _)) => bucket.keep_logits,
            (Output::Hidden, _) => true,
            _ => false,
        };
        if wanted {
            self.result(output, x);
        }
    }

    fn select_rows(&mut self, x: &Value, rows: Rows) -> Value {
        let Rows::Wanted = rows;
        let wanted = self.b.input("wanted", &[self.bucket().wanted], Element::I32);
        self.b.rec.take_rows(x, &wanted)
    }

    fn add(&mut self, x: Value, y: &Value) -> Value {
        self.b.rec.add(&x, y)
    }

    fn bias(&mut self, x: Value, bias: Weight) -> Value {
        let bias = self.vector(bias);
        let bias = self.b.rec.broadcast(&bias, &[1], x.dims());
        let wide = self.f32(&x);
        let sum = self.b.rec.add(&wide, &bias);
        self.b.rec.convert(&sum, x.element())
    }

    fn scale(&mut self, x: Value, factor: f32) -> Value {
        self.b.rec.scale(&x, factor)
    }

    fn map(&mut self, x: Value, f: Map) -> Value {
        let wide = self.f32(&x);
        let mapped = self.mapped(&wide, f);
        self.b.rec.convert(&mapped, x.element())
    }

    fn temper(&mut self, x: Value, temperature: &Temperature) -> Value {
        let factors = self.temperatures(temperature);
        let factors = self.b.rec.broadcast(&factors, &[0], x.dims());
        let wide = self.f32(&x);
        let scaled = self.b.rec.multiply(&wide, &factors);
        self.b.rec.convert(&scaled, x.element())
    }

    fn gated(&mut self, gate: Value, up: &Value, activation: Gated) -> Value {
        let (gate, up) = (self.f32(&gate), self.f32(up));
        let product = self.met(&gate, &up, activation);
        self.activation(&product)
    }

    fn norm(&mut self, x: &Value, spec: &NormSpec) -> Value {
        self.normalised(x, spec)
    }

    fn linear(&mut self, x: &Value, weight: Weight) -> Value {
        let product = self.product(x, weight);
        self.activation(&product)
    }

    fn head(&mut self, x: &Value, weight: Weight) -> Value {
        self.product(x, weight)
    }

    fn route(&mut self, logits: &Value, spec: &RouterSpec) -> Value {
        self.affinities(logits, spec)
    }

    fn experts(&mut self, x: &Value, affinities: &Value, spec: &ExpertsSpec) -> Value {
        self.mixture(x, affinities, spec)
    }

    fn rope(&mut self, x: Value, rope: Rope) -> Value {
        self.rotate(&x, rope)
    }

    fn kv_write(&mut self, layer: KvLayer, k: &Value, v: &Value) {
        self.write(layer, k, v);
    }

    fn attend(&mut self, q: &Value, layer: KvLayer, spec: &AttendSpec) -> Value {
        self.attention(q, layer, spec)
    }

    fn all_reduce(&mut self, x: Value, axis: Axis) -> Value {
        debug_assert_eq!(axis, Axis::Tensor);
        let ranks = self.ranks();
        // Sums in f32, as within a rank.
        let wide = self.f32(&x);
        let sum = self.b.rec.all_reduce(&wide, Fold::Add, ranks);
        self.b.rec.convert(&sum, x.element())
    }

    fn gather_columns(&mut self, x: Value, axis: Axis, columns: usize) -> Value {
        debug_assert_eq!(axis, Axis::Tensor);
        let ranks = self.ranks();
        let all = self.b.rec.all_gather(&x, 1, ranks);
        self.b.rec.slice(&all, 1, 0..columns)
    }

    fn draw(&mut self, logits: &Value) {
        let Purpose::Sample(bucket, _) = &self.purpose else { return };
        sampling::record(&mut self.b, logits, bucket, self.setting.target);
    }

    fn custom<K: Kernel>(&mut self, kernel: &K, inputs: &[&Value], weights: &[Weight]) -> Vec<Value> {
        match self.lowered(kernel, inputs, weights) {
            Some(results) => results,
            None => kernel.compose(self, inputs, weights),
        }
    }
}
