//! Which files a path means.

use super::map::{file_name, read_error};
use super::{CheckpointError, gguf, safetensors};
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What to open.
pub(super) enum Target {
    /// One safetensors file.
    Single(PathBuf),
    /// The index of a sharded checkpoint.
    Index(PathBuf),
    /// A GGUF file, or a part of a split one.
    Gguf(PathBuf),
}

/// The checkpoint behind a folder or file.
pub(super) fn find(path: &Path) -> Result<Target, CheckpointError> {
    let about = std::fs::metadata(path).map_err(|e| read_error(path, &e))?;
    if about.is_dir() {
        return find_in(path);
    }
    let name = file_name(path);
    if is_pickle(&name) {
        return Err(CheckpointError::Pickle { file: path.display().to_string() });
    }
    if name.ends_with(".safetensors.index.json") {
        return Ok(Target::Index(path.to_owned()));
    }
    // Files of any other name are GGUF or a bad magic: caches name files by their hash.
    let single = name.ends_with(".safetensors");
    Ok(if single { Target::Single(path.to_owned()) } else { Target::Gguf(path.to_owned()) })
}

/// Safetensors come before GGUF: a folder with both has a `config.json` that belongs to them.
fn find_in(folder: &Path) -> Result<Target, CheckpointError> {
    let names = file_names(folder)?;
    let has = |name: &str| names.iter().any(|n| n == name);
    if has(INDEX) {
        let index = folder.join(INDEX);
        if has(SINGLE) && safetensors::index_files(&index)?.iter().any(|shard| shard != SINGLE) {
            let found = format!("`{SINGLE}` and the shards of `{INDEX}`");
            let advice = "remove one of them";
            return Err(CheckpointError::Ambiguous { folder: folder.display().to_string(), found, advice });
        }
        return Ok(Target::Index(index));
    }
    if has(SINGLE) {
        return Ok(Target::Single(folder.join(SINGLE)));
    }
    let ggufs: Vec<&String> = names.iter().filter(|name| name.ends_with(".gguf")).collect();
    if let Some(first) = ggufs.first().map(|name| folder.join(name)) {
        let set = gguf::siblings(&first).unwrap_or_else(|| vec![first.clone()]);
        if ggufs.iter().all(|name| set.contains(&folder.join(name))) {
            return Ok(Target::Gguf(first));
        }
        let advice = "give the path of one file";
        return Err(CheckpointError::Ambiguous { folder: folder.display().to_string(), found: list(&ggufs), advice });
    }
    if let Some(pickle) = names.iter().find(|name| is_pickle(name)) {
        return Err(CheckpointError::Pickle { file: folder.join(pickle).display().to_string() });
    }
    let others: Vec<&String> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
    let hint = if others.is_empty() { String::new() } else { format!("; found {}", list(&others)) };
    Err(CheckpointError::NoWeights { folder: folder.display().to_string(), hint })
}

/// The names in a folder, sorted.
fn file_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| read_error(folder, &e))? {
        let entry = entry.map_err(|e| read_error(folder, &e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".ckpt", ".bin.index.json"].iter().any(|end| name.ends_with(end))
}

/// Up to five names.
fn list(names: &[&String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > shown.len() { ", …" } else { "" };
    shown.join(", ") + more
}
