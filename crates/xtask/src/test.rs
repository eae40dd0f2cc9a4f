//! What CI runs, in one place and cheapest first; `.ci/run` calls nothing else.
//!
//! All steps that compile name the whole workspace: a smaller selection is another set of features and a second build.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::outside;
use crate::pjrt;
use crate::programs::{self, Kind, Program, build};
use crate::step;
use crate::tidy::{self, Platforms};
use crate::workspace::Workspace;

/// All steps; the first failure stops.
///
/// # Errors
/// When a step fails.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    step::run("fmt", workspace.cargo(&["fmt", "--all", "--check"]))?;
    step::timed("tidy", || tidy::run(workspace, Platforms::All))?;
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step::run("clippy", workspace.cargo(&clippy))?;
    let mut doc = workspace.cargo(&["doc", "--locked", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    step::run("doc", doc)?;
    let programs = build(workspace)?;
    pull_demo(workspace, &programs)?;
    pjrt::plugin()?;
    step::run("test", workspace.cargo(&["test", "--locked", "--workspace"]))?;
    run_all(workspace, &programs, Kind::Example, &[])?;
    // Without measuring: every bench runs once, so that it still can when somebody needs a number.
    run_all(workspace, &programs, Kind::Bench, &["--test"])?;
    outside::all(workspace, &programs)
}

/// Fetches the demo model into the hub's cache, where tests expect it.
///
/// # Errors
/// When the build or the download fails.
pub(crate) fn demo(workspace: &Workspace) -> Result<()> {
    pull_demo(workspace, &build(workspace)?)
}

/// The golden tests, with the cases in `folder` instead of those of the repository.
///
/// # Errors
/// When `folder` is no folder, when there is no golden test, or when one fails.
pub(crate) fn goldens(workspace: &Workspace, folder: Option<&Path>) -> Result<()> {
    // Tests run in their crate's folder, so the path has to be absolute.
    let folder = folder.map(absolute).transpose()?;
    let golden = ["test", "--locked", "--workspace", "golden", "--"];
    let mut list = workspace.cargo(&golden);
    list.arg("--list");
    // A filter that matches nothing passes, so the tests are counted first.
    let listed = step::capture("list of golden tests", list)?;
    let count = String::from_utf8_lossy(&listed).lines().filter(|line| line.ends_with(": test")).count();
    if count == 0 {
        bail!("no test has `golden` in its name, so nothing was compared");
    }
    let mut tests = workspace.cargo(&golden);
    tests.arg("--nocapture");
    if let Some(folder) = folder {
        tests.env("NXD_GOLDENS", folder);
    }
    step::run(&format!("golden tests ({count})"), tests)
}

/// The folder's full path.
///
/// # Errors
/// When there is no such folder.
pub(crate) fn absolute(folder: &Path) -> Result<PathBuf> {
    let found = folder.canonicalize().with_context(|| format!("cannot open `{}`", folder.display()))?;
    if !found.is_dir() {
        bail!("`{}` is not a folder of golden data", found.display());
    }
    Ok(found)
}

fn pull_demo(workspace: &Workspace, programs: &[Program]) -> Result<()> {
    let mut command = workspace.program(&programs::nxd(programs)?.path);
    command.args(["pull", "demo"]);
    step::run("demo model", command)
}

fn run_all(workspace: &Workspace, programs: &[Program], kind: Kind, args: &[&str]) -> Result<()> {
    let chosen: Vec<&Program> = programs.iter().filter(|program| program.kind == kind).collect();
    if chosen.is_empty() {
        bail!("the build made no program of kind {kind:?}");
    }
    for program in chosen {
        let mut command = workspace.program(&program.path);
        command.args(args);
        step::run(&format!("{} {}", if kind == Kind::Bench { "bench" } else { "example" }, program.name), command)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    // Not `golden` in the name: it would count as one.
    fn a_missing_folder_of_cases_is_an_error() {
        let workspace = Workspace::locate().unwrap();
        for run in [goldens, |w: &Workspace, folder: Option<&Path>| crate::on_device::run(w, "cpu", folder)] {
            let error = run(&workspace, Some(Path::new("no/such/folder"))).unwrap_err();
            assert!(error.to_string().contains("`no/such/folder`"), "{error}");
            assert!(run(&workspace, Some(Path::new(file!()))).is_err());
        }
    }
}
