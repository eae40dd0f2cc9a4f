//! The user's cache, where what tests need stays between runs, and folders that go when they are no longer needed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The user's cache folder.
///
/// # Errors
/// When the environment names none.
pub(crate) fn folder() -> Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or(home);
    cache.context("there is no cache folder: neither `XDG_CACHE_HOME` nor `HOME` is set")
}

/// The SHA-256 of `bytes`, as others write it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes every write
        text
    })
}

/// An empty folder that goes when it is no longer needed.
pub(crate) struct Work(PathBuf);

impl Work {
    /// One of this process alone, in `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn below(parent: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("cannot create `{}`", parent.display()))?;
        let work = Work(parent.join(format!(".{name}.{}", std::process::id())));
        let folder = work.folder();
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("cannot empty `{}`", folder.display()))?;
        }
        fs::create_dir(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        Ok(work)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What is left over harms nobody: the next run of this process id empties it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_others_compute() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn work_begins_empty_and_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let left_over = Work::below(parent.path(), "work").unwrap();
        fs::write(left_over.folder().join("a"), "").unwrap();
        let work = Work::below(parent.path(), "work").unwrap();
        assert_eq!(fs::read_dir(work.folder()).unwrap().count(), 0);
        let path = work.folder().to_owned();
        drop(work);
        assert!(!path.exists());
    }
}
