//! Python environments for programs of this workspace, kept in the user's cache: one for each list of packages and each Python.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache::{self, Work};
use crate::step;

/// The folder of environments below the cache.
const FOLDER: &str = "nxd/python";
/// The interpreter's place in an environment.
const PYTHON: &str = "bin/python";
const INSTALL: [&str; 8] =
    ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--timeout=30", "--requirement"];

/// The Python of an environment with the packages that the file `requirements` lists; made the first time.
///
/// # Errors
/// When there is no Python here, or the packages cannot be had.
pub(crate) fn environment(requirements: &Path) -> Result<PathBuf> {
    let list = fs::read(requirements).with_context(|| format!("cannot read `{}`", requirements.display()))?;
    let shown = requirements.display();
    step::timed("python packages", || {
        let key = key(&list, &version()?);
        environment_in(&cache::folder()?.join(FOLDER), &key, requirements)
    })
    .with_context(|| format!("cannot provide the packages of `{shown}`"))
}

fn environment_in(parent: &Path, key: &str, requirements: &Path) -> Result<PathBuf> {
    let folder = parent.join(key);
    let python = folder.join(PYTHON);
    if python.exists() {
        return Ok(python);
    }
    let work = Work::below(parent, key)?;
    // An environment finds itself by where its interpreter lies, so it may move; what pip made executable would not survive that,
    // and is not used.
    let whole = work.folder().join("whole");
    if let Err(why) = step::attempt(Command::new("python3").args(["-m", "venv"]).arg(&whole)) {
        bail!("`python3 -m venv` {why}; on Debian it is in the package `python3-venv`");
    }
    if let Err(why) = step::attempt(Command::new(whole.join(PYTHON)).args(INSTALL).arg(requirements)) {
        bail!("`pip install --requirement {}` {why}", requirements.display());
    }
    match fs::rename(&whole, &folder) {
        // Somebody else was faster.
        Err(_) if python.exists() => {}
        moved => moved.with_context(|| format!("cannot move the environment to `{}`", folder.display()))?,
    }
    Ok(python)
}

/// What `python3` calls itself: an environment is of no use to another one.
fn version() -> Result<Vec<u8>> {
    let asked = Command::new("python3").arg("-VV").stdin(Stdio::null()).output();
    let output = asked.context("cannot run `python3`, which this step's program is written in")?;
    if !output.status.success() {
        bail!("`python3 -VV` failed ({})", output.status);
    }
    Ok(output.stdout)
}

/// A short name for a list of packages and a Python.
fn key(list: &[u8], version: &[u8]) -> String {
    let mut key = cache::sha256(&[list, b"\0", version].concat());
    key.truncate(16);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_belongs_to_its_packages_and_its_python() {
        let one = key(b"pytest==9.2.0", b"Python 3.11.7");
        assert_eq!(one.len(), 16);
        assert_ne!(one, key(b"pytest==9.2.1", b"Python 3.11.7"));
        assert_ne!(one, key(b"pytest==9.2.0", b"Python 3.12.0"));
    }

    #[test]
    fn an_environment_that_is_there_is_not_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let python = cache.path().join("0123").join(PYTHON);
        fs::create_dir_all(python.parent().unwrap()).unwrap();
        fs::write(&python, "").unwrap();
        assert_eq!(environment_in(cache.path(), "0123", Path::new("no/such/list")).unwrap(), python);
    }

    #[test]
    fn a_missing_list_is_named() {
        let error = environment(Path::new("no/such/list")).unwrap_err().to_string();
        assert!(error.contains("`no/such/list`"), "{error}");
    }
}
