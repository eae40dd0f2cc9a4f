//! A kernel of one's own: a fused residual sum and RMS norm as a Rust function inside a compiled program, checked against its composition;
//! and its twin for Neuron, in the text that its compiler would be given.
//!
//! `cargo xtask pjrt` fetches the plugin; then `cargo run --package nxd-examples --example kernel`

use anyhow::{Context, Result, ensure};
use nxd_ops::{
    Attribute, Format, Input, Kernel, Manifest, Mesh, NormSpec, Ops, Output, Params, Role, SamplingBatch, SamplingRow,
    Sharding, SourceError, StoredWeight, Weight, WeightSource, WeightSpec,
};
use nxd_runtime::pjrt::{Call, Client, FfiHandler, Plugin};
use nxd_stablehlo::device::{TracedDevice, TracedOptions};
use nxd_stablehlo::kernel::{Implementation, Kernels, NkiKernel};
use nxd_stablehlo::layout::BoundWeight;
use nxd_stablehlo::record::Element;
use nxd_stablehlo::sampling::SampleBucket;
use nxd_stablehlo::target::Target;
use nxd_stablehlo::tracer::{HiddenShape, KvShape, Setting, Tracer};
use std::sync::Arc;

/// `(residual + x, norm(residual + x))`, one pass over the rows.
struct AddRmsNorm {
    eps: f32,
}

impl Kernel for AddRmsNorm {
    fn name(&self) -> &str {
        "example.add_rms_norm"
    }

    fn outputs(&self, inputs: &[[usize; 2]]) -> Vec<[usize; 2]> {
        vec![inputs[0], inputs[0]]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("eps", Attribute::Float(self.eps))]
    }

    fn compose<O: Ops>(&self, ops: &mut O, inputs: &[&O::Tensor], weights: &[Weight]) -> Vec<O::Tensor> {
        let spec = NormSpec::rms(weights[0], WIDTH, self.eps);
        let (sum, normed) = ops.add_norm(inputs[0].clone(), inputs[1], &spec);
        vec![sum, normed]
    }
}

/// The implementation for CPUs: XLA calls it with the tensors' memory.
fn add_rms_norm(call: &mut Call<'_>) -> Result<(), String> {
    let eps = call.float("eps")? as f32;
    let ([residual, x, weight], [mut sum, mut normed]) = call.split([0, 1, 2], [0, 1])?;
    let (residual, x, weight) = (residual.elements::<f32>()?, x.elements::<f32>()?, weight.elements::<f32>()?);
    let (sum, normed) = (sum.elements_mut::<f32>()?, normed.elements_mut::<f32>()?);
    for (i, value) in sum.iter_mut().enumerate() {
        *value = residual[i] + x[i];
    }
    for (sum, normed) in sum.chunks(weight.len()).zip(normed.chunks_mut(weight.len())) {
        let mean = sum.iter().map(|v| v * v).sum::<f32>() / sum.len() as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        normed.iter_mut().zip(sum).zip(weight).for_each(|((out, v), w)| *out = v * factor * w);
    }
    Ok(())
}

const WIDTH: usize = 64;

/// The norm's weight.
struct Ramp;

impl WeightSource for Ramp {
    fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
        let values: Vec<u8> = (0..WIDTH).flat_map(|i| (0.5 + i as f32 / 64.0).to_le_bytes()).collect();
        let (origin, data) = (spec.name.clone(), values.into());
        Ok(StoredWeight { origin, format: Format::F32, shape: spec.shape, data, order: None, scales: None })
    }
}

/// Runs sum and norm of `rows` with themselves through the kernel, with the implementations in `kernels`.
fn run(client: &Client, kernels: Kernels, rows: &[f32]) -> Result<Vec<f32>> {
    let mut manifest = Manifest::new(Mesh::single());
    let weight = Params::new(&mut manifest).weight("norm", Role::Vector, [WIDTH, 1], Sharding::Replicated);
    let options = TracedOptions { kernels, ..TracedOptions::of(Target::CPU) };
    let mut device = TracedDevice::bind(client.clone(), Arc::new(manifest), &Ramp, options)?;
    let step = device.open_rows(rows, WIDTH)?;
    let sampling = SamplingBatch { rows: vec![SamplingRow::default(); rows.len() / WIDTH], keep_logits: true };
    let (_, normed) = device.sample(&step, &sampling, |ops| {
        let x = ops.input(Input::Hidden);
        let results = ops.custom(&AddRmsNorm { eps: 1e-5 }, &[&x, &x], &[weight]);
        ops.emit(Output::Logits, &results[1]);
    })?;
    Ok(normed)
}

/// What the compiler for Neuron would be given, once the twin is compiled.
fn neuron_text(kernels: &Kernels) -> Result<String> {
    let mut manifest = Manifest::new(Mesh::single());
    let weight = Params::new(&mut manifest).weight("norm", Role::Vector, [WIDTH, 1], Sharding::Replicated);
    let layouts = [BoundWeight::new(&manifest.weights()[0], &Ramp, 1, Element::F32)?.layout];
    let kv = KvShape { element: Element::F32, block_size: 16, num_blocks: Vec::new() };
    let (target, dtype) = (&Target::NEURON, Element::F32);
    let setting =
        Setting { manifest: &manifest, layouts: &layouts, kv: &kv, target, kernels, dtype, spread: target.spread };
    let bucket = SampleBucket::of(&[SamplingRow::default()], true);
    let mut ops = Tracer::sample(setting, &bucket, HiddenShape { rows: 1, cols: WIDTH });
    let x = ops.input(Input::Hidden);
    let results = ops.custom(&AddRmsNorm { eps: 1e-5 }, &[&x, &x], &[weight]);
    ops.emit(Output::Logits, &results[1]);
    Ok(ops.finish().text)
}

#[allow(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<()> {
    let plugin = std::env::var_os("NXD_PJRT_CPU_PLUGIN").map(std::path::PathBuf::from).or_else(fetched);
    let plugin = plugin.context("there is no plugin to run on; fetch one with `cargo xtask pjrt`")?;
    let client = Plugin::load(&plugin)?.create_client(&[])?;
    let rows: Vec<f32> = (0..3 * WIDTH).map(|i| ((i * 29) % 31) as f32 / 16.0 - 1.0).collect();

    let composed = run(&client, Kernels::default(), &rows)?;
    let mut kernels = Kernels::default();
    kernels.register("example.add_rms_norm", &Target::CPU, Implementation::Ffi(FfiHandler::new(add_rms_norm)))?;
    let twin = NkiKernel::text(include_str!("add_rms_norm_nki.py"), "add_rms_norm");
    kernels.register("example.add_rms_norm", &Target::NEURON, Implementation::Nki(twin))?;
    println!("{}", neuron_text(&kernels)?);
    let fused = run(&client, kernels, &rows)?;

    let farthest = fused.iter().zip(&composed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("fused and composed differ by at most {farthest:e}");
    ensure!(composed.len() == rows.len() && farthest < 1e-5, "the kernel does not agree with its composition");
    Ok(())
}

/// Where `cargo xtask pjrt` puts the plugin.
fn fetched() -> Option<std::path::PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    let plugin = cache.join("nxd/pjrt/lammps-jax-pjrt-cpu-0.11.2/pjrt_c_api_cpu_plugin.so");
    plugin.is_file().then_some(plugin)
}
