//! What CI runs, in one place and cheapest first; `.ci/run` calls nothing else.
//!
//! All steps that compile name the whole workspace: a smaller selection is another set of features and a second build.

use anyhow::{Result, bail};

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
