//! What CI runs, in one place and cheapest first; `.ci/run` calls nothing else.
//!
//! All steps that compile name the whole workspace: a smaller selection is another set of features and a second build.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

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
    step::run("test", workspace.cargo(&["test", "--locked", "--workspace"]))?;
    run_all(workspace, &programs, Kind::Example, &[])?;
    // Without measuring: every bench runs once, so that it still can when somebody needs a number.
    run_all(workspace, &programs, Kind::Bench, &["--test"])
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
    let folder =
        folder.map(|folder| folder.canonicalize().with_context(|| format!("cannot open `{}`", folder.display())));
    let folder = folder.transpose()?;
    if let Some(folder) = folder.as_ref().filter(|folder| !folder.is_dir()) {
        bail!("`{}` is not a folder of golden data", folder.display());
    }
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

/// What a built program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Program,
    Example,
    Bench,
}

/// A program that the build step made.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    kind: Kind,
    name: String,
    path: PathBuf,
}

fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    let args = ["build", "--locked", "--workspace", "--all-targets", "--message-format=json-render-diagnostics"];
    Ok(programs(&String::from_utf8_lossy(&step::capture("build", workspace.cargo(&args))?)))
}

fn pull_demo(workspace: &Workspace, programs: &[Program]) -> Result<()> {
    let nxd = programs.iter().find(|program| program.kind == Kind::Program && program.name == "nxd");
    let nxd = nxd.context("the build made no program `nxd`")?;
    let mut command = workspace.program(&nxd.path);
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

/// The programs among cargo's JSON messages, by name.
fn programs(messages: &str) -> Vec<Program> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs: Vec<Program> = messages.filter_map(|message| program(&message)).collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs
}

fn program(message: &Value) -> Option<Program> {
    let path = PathBuf::from(message["executable"].as_str()?);
    let target = &message["target"];
    let kind = match target["kind"][0].as_str()? {
        "bench" => Kind::Bench,
        "example" => Kind::Example,
        "bin" if message["profile"]["test"] == false => Kind::Program,
        _ => return None,
    };
    Some(Program { kind, name: target["name"].as_str()?.to_owned(), path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"nxd"},"profile":{"test":true},"executable":"/t/nxd-1"}
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"nxd"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"nxd"},"profile":{"test":true},"executable":"/t/nxd-2"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"nxd"},"profile":{"test":false},"executable":"/t/nxd"}
{"reason":"compiler-artifact","target":{"kind":["example"],"name":"mlp"},"profile":{"test":false},"executable":"/t/mlp"}
{"reason":"compiler-artifact","target":{"kind":["bench"],"name":"ops"},"profile":{"test":true},"executable":"/t/ops"}
{"reason":"build-finished","success":true}
not json"#;
        let found: Vec<(Kind, String)> = programs(messages).into_iter().map(|p| (p.kind, p.name)).collect();
        let expected = [(Kind::Example, "mlp"), (Kind::Program, "nxd"), (Kind::Bench, "ops")];
        assert_eq!(found, expected.map(|(kind, name)| (kind, name.to_owned())));
    }

    #[test]
    // Not `golden` in the name: it would count as one.
    fn a_missing_folder_of_cases_is_an_error() {
        let workspace = Workspace::locate().unwrap();
        let error = goldens(&workspace, Some(Path::new("no/such/folder"))).unwrap_err();
        assert!(error.to_string().contains("`no/such/folder`"), "{error}");
        assert!(goldens(&workspace, Some(Path::new(file!()))).is_err());
    }
}
