//! From a Hugging Face folder to a GGUF file.
//!
//! Names are those tables read backwards by which GGUF files are read, keys too; the result is read again, as a configuration, before anything
//! is written, and must be the same decoder. So a family that GGUF cannot tell in full is an error and never another model.
//!
//! Reading order: `tensors`, `metadata`, `same` (the comparison).

mod metadata;
mod same;
mod tensors;

use super::choice::Choice;
use super::gguf::about;
use super::rows::Rows;
use super::{QuantiseError, QuantiseOptions, Report, Scheme, Work};
use crate::checkpoint::write::gguf::{self, Entry};
use crate::checkpoint::write::{NewTensor, Place};
use crate::families::{FAMILIES, Family};
use crate::model::Model;
use crate::tokenizer::GgufVocab;
use nxd_modules::Decoder;
use nxd_ops::{Format, LocalWeight, Manifest, Mesh, Params, Sharding, WeightSource, WeightSpec};
use std::path::Path;
use tensors::Made;

/// Families whose GGUF files name another architecture than their own: (family, architecture).
const OF_ANOTHER: [(&str, &str); 2] = [("mistral", "llama"), ("mixtral", "llama")];

/// Divisors of the rotary frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";

pub(super) fn write(
    path: &Path,
    out: &Path,
    scheme: Scheme,
    options: &QuantiseOptions,
    work: &mut Work<'_>,
) -> Result<Report, QuantiseError> {
    let model = Model::open(path, options.mode)?;
    let mut manifest = Manifest::new(Mesh::single());
    Decoder::new(&mut Params::new(&mut manifest), model.spec());
    let weights = model.weights(&manifest)?;
    let (architecture, target) = target(model.family_data())?;
    let made = tensors::made(target, model.spec(), &manifest)?;
    let factors = metadata::rope_factors(model.spec());

    let choice = Choice::new(scheme, made.iter().map(|tensor| tensor.name.as_str()));
    let mut tensors: Vec<NewTensor> = made.iter().map(|made| planned(made, &choice)).collect();
    let mut metadata = metadata::of_model(&model, architecture)?;
    let plus = same::check(&model, target, &metadata, &tensors, factors.as_deref())?;
    if let Some(factors) = &factors {
        tensors.push(NewTensor { name: ROPE_FACTORS.to_owned(), format: Format::F32, shape: vec![factors.len()] });
    }
    metadata.extend(metadata::of_tokenizer(vocabulary(&model)?));
    metadata.extend(about(scheme));

    let mut report = Report::default();
    tensors.iter().try_for_each(|tensor| report.add(tensor))?;
    work.plan(tensors.iter());
    let place = Place::of_file(out, options.replace)?;
    let mut file = gguf::create(place.temporary(), &metadata, &tensors)?;
    for (made, tensor) in made.into_iter().zip(&tensors) {
        let part = |&index: &usize| -> Result<LocalWeight, QuantiseError> {
            // Whole, not as ranks may share it.
            let spec = WeightSpec { sharding: Sharding::Replicated, ..manifest.weights()[index].clone() };
            Ok(LocalWeight::new(&spec, weights.weight(&spec)?, 0)?)
        };
        let parts = made.weights.iter().map(part).collect::<Result<_, _>>()?;
        let plus = if made.is_norm { plus } else { 0.0 };
        let rows = Rows::of_parts(parts, made.order, [made.rows, made.cols]).plus(plus);
        work.write(&mut file, tensor, &rows)?;
    }
    if let Some(factors) = factors {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        file.tensor::<QuantiseError>(ROPE_FACTORS, |out| Ok(out(&bytes)?))?;
    }
    file.finish()?;
    place.finish()?;
    Ok(report)
}

/// The architecture that a family's GGUF files name, and the family that reads them.
fn target(family: &'static Family) -> Result<(&'static str, &'static Family), QuantiseError> {
    let another = OF_ANOTHER.iter().find(|(name, _)| *name == family.name).map(|(_, architecture)| *architecture);
    let architecture = family.gguf.first().copied().or(another);
    let found = architecture.and_then(|name| Some((name, FAMILIES.iter().find(|f| f.gguf.contains(&name))?)));
    let reason = || "no `general.architecture` stands for it".to_owned();
    found.ok_or_else(|| QuantiseError::NoGguf { family: family.name, reason: reason() })
}

/// How a tensor is stored.
fn planned(made: &Made, choice: &Choice) -> NewTensor {
    let shape = match (made.is_vector, made.count) {
        (true, None) => vec![made.rows],
        (true, Some(count)) => vec![count, made.rows / count],
        (false, None) => vec![made.rows, made.cols],
        (false, Some(count)) => vec![count, made.rows / count, made.cols],
    };
    let format = if made.is_vector { Format::F32 } else { choice.format(&made.name, &shape) };
    NewTensor { name: made.name.clone(), format, shape }
}

/// The tokenizer's lists; `None` for a model without one.
fn vocabulary(model: &Model) -> Result<Option<GgufVocab>, QuantiseError> {
    let Some(tokenizer) = model.tokenizer() else { return Ok(None) };
    let (folder, rows) = (model.checkpoint().dir(), model.spec().vocab_size);
    Ok(Some(GgufVocab::from_dir(folder, tokenizer, model.bos_id(), model.eos_ids(), rows)?))
}

/// The value of a key, as readers of configurations take it.
fn json(metadata: &[(String, Entry)], key: &str) -> Option<serde_json::Value> {
    let entry = metadata.iter().find(|(found, _)| found == key).map(|(_, entry)| entry)?;
    match entry {
        Entry::Value(value) => Some(value.to_json()),
        // No list is a part of a configuration here.
        Entry::Strings(_) | Entry::F32s(_) | Entry::I32s(_) => None,
    }
}
