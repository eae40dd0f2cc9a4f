//! Models written in fewer bits: what stands in the files, read again.

mod folder;
mod from_folder;
mod gguf;
mod refused;

use nxd_models::checkpoint::NamedWeights;
use nxd_models::quantise::{QuantiseError, QuantiseOptions, Report, Scheme, quantise};
use nxd_models::{Checkpoint, LoadMode, Model};
use nxd_modules::Decoder;
use nxd_ops::{LocalWeight, Manifest, Mesh, Params, Sharding, WeightSource, WeightSpec};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    nxd_testkit::goldens().join(name)
}

fn options(scheme: Scheme) -> QuantiseOptions {
    QuantiseOptions { scheme, replace: false, threads: 2, shard_bytes: 5_000_000_000, mode: LoadMode::Mmap }
}

fn write(model: &Path, out: &Path, scheme: Scheme) -> Result<Report, QuantiseError> {
    quantise(model, out, &options(scheme), &mut |done, total| assert!(done <= total, "{done} of {total}"))
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, LoadMode::Mmap).unwrap()
}

/// A model's declared weights, by name.
fn weights(path: &Path) -> (Model, Vec<WeightSpec>, NamedWeights) {
    let model = Model::open(path, LoadMode::Mmap).unwrap();
    let mut manifest = Manifest::new(Mesh::single());
    Decoder::new(&mut Params::new(&mut manifest), model.spec());
    let weights = model.weights(&manifest).unwrap();
    (model, manifest.weights().to_vec(), weights)
}

fn values(weights: &NamedWeights, spec: &WeightSpec) -> Vec<f32> {
    // Whole, not as heads that ranks may share.
    let whole = WeightSpec { sharding: Sharding::Replicated, ..spec.clone() };
    let local = LocalWeight::new(&whole, weights.weight(spec).unwrap(), 0).unwrap();
    let Some(spans) = local.input() else { return local.to_f32() };
    // Columns that are stored in the order of their groups.
    let mut values = vec![0.0; local.rows() * spec.shape[1]];
    for (stored, row) in local.to_f32().chunks(local.cols()).zip(values.chunks_mut(spec.shape[1])) {
        spans.iter().for_each(|span| row[span.from..][..span.len].copy_from_slice(&stored[span.to..][..span.len]));
    }
    values
}

/// The root of the mean square of what differs, over that of `expected`.
fn off(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len(), "values");
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let differs = square(&mut expected.iter().zip(found).map(|(a, b)| a - b));
    (differs / square(&mut expected.iter().copied()).max(1e-30)).sqrt()
}
