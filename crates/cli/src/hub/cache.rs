//! The hub's cache on disk, in the layout of its Python library: `models--org--name/{blobs,refs,snapshots}`.
//!
//! `refs/main` holds a commit; `snapshots/<commit>/<file>` is a link to `blobs/<etag>`; a file that is still arriving is
//! `blobs/<etag>.incomplete`. A model is complete when its config and every weight file are there: weights come last.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::name::{GgufChoice, RepoName};
use super::select;

/// A repository's folder in the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
    revision: String,
}

impl RepoCache {
    pub(super) fn new(hub_cache: &Path, repo: &RepoName) -> Self {
        let name = format!("models--{}", repo.id.replace('/', "--"));
        Self {
            locks: hub_cache.join(".locks").join(&name),
            folder: hub_cache.join(name),
            revision: repo.revision.clone(),
        }
    }

    /// The snapshot's directory, or its chosen `.gguf`, when all of it is there.
    pub(super) fn complete(&self, repo: &RepoName) -> Option<PathBuf> {
        let dir = self.snapshot(&self.commit()?);
        match &repo.file {
            Some(GgufChoice::File(name)) => Some(dir.join(name)).filter(|path| path.is_file()),
            Some(choice) => {
                let name = select::gguf("", choice, &names_in(&dir)).ok()?;
                Some(dir.join(name)).filter(|path| path.is_file())
            }
            None => has_layout(&dir).then_some(dir.clone()).or_else(|| only_gguf(&dir)),
        }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn reference(&self) -> PathBuf {
        self.folder.join("refs").join(&self.revision)
    }

    fn commit(&self) -> Option<String> {
        if self.snapshot(&self.revision).is_dir() {
            return Some(self.revision.clone());
        }
        let commit = fs::read_to_string(self.reference()).ok()?.trim().to_owned();
        (select::is_safe(&commit) && !commit.contains('/')).then_some(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub(super) fn partial(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// Whether some file was left half way.
    pub(super) fn has_partials(&self) -> bool {
        names_in(&self.folder.join("blobs")).iter().any(|name| name.ends_with(".incomplete"))
    }

    /// Makes `snapshots/<commit>/<name>` a link to the blob.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> std::io::Result<()> {
        let pointer = self.snapshot(commit).join(name);
        if let Some(parent) = pointer.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => link_file(&self.blob(etag), &pointer, 2 + name.matches('/').count(), etag),
        }
    }

    /// Says that the revision is this commit, now that its files are there.
    pub(super) fn set_commit(&self, commit: &str) -> std::io::Result<()> {
        let path = self.reference();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, commit)
    }
}

#[cfg(unix)]
fn link_file(_: &Path, pointer: &Path, depth: usize, etag: &str) -> std::io::Result<()> {
    std::os::unix::fs::symlink(format!("{}blobs/{etag}", "../".repeat(depth)), pointer)
}

#[cfg(not(unix))]
fn link_file(blob: &Path, pointer: &Path, _: usize, _: &str) -> std::io::Result<()> {
    // Links need a privilege on Windows.
    fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(|_| ()))
}

/// The file names that an index of sharded weights lists, each once.
pub(super) fn shards(index: &[u8]) -> Option<Vec<String>> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let map = index.get("weight_map")?.as_object()?;
    let mut names: Vec<String> = map.values().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    names.sort();
    names.dedup();
    (!names.is_empty()).then_some(names)
}

fn has_layout(dir: &Path) -> bool {
    if !dir.join(select::CONFIG).is_file() {
        return false;
    }
    match fs::read(dir.join(select::INDEX)) {
        Ok(index) => shards(&index)
            .is_some_and(|names| names.iter().all(|name| select::is_safe(name) && dir.join(name).is_file())),
        Err(_) => names_in(dir).iter().any(|name| name.ends_with(".safetensors") && dir.join(name).is_file()),
    }
}

fn only_gguf(dir: &Path) -> Option<PathBuf> {
    let names: Vec<String> = names_in(dir).into_iter().filter(|name| name.ends_with(".gguf")).collect();
    match names.as_slice() {
        [only] => Some(dir.join(only)).filter(|path| path.is_file()),
        _ => None,
    }
}

/// File names below `dir` with `/` between folders, one folder deep as GGUF repositories have it.
fn names_in(dir: &Path) -> Vec<String> {
    let list = |dir: &Path| -> Vec<(String, bool)> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| Some((e.file_name().into_string().ok()?, e.file_type().ok()?.is_dir()))).collect()
    };
    let mut names = Vec::new();
    for (name, is_dir) in list(dir) {
        if is_dir {
            names.extend(list(&dir.join(&name)).into_iter().map(|(inner, _)| format!("{name}/{inner}")));
        } else {
            names.push(name);
        }
    }
    names.sort();
    names
}
