//! A checkpoint under the names that a model declares.

use super::part::{self, TensorRef};
use super::{Checkpoint, CheckpointError, TensorInfo};
use crate::quantisation::{Quantisation, Recipe};
use nxd_ops::{Format, Manifest, Role, SourceError, StoredWeight, WeightSource, WeightSpec};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Names in a hint or a list of mistakes.
const SHOWN_NAMES: usize = 5;

type Names = dyn Fn(&WeightSpec) -> TensorRef + Send + Sync;

/// A checkpoint as a [`WeightSource`].
#[derive(Clone)]
pub struct NamedWeights {
    checkpoint: Checkpoint,
    quantisation: Quantisation,
    names: Arc<Names>,
}

impl NamedWeights {
    /// Gives the weights of `checkpoint`; `names` tells where a declared weight is.
    pub fn new(checkpoint: Checkpoint, names: impl Fn(&WeightSpec) -> TensorRef + Send + Sync + 'static) -> Self {
        NamedWeights { checkpoint, quantisation: Quantisation::default(), names: Arc::new(names) }
    }

    /// The same, of which weights may be put together from several tensors.
    pub fn quantised(self, quantisation: Quantisation) -> Self {
        NamedWeights { quantisation, ..self }
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The checkpoint's tensors that `manifest` does not declare and that are not `ignored`, in the order of the file.
    pub fn unexpected(&self, manifest: &Manifest, ignored: impl Fn(&str) -> bool) -> Vec<&str> {
        let mut declared = HashSet::new();
        for reference in manifest.weights().iter().map(|spec| (self.names)(spec)) {
            // One that cannot be used is an error once it is bound.
            if let Ok(Some(recipe)) = self.quantisation.recipe(&self.checkpoint, &reference.name) {
                declared.extend(recipe.tensors.iter().map(|tensor| tensor.name.clone()));
            }
            declared.insert(reference.name);
        }
        let ignored = |name: &str| ignored(name) || self.quantisation.ignores(&self.checkpoint, name);
        let names = self.checkpoint.tensors().map(|tensor| tensor.name.as_str());
        names.filter(|&name| !declared.contains(name) && !ignored(name)).collect()
    }

    /// How the weight of `spec` is stored, and in how many bytes, from the table of tensors: its data is not read.
    ///
    /// # Errors
    /// As for its data: when it is missing, or has another shape than declared or a format that cannot be computed with.
    pub fn stored(&self, spec: &WeightSpec) -> Result<(Format, usize), SourceError> {
        let mut reference = (self.names)(spec);
        if let Some(recipe) = self.recipe(&mut reference)? {
            let origin = recipe.tensors.first().map_or_else(String::new, |tensor| self.checkpoint.origin(tensor));
            return bytes_of(&reference, spec, recipe.format, &recipe.shape, origin);
        }
        let info = self.checkpoint.entry(&reference.name);
        let info = info.map_err(|error| self.source_error(error, spec, &reference.name))?;
        let format = self.checkpoint.format(info).map_err(|error| self.source_error(error, spec, &reference.name))?;
        bytes_of(&reference, spec, format, &info.shape, self.checkpoint.origin(info))
    }

    /// How the weight is put together that a reference names, which is then no longer transposed; `None` where it is a tensor.
    fn recipe(&self, reference: &mut TensorRef) -> Result<Option<Recipe<'_>>, SourceError> {
        let recipe = self.quantisation.recipe(&self.checkpoint, &reference.name)?;
        if recipe.as_ref().is_some_and(|recipe| recipe.is_upright) {
            reference.transposed = false;
        }
        Ok(recipe)
    }
}

impl WeightSource for NamedWeights {
    fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
        let mut reference = (self.names)(spec);
        if let Some(recipe) = self.recipe(&mut reference)? {
            return reference.take(self.quantisation.tensor(&self.checkpoint, &recipe)?, spec);
        }
        let tensor = self.checkpoint.tensor(&reference.name);
        reference.take(tensor.map_err(|error| self.source_error(error, spec, &reference.name))?, spec)
    }
}

impl NamedWeights {
    fn source_error(&self, error: CheckpointError, spec: &WeightSpec, name: &str) -> SourceError {
        match error {
            CheckpointError::MissingTensor { file, tensor, hint } => SourceError::Missing { file, tensor, hint },
            CheckpointError::Format { origin, format, .. } => {
                SourceError::Format { origin, format: format.to_owned(), role: role_name(spec.role) }
            }
            error => SourceError::Missing {
                file: self.checkpoint.name(),
                tensor: name.to_owned(),
                hint: format!(" ({error})"),
            },
        }
    }
}

impl fmt::Debug for NamedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedWeights").field("checkpoint", &self.checkpoint.path()).finish_non_exhaustive()
    }
}

/// The format of a part of a tensor of `shape`, and its bytes.
fn bytes_of(
    reference: &TensorRef,
    spec: &WeightSpec,
    format: Format,
    shape: &[usize],
    origin: String,
) -> Result<(Format, usize), SourceError> {
    let format = reference.format(format);
    let bytes = reference.shape(shape, spec).filter(|shape| *shape == spec.shape);
    // A vector is one stored row.
    let bytes = bytes.and_then(|[rows, cols]| match spec.role {
        Role::Vector => format.row_bytes(rows),
        _ => format.row_bytes(cols)?.checked_mul(rows),
    });
    match bytes {
        Some(bytes) => Ok((format, bytes)),
        None => Err(SourceError::Shape { origin, found: shape.to_vec(), expected: part::declared(spec) }),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Matrix => "matrix",
        Role::Router => "router",
        Role::Heads(_) => "matrix of heads",
        Role::Embedding => "embedding",
        Role::TiedEmbedding => "tied embedding",
        Role::Vector => "vector",
    }
}

/// Names that resemble a missing one, as the end of a message, or nothing.
pub(super) fn hint(missing: &str, tensors: &[TensorInfo]) -> String {
    let likeness = |name: &str| {
        let (a, b) = (missing.as_bytes(), name.as_bytes());
        let start = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
        (start + end).min(a.len().min(b.len()))
    };
    let mut similar: Vec<(usize, &str)> =
        tensors.iter().map(|t| (likeness(t.name.as_str()), t.name.as_str())).collect();
    similar.retain(|&(likeness, _)| 2 * likeness >= missing.len());
    similar.sort_by_key(|&(likeness, name)| (Reverse(likeness), name));
    if similar.is_empty() {
        return String::new();
    }
    similar.truncate(SHOWN_NAMES);
    format!(" (have {})", list(&similar.iter().map(|&(_, name)| name).collect::<Vec<_>>()))
}

fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN_NAMES).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > shown.len() { ", …" } else { "" };
    shown.join(", ") + more
}
