//! From a GGUF file to one of fewer bits: all keys and tensors stay, in their order.

use super::choice::Choice;
use super::rows::Rows;
use super::{QuantiseError, QuantiseOptions, Report, Scheme, Work};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::gguf::{Metadata, Value};
use crate::checkpoint::write::gguf::{self, Entry};
use crate::checkpoint::write::{NewTensor, Place};
use std::path::Path;

/// What keys of a file that was split, or quantised before, begin with: the result is one file, quantised here.
const DROPPED: [&str; 2] = ["split.", "quantize."];

/// The layout of blocks, which all tools of today have.
const QUANTIZATION_VERSION: u32 = 2;

pub(super) fn write(
    checkpoint: &Checkpoint,
    out: &Path,
    scheme: Scheme,
    options: &QuantiseOptions,
    work: &mut Work<'_>,
) -> Result<Report, QuantiseError> {
    let choice = Choice::new(scheme, checkpoint.tensors().map(|tensor| tensor.name.as_str()));
    let tensors: Vec<NewTensor> = checkpoint
        .tensors()
        .map(|tensor| {
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            NewTensor { format: choice.format(&name, &shape), name, shape }
        })
        .collect();
    let mut metadata = checkpoint.gguf().map(|gguf| kept(gguf.metadata())).unwrap_or_default();
    metadata.extend(about(scheme));
    let mut report = Report::default();
    work.plan(tensors.iter());
    let place = Place::of_file(out, options.replace)?;
    let mut file = gguf::create(place.temporary(), &metadata, &tensors)?;
    let mut quantised_before = None;
    for tensor in &tensors {
        let stored = checkpoint.tensor(&tensor.name)?;
        report.add(tensor)?;
        match stored.data.bytes().filter(|_| stored.format == tensor.format) {
            Some(bytes) => {
                work.copy(&mut file, tensor, bytes)?;
                bytes.release();
            }
            None => {
                quantised_before = quantised_before.or(Some(stored.format).filter(|format| format.is_quantised()));
                work.write(&mut file, tensor, &Rows::of_tensor(stored)?)?;
            }
        }
    }
    if let Some(format) = quantised_before {
        tracing::warn!(%format, "weights that were quantised already lose more; a file of F16 or BF16 gives better ones");
    }
    file.finish()?;
    place.finish()?;
    Ok(report)
}

/// The keys of the source that still hold.
fn kept(metadata: &Metadata) -> Vec<(String, Entry)> {
    let is_new = |key: &str| ["general.file_type", "general.quantization_version", "general.alignment"].contains(&key);
    let is_kept = |key: &str| !is_new(key) && !DROPPED.iter().any(|start| key.starts_with(start));
    let entry = |(key, value): (&str, &Value)| (key.to_owned(), Entry::Value(value.clone()));
    metadata.iter().filter(|(key, _)| is_kept(key)).map(entry).collect()
}

/// What a quantised file says of itself.
///
/// Source: `enum llama_ftype` of `llama.h` in llama.cpp.
pub(super) fn about(scheme: Scheme) -> [(String, Entry); 2] {
    let file_type = match scheme {
        Scheme::Q4_0 => 2,
        Scheme::Q4_K => 15,
        // Folders have no such number.
        Scheme::Q8_0 | Scheme::Int8 | Scheme::Fp8 => 7,
    };
    [("general.file_type", file_type), ("general.quantization_version", QUANTIZATION_VERSION)]
        .map(|(key, value)| (key.to_owned(), Entry::Value(Value::U32(value))))
}
