//! Compiled NKI kernels on disk.
//!
//! What the compiler answers refers to files it wrote, by their full names, and they must be there when the program around the
//! kernel is compiled. So each compilation has a folder that is never moved, and an index file, named by the hash of everything that
//! went in, says which folder holds the result.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest index that is read.
const INDEX_BYTES: u64 = 32 << 20;

/// What was compiled.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    backend_config: String,
    /// The folder of the files, within the store.
    folder: String,
    files: Vec<Artefact>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Artefact {
    /// Its path within the folder.
    path: PathBuf,
    bytes: u64,
    sha256: String,
}

/// The hash of what a compilation depends on.
pub(super) fn hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// The compiled kernel of this hash, if it is there with all its files as they were written.
pub(super) fn get(store: &Path, hash: &str) -> Option<String> {
    let path = index_path(store, hash);
    let found = fs::symlink_metadata(&path).ok().filter(|found| found.is_file() && found.len() <= INDEX_BYTES)?;
    let whole = || -> io::Result<String> {
        let index: Index = serde_json::from_slice(&fs::read(&path)?)?;
        match files(&store.join(&index.folder))? == index.files {
            true => Ok(index.backend_config),
            false => Err(io::Error::other("a file of the kernel is missing or has changed")),
        }
    };
    match whole() {
        Ok(config) => Some(config),
        Err(error) => {
            tracing::warn!("{}, {} bytes: the kernel is compiled again: {error}", path.display(), found.len());
            None
        }
    }
}

/// A new folder for a compilation.
pub(super) fn folder(store: &Path, hash: &str) -> io::Result<PathBuf> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(store)?;
    let store = store.canonicalize()?;
    loop {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = store.join(format!("{hash}-{}-{number}", std::process::id()));
        match fs::create_dir(&folder) {
            // Left by an earlier process of the same number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => return made.map(|()| folder),
        }
    }
}

/// Keeps what was compiled in `folder`, in the place of an earlier result.
pub(super) fn put(store: &Path, hash: &str, folder: &Path, backend_config: &str) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unfinished = store.join(format!(".{name}"));
    let index = Index { backend_config: backend_config.to_owned(), folder: name, files: files(folder)? };
    fs::write(&unfinished, serde_json::to_vec(&index)?)?;
    fs::rename(&unfinished, index_path(store, hash))
}

fn index_path(store: &Path, hash: &str) -> PathBuf {
    store.join(format!("{hash}.json"))
}

/// All files below a folder, in the order of their names.
fn files(folder: &Path) -> io::Result<Vec<Artefact>> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(inner) = folders.pop() {
        for item in fs::read_dir(folder.join(&inner))? {
            let item = item?;
            let (kind, path) = (item.file_type()?, inner.join(item.file_name()));
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let mut hash = Sha256::new();
                let bytes = io::copy(&mut fs::File::open(folder.join(&path))?, &mut Hashing(&mut hash))?;
                found.push(Artefact { path, bytes, sha256: hex(&hash.finalize()) });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

struct Hashing<'h>(&'h mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
