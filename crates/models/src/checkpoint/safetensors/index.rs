//! Sharded safetensors checkpoints: `model.safetensors.index.json` and the files it names.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::{Opened, open_file};
use crate::checkpoint::map::{file_name, read_error, read_small};
use crate::checkpoint::{CheckpointError, LoadMode};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The index of the greatest published checkpoints is about 10 MB.
const MAX_INDEX_BYTES: u64 = 32 << 20;

/// An index that does not fit its shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It is not the JSON that it should be.
    #[error("invalid index: {reason}")]
    Syntax {
        /// What is wrong, with line and column.
        reason: String,
    },
    /// No tensor is named.
    #[error("`weight_map` is empty")]
    Empty,
    /// A shard's name is a path.
    #[error("tensor `{tensor}` is said to be in `{shard}`, allowed are names of files in the same folder")]
    ShardName {
        /// The tensor.
        tensor: String,
        /// The name.
        shard: String,
    },
    /// A shard is not there.
    #[error("shard `{shard}` is missing; download it again or correct the index")]
    Missing {
        /// The shard.
        shard: String,
    },
    /// A shard is a link that leaves the folder.
    #[error("shard `{shard}` is a link to `{target}`, outside the checkpoint's folder; copy the file into the folder")]
    Outside {
        /// The shard.
        shard: String,
        /// Where the link leads.
        target: String,
    },
    /// A tensor is not where the index says.
    #[error("tensor `{tensor}` is said to be in `{shard}`, which does not hold it")]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// A tensor is in two shards.
    #[error("tensor `{tensor}` is in both `{first}` and `{second}`")]
    Duplicate {
        /// The tensor.
        tensor: String,
        /// A shard that holds it.
        first: String,
        /// Another one.
        second: String,
    },
    /// The sizes do not add up.
    #[error("`total_size` is {found}, the tensors have {actual} bytes; is a shard from another checkpoint?")]
    TotalSize {
        /// What the index says.
        found: u64,
        /// Bytes of all tensors.
        actual: u64,
    },
}

/// The shards that an index names, sorted.
pub(in crate::checkpoint) fn index_files(path: &Path) -> Result<BTreeSet<String>, CheckpointError> {
    let index = Index::read(path)?;
    Ok(index.weight_map.0.into_iter().map(|(_, shard)| shard).collect())
}

/// Opens all shards that the index at `path` names.
pub(in crate::checkpoint) fn open_sharded(path: &Path, mode: LoadMode) -> Result<Opened, CheckpointError> {
    let problem = |problem| CheckpointError::Index { file: file_name(path), problem };
    let Index { weight_map: WeightMap(weight_map), metadata } = Index::read(path)?;
    if weight_map.is_empty() {
        return Err(problem(IndexError::Empty));
    }
    for (tensor, shard) in &weight_map {
        if !is_plain_name(shard) {
            return Err(problem(IndexError::ShardName { tensor: tensor.clone(), shard: shard.clone() }));
        }
    }
    let shards: BTreeSet<&str> = weight_map.iter().map(|(_, shard)| shard.as_str()).collect();
    let mut opened = Opened { files: Vec::new(), tensors: Vec::new() };
    let mut owners: HashMap<String, &str> = HashMap::new();
    let mut actual = 0u64;
    for (number, &shard) in shards.iter().enumerate() {
        let shard_path = path.with_file_name(shard);
        check_inside(&shard_path, shard, &problem)?;
        let (file, tensors) = open_file(&shard_path, mode, number)?;
        for tensor in &tensors {
            actual = actual.saturating_add(tensor.bytes() as u64);
            if let Some(first) = owners.insert(tensor.name.clone(), shard) {
                let (tensor, first, second) = (tensor.name.clone(), first.to_owned(), shard.to_owned());
                return Err(problem(IndexError::Duplicate { tensor, first, second }));
            }
        }
        opened.files.push(file);
        opened.tensors.extend(tensors);
    }
    for (tensor, shard) in &weight_map {
        if owners.get(tensor.as_str()) != Some(&shard.as_str()) {
            return Err(problem(IndexError::NotInShard { tensor: tensor.clone(), shard: shard.clone() }));
        }
    }
    match metadata.and_then(|metadata| metadata.total_size) {
        Some(TotalSize(found)) if found != actual => Err(problem(IndexError::TotalSize { found, actual })),
        _ => Ok(opened),
    }
}

fn is_plain_name(shard: &str) -> bool {
    let mut components = Path::new(shard).components();
    let plain = matches!(components.next(), Some(Component::Normal(name)) if name == shard);
    plain && components.next().is_none() && !shard.contains(['/', '\\', '\0'])
}

/// Refuses a link out of the checkpoint's folder. In a Hugging Face cache the files of `snapshots/<commit>` are links into `blobs`.
fn check_inside(
    path: &Path,
    shard: &str,
    problem: &impl Fn(IndexError) -> CheckpointError,
) -> Result<(), CheckpointError> {
    let target = match path.canonicalize() {
        Ok(target) => target,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(problem(IndexError::Missing { shard: shard.to_owned() }));
        }
        Err(e) => return Err(read_error(path, &e)),
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(|e| read_error(folder, &e))?;
    let blobs = cache_blobs(&folder);
    if target.starts_with(&folder) || blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(());
    }
    Err(problem(IndexError::Outside { shard: shard.to_owned(), target: target.display().to_string() }))
}

/// `<model>/blobs` for `<model>/snapshots/<commit>`.
fn cache_blobs(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.parent()?;
    (snapshots.file_name()? == "snapshots").then(|| snapshots.with_file_name("blobs"))
}

#[derive(Deserialize)]
struct Index {
    metadata: Option<IndexMetadata>,
    weight_map: WeightMap,
}

#[derive(Deserialize)]
struct IndexMetadata {
    total_size: Option<TotalSize>,
}

impl Index {
    fn read(path: &Path) -> Result<Index, CheckpointError> {
        let bytes = read_small(path, MAX_INDEX_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|e| CheckpointError::Index {
            file: file_name(path),
            problem: IndexError::Syntax { reason: e.to_string() },
        })
    }
}

/// A byte count; some writers make it a float.
struct TotalSize(u64);

impl<'de> Deserialize<'de> for TotalSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let text = number.to_string();
        let whole = text.strip_suffix(".0").unwrap_or(&text);
        let size =
            whole.parse().map_err(|_| D::Error::custom(format_args!("`total_size` is {text}, expected bytes")))?;
        Ok(TotalSize(size))
    }
}

/// Tensor and shard, as written; a tensor that comes twice is an error.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`weight_map`, an object of tensor names and file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let (mut entries, mut names) = (Vec::new(), HashSet::new());
        while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
            if !names.insert(tensor.clone()) {
                return Err(A::Error::custom(format_args!("duplicate tensor `{tensor}` in `weight_map`")));
            }
            entries.push((tensor, shard));
        }
        Ok(WeightMap(entries))
    }
}
