//! Python environments for tests, kept in the user's cache: one for each list of packages and each Python.

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
    step::timed("python packages", || environment_in(&cache::folder()?.join(FOLDER), requirements, &list))
        .with_context(|| format!("cannot provide the packages of `{shown}`"))
}

fn environment_in(parent: &Path, requirements: &Path, list: &[u8]) -> Result<PathBuf> {
    let key = key(list, &version()?);
    let folder = parent.join(&key);
    let python = folder.join(PYTHON);
    if python.exists() {
        return Ok(python);
    }
    let work = Work::below(parent, &key)?;
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
    let output = asked.context("cannot run `python3`, which the tests from outside are written in")?;
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
    fn an_environment_is_made_once_and_half_a_one_never() {
        let cache = tempfile::tempdir().unwrap();
        let list = cache.path().join("requirements.txt");
        let make = |text: &str| {
            fs::write(&list, text).unwrap();
            environment_in(cache.path(), &list, text.as_bytes())
        };
        // No package, so no network.
        let python = make("# none\n").unwrap();
        step::attempt(Command::new(&python).args(["-m", "pip", "--version"])).unwrap();
        let made = fs::metadata(&python).unwrap().modified().unwrap();
        assert_eq!(make("# none\n").unwrap(), python);
        assert_eq!(fs::metadata(&python).unwrap().modified().unwrap(), made);

        let error = format!("{:#}", make("not a requirement\n").unwrap_err());
        assert!(error.contains("pip install --requirement"), "{error}");
        let folders = fs::read_dir(cache.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(folders, 1, "what failed leaves nothing behind");
    }
}
