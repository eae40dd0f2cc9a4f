//! A checkpoint under the names that a model declares.

use super::{Checkpoint, CheckpointError, TensorInfo};
use nxd_ops::{Format, Manifest, Role, SourceError, StoredWeight, WeightSource, WeightSpec};
use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Names in a hint or a list of mistakes.
const SHOWN_NAMES: usize = 5;

/// Where a declared weight lies in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// The tensor's name in the file.
    pub name: String,
    /// How its rows are ordered there.
    pub order: RowOrder,
}

/// The order of a tensor's rows in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As declared.
    AsStored,
    /// The two halves of each head interleaved, as GGUF stores the query and key projections of Llama models: stored row `2 j + h` of
    /// a head is row `h D/2 + j` of the declared one. Values of a bias are ordered alike.
    ///
    /// Source: `permute` of llama.cpp's `convert_hf_to_gguf.py`.
    LlamaHalves {
        /// Heads that the rows are divided into.
        heads: usize,
    },
}

type Names = dyn Fn(&str) -> TensorRef + Send + Sync;

/// A checkpoint as a [`WeightSource`].
#[derive(Clone)]
pub struct NamedWeights {
    checkpoint: Checkpoint,
    names: Arc<Names>,
}

impl NamedWeights {
    /// Gives the weights of `checkpoint`; `names` tells where the weight of a declared name is.
    pub fn new(checkpoint: Checkpoint, names: impl Fn(&str) -> TensorRef + Send + Sync + 'static) -> Self {
        NamedWeights { checkpoint, names: Arc::new(names) }
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The checkpoint's tensors that `manifest` does not declare and that are not `ignored`, in the order of the file.
    pub fn unexpected(&self, manifest: &Manifest, ignored: impl Fn(&str) -> bool) -> Vec<&str> {
        let declared: HashSet<String> = manifest.weights().iter().map(|w| (self.names)(&w.name).name).collect();
        let names = self.checkpoint.tensors().map(|tensor| tensor.name.as_str());
        names.filter(|&name| !declared.contains(name) && !ignored(name)).collect()
    }

    /// How the weight of `spec` is stored, and in how many bytes, from the table of tensors: its data is not read.
    ///
    /// # Errors
    /// As for its data: when it is missing, or has another shape than declared or a format that cannot be computed with.
    pub fn stored(&self, spec: &WeightSpec) -> Result<(Format, usize), SourceError> {
        let name = (self.names)(&spec.name).name;
        let info = self.checkpoint.entry(&name).map_err(|error| self.source_error(error, spec, &name))?;
        let format = self.checkpoint.format(info).map_err(|error| self.source_error(error, spec, &name))?;
        let [rows, cols] = spec.shape;
        match info.shape[..] {
            [len] if spec.shape == [len, 1] => Ok((format, info.bytes())),
            [found_rows, found_cols] if (found_rows, found_cols) == (rows, cols) => Ok((format, info.bytes())),
            _ => {
                let (origin, found) = (self.checkpoint.origin(info), info.shape.clone());
                let expected = if spec.role == Role::Vector { vec![rows] } else { vec![rows, cols] };
                Err(SourceError::Shape { origin, found, expected })
            }
        }
    }
}

impl WeightSource for NamedWeights {
    fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError> {
        let TensorRef { name, order } = (self.names)(&spec.name);
        let tensor = self.checkpoint.tensor(&name).map_err(|error| self.source_error(error, spec, &name))?;
        let shape = match tensor.shape[..] {
            [len] => [len, 1],
            [rows, cols] => [rows, cols],
            _ => {
                let expected = spec.shape.to_vec();
                return Err(SourceError::Shape { origin: tensor.origin, found: tensor.shape, expected });
            }
        };
        let order = match order {
            RowOrder::AsStored => None,
            RowOrder::LlamaHalves { heads } => match llama_halves(shape[0], heads) {
                Some(order) => Some(order),
                None => {
                    let expected = spec.shape.to_vec();
                    return Err(SourceError::Shape { origin: tensor.origin, found: tensor.shape, expected });
                }
            },
        };
        Ok(StoredWeight { origin: tensor.origin, format: tensor.format, shape, data: tensor.data, order, scales: None })
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

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Matrix => "matrix",
        Role::Embedding => "embedding",
        Role::TiedEmbedding => "tied embedding",
        Role::Vector => "vector",
    }
}

/// For each declared row the stored one; `None` when the rows are not `heads` heads of two halves.
fn llama_halves(rows: usize, heads: usize) -> Option<Arc<[u32]>> {
    if heads == 0 || !rows.is_multiple_of(heads.checked_mul(2)?) {
        return None;
    }
    let rows = u32::try_from(rows).ok()?;
    let head_dim = rows / u32::try_from(heads).ok()?;
    let stored = |row: u32| {
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, j) = (within / (head_dim / 2), within % (head_dim / 2));
        head * head_dim + 2 * j + half
    };
    Some((0..rows).map(stored).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_of_two_heads_are_found() {
        assert_eq!(*llama_halves(8, 2).unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(*llama_halves(6, 1).unwrap(), [0, 2, 4, 1, 3, 5]);
        assert_eq!(llama_halves(6, 2), None);
        assert_eq!(llama_halves(6, 0), None);
    }
}
