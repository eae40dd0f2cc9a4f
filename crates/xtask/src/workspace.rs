//! The workspace that this program belongs to, and how cargo is called in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The repository's root and the cargo that started us.
pub(crate) struct Workspace {
    root: PathBuf,
    cargo: OsString,
}

impl Workspace {
    /// Finds the root from this crate's folder, which cargo tells at run time (a moved checkout) or told at build time.
    ///
    /// # Errors
    /// When the folder is gone.
    pub(crate) fn locate() -> Result<Self> {
        let crate_folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&crate_folder).join("../..");
        let root = root.canonicalize().with_context(|| format!("cannot find the workspace at `{}`", root.display()))?;
        Ok(Self { root, cargo: std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()) })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `cargo` with these arguments, in the root.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = self.program(Path::new(&self.cargo));
        // Every step compiles the same things once; incremental data would only fill the disk.
        command.args(args).env("CARGO_INCREMENTAL", "0");
        command
    }

    /// A program in the root, without what `cargo run` told *us* about our own package: build scripts that watch these variables
    /// (ring's does) would be run again by every change between `cargo xtask test` and plain cargo.
    pub(crate) fn program(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        command.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
            if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
    }
}
