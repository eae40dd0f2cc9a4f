//! PEFT adapters: folders with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! An adapter names modules as the Hugging Face layout of its model does. Where such a module holds several declared weights (a fused
//! projection), each gets the rows that are its own; where its rows lie in another order, so do the adapter's. So one adapter serves a model
//! from whichever container it was loaded.

mod config;

use crate::checkpoint::{Checkpoint, CheckpointError, LoadMode, StoredTensor, TensorRef};
use crate::config::ConfigError;
use crate::model::{Model, located};
use config::AdapterConfig;
use nxd_modules::Decoder;
use nxd_ops::{LocalWeight, LowRank, Manifest, Mesh, Params, Role, SourceError, WeightSpec};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// An adapter, opened and checked against its model.
#[derive(Clone, Debug)]
pub struct Adapter {
    parts: Arc<[LowRank]>,
}

/// An adapter that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its file of tensors.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor that does not fit the model.
    #[error(transparent)]
    Tensor(#[from] SourceError),
    /// A tensor that is no part of an adapter as PEFT writes them.
    #[error(
        "{file}: tensor `{tensor}` is none of an adapter of linear layers, whose names end in `.lora_A.weight` or `.lora_B.weight`"
    )]
    Name {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// One of two matrices.
    #[error("{file}: `{module}` has `lora_A` or `lora_B` alone, expected both")]
    Half {
        /// The file.
        file: String,
        /// The module.
        module: String,
    },
    /// A module that the model does not have, or that takes no adapter.
    #[error(
        "{file}: `{module}` is no linear layer of this {family} model that takes an adapter (experts, embeddings, the head and compressed keys and values take none)"
    )]
    Module {
        /// The file.
        file: String,
        /// The module.
        module: String,
        /// The model's family.
        family: &'static str,
    },
    /// There are no matrices.
    #[error("{file}: has no tensors")]
    Empty {
        /// The file.
        file: String,
    },
}

/// The two matrices of a module, as they are stored.
#[derive(Default)]
struct Pair {
    down: Option<StoredTensor>,
    up: Option<StoredTensor>,
    is_used: bool,
}

impl Adapter {
    /// Opens the folder `path`, an adapter of `model`.
    ///
    /// # Errors
    /// When a file is missing or malformed, when the configuration asks for something that is not computed, or when a tensor does not fit
    /// the model.
    pub fn open(path: &Path, model: &Model, mode: LoadMode) -> Result<Self, AdapterError> {
        let config = AdapterConfig::read(&path.join(CONFIG))?;
        let checkpoint = Checkpoint::open(&path.join(TENSORS), mode)?;
        let file = checkpoint.path().display().to_string();
        let mut modules = pairs(&checkpoint, &file)?;
        if modules.is_empty() {
            return Err(AdapterError::Empty { file });
        }
        let mut manifest = Manifest::new(Mesh::single());
        let _ = Decoder::new(&mut Params::new(&mut manifest), model.spec());
        let mut parts = Vec::new();
        for base in manifest.weights().iter().filter(|base| takes_adapter(base)) {
            let has = |name: &str| name.strip_suffix(".weight").is_some_and(|module| modules.contains_key(module));
            let mut reference = model.in_folder(base, |name| has(&located(&has, name.to_owned())));
            reference.name = located(&has, reference.name);
            let module = reference.name.strip_suffix(".weight").unwrap_or_default().to_owned();
            let Some(pair) = modules.get_mut(&module) else { continue };
            pair.is_used = true;
            parts.push(part(base, &module, reference, pair, (&config, &file))?);
        }
        match modules.into_iter().find(|(_, pair)| !pair.is_used) {
            Some((module, _)) => Err(AdapterError::Module { file, module, family: model.family() }),
            None => Ok(Adapter { parts: parts.into() }),
        }
    }

    /// What it adds to which weights.
    pub fn parts(&self) -> &Arc<[LowRank]> {
        &self.parts
    }

    /// Bytes of its matrices as they are stored.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(LowRank::bytes).sum()
    }
}

/// Whether a declared weight is a matrix of a linear layer whose rows are tokens of the batch.
fn takes_adapter(base: &WeightSpec) -> bool {
    matches!(base.role, Role::Matrix | Role::Router)
        && base.name != "lm_head.weight"
        && !base.name.contains(".experts.")
}

/// The file's matrices by their modules.
fn pairs(checkpoint: &Checkpoint, file: &str) -> Result<BTreeMap<String, Pair>, AdapterError> {
    let mut modules: BTreeMap<String, Pair> = BTreeMap::new();
    for info in checkpoint.tensors() {
        let name = info.name.strip_prefix("base_model.model.").unwrap_or(&info.name);
        // A name of the adapter stands in files that were not written by PEFT itself.
        let side = |side: &str| {
            name.strip_suffix(".weight").and_then(|n| n.strip_suffix(".default").or(Some(n)))?.strip_suffix(side)
        };
        let tensor = checkpoint.tensor(&info.name)?;
        match (side(".lora_A"), side(".lora_B")) {
            (Some(module), _) => modules.entry(module.to_owned()).or_default().down = Some(tensor),
            (_, Some(module)) => modules.entry(module.to_owned()).or_default().up = Some(tensor),
            _ => return Err(AdapterError::Name { file: file.to_owned(), tensor: info.name.clone() }),
        }
    }
    Ok(modules)
}

/// What the matrices of `module` add to the weight `base`, which is the part `reference` of the module's own.
fn part(
    base: &WeightSpec,
    module: &str,
    reference: TensorRef,
    pair: &Pair,
    (config, file): (&AdapterConfig, &str),
) -> Result<LowRank, AdapterError> {
    let (Some(down), Some(up)) = (&pair.down, &pair.up) else {
        return Err(AdapterError::Half { file: file.to_owned(), module: module.to_owned() });
    };
    let rank = down.shape.first().copied().unwrap_or(0);
    let matrix = |shape| WeightSpec { shape, sharding: nxd_ops::Sharding::Replicated, ..base.clone() };
    let [outputs, inputs] = base.shape;
    // Outputs are rows here whichever way the base lies, and they are in its order.
    let rows = TensorRef { slab: None, transposed: false, turned: false, ..reference };
    let down = TensorRef::whole(module).take(down.clone(), &matrix([rank, inputs]))?;
    let up = rows.take(up.clone(), &matrix([outputs, rank]))?;
    let part = LowRank { weight: base.name.clone(), down, up, scale: config.scale(module, rank)? };
    let [of_down, of_up] = part.specs(base);
    LocalWeight::new(&of_down, part.down.clone(), 0)?;
    LocalWeight::new(&of_up, part.up.clone(), 0)?;
    Ok(part)
}

#[cfg(test)]
mod tests;
