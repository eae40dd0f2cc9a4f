//! The house rules that neither rustc nor clippy checks. `cargo xtask tidy` runs all of them; so do this crate's tests.
//!
//! A rule is a function from data (files, `cargo metadata`, `deny.toml`) to violations, so that each can be shown to fire.

mod code;
mod dependencies;
mod house;
mod source;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// A text file of the repository.
pub(crate) struct File {
    /// Relative to the repository's root, with `/`.
    path: String,
    /// Empty when the file is not UTF-8: binary data has a name but no lines.
    text: String,
}

/// A place where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    message: String,
}

impl Violation {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Which dependencies are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Platforms {
    /// Those of every platform; cargo downloads what it has never built here.
    All,
    /// Those of this one, which a build has fetched already: tests use no network.
    #[cfg(test)]
    Host,
}

/// Prints every violation.
///
/// # Errors
/// When there is one, or when the tree or `cargo metadata` cannot be read.
pub(crate) fn run(workspace: &Workspace, platforms: Platforms) -> Result<()> {
    let found = violations(workspace, platforms)?;
    for violation in &found {
        eprintln!("{violation}");
    }
    match found.len() {
        0 => Ok(()),
        1 => bail!("tidy: 1 violation"),
        n => bail!("tidy: {n} violations"),
    }
}

fn violations(workspace: &Workspace, platforms: Platforms) -> Result<Vec<Violation>> {
    let files = read_tree(workspace.root())?;
    let metadata = metadata(workspace, platforms)?;
    let named =
        |path: &str| files.iter().find(|file| file.path == path).with_context(|| format!("`{path}` is missing"));
    let (deny, lock) = (named("deny.toml")?, named("Cargo.lock")?);
    let mut found: Vec<Violation> = files.iter().flat_map(source::all).collect();
    found.extend(house::arrows(&metadata, &files));
    found.extend(house::manifests(&files));
    found.extend(dependencies::licences(&metadata, deny, lock));
    found.extend(dependencies::duplicates(&metadata, deny, lock));
    found.sort();
    Ok(found)
}

fn metadata(workspace: &Workspace, platforms: Platforms) -> Result<Value> {
    let mut command = workspace.cargo(&["metadata", "--format-version=1", "--locked", "--all-features"]);
    if platforms != Platforms::All {
        command.args(["--filter-platform", &host(workspace)?]);
    }
    let output = command.output().context("cannot run `cargo metadata`")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    serde_json::from_slice(&output.stdout).context("`cargo metadata` wrote something that is not JSON")
}

/// The target triple that cargo builds for when it is not told.
fn host(workspace: &Workspace) -> Result<String> {
    let output = workspace.cargo(&["-vV"]).output().context("cannot run `cargo -vV`")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).with_context(|| format!("`cargo -vV` names no host:\n{text}"))
}

/// Every file of the repository, sorted by path.
fn read_tree(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() && !is_foreign(&path) {
                folders.push(path);
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
                let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                files.push(File { path: relative, text: String::from_utf8(bytes).unwrap_or_default() });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Folders that are not the repository's own: build outputs (cargo marks them), caches, hidden folders but CI's and cargo's.
fn is_foreign(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let hidden = name.starts_with('.') && ![".ci", ".cargo", ".github"].contains(&name.as_ref());
    hidden || name == "target" || name == "__pycache__" || folder.join("CACHEDIR.TAG").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let found = violations(&Workspace::locate().unwrap(), Platforms::Host).unwrap();
        let lines: Vec<String> = found.iter().map(Violation::to_string).collect();
        assert!(lines.is_empty(), "\n{}", lines.join("\n"));
    }

    #[test]
    fn the_tree_has_sources_and_no_build_outputs() {
        let files = read_tree(Workspace::locate().unwrap().root()).unwrap();
        assert!(files.iter().any(|file| file.path == "crates/xtask/src/tidy/mod.rs" && file.text.starts_with("//!")));
        assert!(files.iter().any(|file| file.path == ".ci/run"));
        assert!(!files.iter().any(|file| file.path.starts_with("target/") || file.path.starts_with(".git/")));
    }
}
