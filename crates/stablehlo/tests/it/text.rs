//! The text that each target gets for one small layer, pinned: what changes here changes on devices that no test reaches.
//!
//! `NXD_BLESS=1 cargo test -p nxd-stablehlo text` writes the files anew; look at the difference before committing it.

use nxd_ops::{
    AttendSpec, Axis, Dim, Format, Gated, Input, KvLayer, KvSpec, Manifest, Mesh, NormSpec, Ops, Output, Params, Role,
    Rope, RopeScaling, RopeSpec, Rows, SamplingRow, ShardLayout, Sharding, SharedBytes, SourceError, StoredWeight,
    Values, Weight, WeightSource, WeightSpec,
};
use nxd_stablehlo::bucket::{CopyBucket, ForwardBucket};
use nxd_stablehlo::kernel::Kernels;
use nxd_stablehlo::layout::{BoundWeight, WeightLayout};
use nxd_stablehlo::program::Program;
use nxd_stablehlo::sampling::SampleBucket;
use nxd_stablehlo::target::{Target, check};
use nxd_stablehlo::tracer::{HiddenShape, KvShape, Setting, Tracer};
use std::path::Path;
use std::sync::Arc;

const HIDDEN: usize = 32;
const VOCAB: usize = 24;

/// A layer of attention and a gated product with everything around it, in plain ops.
pub(crate) struct Layer {
    table: Weight,
    norm: NormSpec,
    query: Weight,
    key: Weight,
    output: Weight,
    rope: Rope,
    kv: KvLayer,
    attend: AttendSpec,
    ranks: usize,
}

impl Layer {
    pub(crate) fn new(manifest: &mut Manifest) -> Self {
        let ranks = manifest.mesh().size(Axis::Tensor);
        let mut params = Params::new(manifest);
        let split =
            |dim, len| Sharding::Split { dim, axis: Axis::Tensor, layout: Arc::new(ShardLayout::even(len, ranks)) };
        let table = params.weight("embed", Role::TiedEmbedding, [VOCAB, HIDDEN], split(Dim::Rows, VOCAB));
        let norm = params.weight("norm", Role::Vector, [HIDDEN, 1], Sharding::Replicated);
        let mut matrix = |name, dim| params.weight(name, Role::Matrix, [HIDDEN, HIDDEN], split(dim, HIDDEN));
        let (query, key) = (matrix("query", Dim::Rows), matrix("key", Dim::Rows));
        let output = matrix("output", Dim::Columns);
        let head_dim = 8;
        let rope = RopeSpec { head_dim, rotary_dim: head_dim, theta: 1e4, scaling: RopeScaling::None };
        let num_heads = HIDDEN / head_dim / ranks;
        Layer {
            table,
            norm: NormSpec::rms(norm, HIDDEN, 1e-5),
            query,
            key,
            output,
            rope: params.rope(&rope),
            kv: params.kv_layer(KvSpec { num_kv_heads: num_heads, head_dim, values: Values::Own, window: None }),
            attend: AttendSpec::new(num_heads, 0.353_553_4),
            ranks,
        }
    }

    fn summed<O: Ops>(&self, ops: &mut O, x: O::Tensor) -> O::Tensor {
        if self.ranks > 1 { ops.all_reduce(x, Axis::Tensor) } else { x }
    }

    pub(crate) fn forward<O: Ops>(&self, ops: &mut O) {
        let x = ops.embed(self.table);
        let x = self.summed(ops, x);
        let normed = ops.norm(&x, &self.norm);
        let [q, k] = ops.linears(&normed, [self.query, self.key]);
        let v = k.clone();
        let (q, k) = (ops.rope(q, self.rope), ops.rope(k, self.rope));
        ops.kv_write(self.kv, &k, Some(&v));
        let attended = ops.attend(&q, self.kv, &self.attend);
        let gated = ops.gated(attended, &v, Gated::Silu);
        let y = ops.linear(&gated, self.output);
        let y = self.summed(ops, y);
        let x = ops.add(x, &y);
        let x = ops.select_rows(&x, Rows::Wanted);
        ops.emit(Output::Hidden, &x);
    }

    pub(crate) fn sample<O: Ops>(&self, ops: &mut O) {
        let x = ops.input(Input::Hidden);
        let mut logits = ops.head(&x, self.table);
        if self.ranks > 1 {
            logits = ops.gather_columns(logits, Axis::Tensor, VOCAB);
        }
        ops.emit(Output::Logits, &logits);
        ops.draw(&logits);
    }
}

/// Weights from a formula.
pub(crate) struct Made;

impl WeightSource for Made {
    fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
        let [rows, cols] = spec.shape;
        let salt = spec.name.len();
        let values = (0..rows * cols).map(|i| ((i * 37 + salt * 11) % 23) as f32 / 23.0 - 0.5);
        let data = SharedBytes::from(values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        Ok(StoredWeight {
            origin: spec.name.clone(),
            format: Format::F32,
            shape: spec.shape,
            data: data.into(),
            order: None,
            scales: None,
        })
    }
}

/// The forward, the sampling and the copying program of a target over two ranks.
fn programs(target: &Target) -> [Program; 3] {
    let mut manifest = Manifest::new(Mesh::tensor(2));
    let layer = Layer::new(&mut manifest);
    let layouts: Vec<WeightLayout> =
        manifest.weights().iter().map(|spec| BoundWeight::new(spec, &Made, 2, target.dtype).unwrap().layout).collect();
    let kv = KvShape { element: target.dtype, block_size: 16, num_blocks: vec![8] };
    let kernels = Kernels::default();
    let setting = Setting {
        manifest: &manifest,
        layouts: &layouts,
        kv: &kv,
        target,
        kernels: &kernels,
        dtype: target.dtype,
        spread: target.spread,
    };
    let bucket = ForwardBucket { requests: 2, tokens: 1, blocks: vec![8], wanted: 2, capture: false };
    let mut tracer = Tracer::forward(setting, &bucket);
    layer.forward(&mut tracer);
    let forward = tracer.finish();
    let bucket = SampleBucket::of(&[SamplingRow::default(), SamplingRow::default()], false);
    let mut tracer = Tracer::sample(setting, &bucket, HiddenShape { rows: 2, cols: HIDDEN });
    layer.sample(&mut tracer);
    [forward, tracer.finish(), Tracer::copy(setting, CopyBucket { group: 0, blocks: 2 })]
}

fn pinned(target: &Target) {
    for (program, what) in programs(target).into_iter().zip(["forward", "sample", "copy"]) {
        check(&program, target).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let path = folder.join(format!("{}-{what}.mlir", target.name));
        if std::env::var_os("NXD_BLESS").is_some() {
            std::fs::write(&path, &program.text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        for (i, (found, expected)) in program.text.lines().zip(expected.lines()).enumerate() {
            assert_eq!(found, expected, "line {} of {}", i + 1, path.display());
        }
        assert_eq!(program.text.len(), expected.len(), "length of {}", path.display());
    }
}

#[test]
fn text_for_cpu_is_pinned() {
    pinned(&Target::CPU);
}

#[test]
fn text_for_cuda_is_pinned() {
    pinned(&Target::CUDA);
}

#[test]
fn text_for_neuron_is_pinned_and_keeps_its_rules() {
    pinned(&Target::NEURON);
}
