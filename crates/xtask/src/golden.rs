//! `cargo xtask golden NAME`: a tiny random checkpoint and what transformers computes from it, for whoever adds a model.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{python, step};

/// The program, and beside it the list of what it needs.
const FOLDER: &str = "crates/xtask/golden";
/// Where cases are made unless somebody says otherwise: not among those that are kept.
const OUT: &str = "target/goldens";
/// A Python that has the packages already.
const OWN_PYTHON: &str = "NXD_GOLDEN_PYTHON";

/// What the user asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Case {
    /// Of a family of the program's table, or with `config` any name.
    pub(crate) name: String,
    /// A `config.json` to make tiny.
    pub(crate) config: Option<PathBuf>,
    /// The folder in which the case's own is made.
    pub(crate) out: Option<PathBuf>,
}

/// Makes the case, and says how it is checked.
///
/// # Errors
/// When the packages cannot be had, or transformers cannot run the model.
pub(crate) fn make(workspace: &Workspace, case: &Case) -> Result<()> {
    let folder = case.folder(workspace)?;
    let python = interpreter(workspace)?;
    let mut command = workspace.program(&python);
    command.arg("-B").arg(workspace.root().join(FOLDER).join("golden.py")).arg(&case.name);
    command.arg("--out").arg(&folder);
    if let Some(config) = &case.config {
        // Programs run in the root, the user may be elsewhere.
        command.arg("--config").arg(absolute(config)?);
    }
    step::run(&format!("golden {}", case.name), command)?;
    let made = folder.join(&case.name);
    let shown = made.strip_prefix(workspace.root()).unwrap_or(&made).display();
    eprintln!("made {shown}; now\n  cargo run --release --package nxd-cli -- check {shown}");
    Ok(())
}

impl Case {
    /// Where the case's folder is made.
    fn folder(&self, workspace: &Workspace) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.starts_with(['.', '-']) || !self.name.chars().all(plain) {
            bail!("`{}` is no name for a folder; letters, digits, `-`, `_` and `.` make one", self.name);
        }
        match &self.out {
            Some(out) => absolute(out),
            None => Ok(workspace.root().join(OUT)),
        }
    }
}

/// The interpreter: the one that the user names, or that of an environment which is made the first time.
fn interpreter(workspace: &Workspace) -> Result<PathBuf> {
    let Some(own) = std::env::var_os(OWN_PYTHON).filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return python::environment(&workspace.root().join(FOLDER).join("requirements.txt"));
    };
    match step::attempt(Command::new(&own).args(["-c", "import torch, transformers, safetensors"])) {
        Ok(()) => Ok(own),
        Err(why) => bail!("`{OWN_PYTHON}` names `{}`, which cannot import what is needed: {why}", own.display()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot tell where `{}` is", path.display()))
}

#[cfg(test)]
mod tests {
    // A golden test is one with that word in its name, which none of these must have.
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    fn read(file: &str) -> String {
        fs::read_to_string(Workspace::locate().unwrap().root().join(file)).unwrap()
    }

    #[test]
    fn every_family_of_the_page_has_a_tiny_configuration() {
        let page = read("docs/models.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
        let listed: BTreeSet<&str> =
            rows.map(|(name, _)| name).filter(|name| !["family", "---"].contains(name)).collect();
        let table = read(&format!("{FOLDER}/families.py"));
        let entries = table.lines().filter_map(|line| line.strip_prefix("    \"")?.split_once("\": Family("));
        let entries: BTreeSet<&str> = entries.map(|(name, _)| name).collect();
        assert!(listed.len() > 20, "the page was not understood: {listed:?}");
        assert_eq!(listed, entries, "docs/models.md and {FOLDER}/families.py list other families");
    }

    #[test]
    fn all_packages_are_pinned() {
        let list = read(&format!("{FOLDER}/requirements.txt"));
        let packages: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(packages.iter().any(|package| package.starts_with("torch==")), "{packages:?}");
        assert!(packages.iter().all(|package| package.contains("==")), "{packages:?}");
    }

    #[test]
    fn a_name_is_a_folder_and_goes_nowhere_else() {
        let workspace = Workspace::locate().unwrap();
        let folder = |name: &str, out: Option<&str>| {
            Case { name: name.to_owned(), config: None, out: out.map(PathBuf::from) }.folder(&workspace)
        };
        assert_eq!(folder("llama", None).unwrap(), workspace.root().join(OUT));
        assert_eq!(folder("my-model_1.5", Some("/a/b")).unwrap(), Path::new("/a/b"));
        for name in ["../llama", "a/b", ".llama", "-x", "a b"] {
            assert!(folder(name, None).is_err(), "{name}");
        }
    }
}
