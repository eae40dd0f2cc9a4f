//! Runs the program with an environment of its own and looks at what it did.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What one run of `nxd` did.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A home folder of its own, thrown away at the end.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The hub's cache below this home.
    pub(crate) fn hub(&self) -> PathBuf {
        self.path().join(".cache/huggingface/hub")
    }

    /// Runs `nxd args` with no variables but `HOME`, `PATH` and `vars`.
    pub(crate) fn nxd(&self, args: &[&str], vars: &[(&str, &str)]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nxd"));
        command.args(args).env_clear().env("HOME", self.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(vars.iter().copied()).current_dir(self.path());
        let output = command.output().unwrap();
        Run {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Names of all files below `dir`, sorted.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
