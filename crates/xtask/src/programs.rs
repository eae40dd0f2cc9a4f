//! Builds the workspace and knows the programs that came out of it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::step;
use crate::workspace::Workspace;

/// What a built program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Program,
    Example,
    Bench,
}

/// A program that the build step made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Builds everything: a smaller selection is another set of features and a second build.
///
/// # Errors
/// When it does not compile.
pub(crate) fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    let args = ["build", "--locked", "--workspace", "--all-targets", "--message-format=json-render-diagnostics"];
    Ok(programs(&String::from_utf8_lossy(&step::capture("build", workspace.cargo(&args))?)))
}

/// Builds `nxd` alone, for those who want nothing else, and gives its path.
///
/// # Errors
/// When it does not compile.
pub(crate) fn build_nxd(workspace: &Workspace) -> Result<PathBuf> {
    let args = ["build", "--locked", "--package", "nxd-cli", "--message-format=json-render-diagnostics"];
    let built = programs(&String::from_utf8_lossy(&step::capture("build of nxd", workspace.cargo(&args))?));
    nxd(&built).map(|program| program.path.clone())
}

/// The program `nxd`.
///
/// # Errors
/// When the build did not make one.
pub(crate) fn nxd(programs: &[Program]) -> Result<&Program> {
    let nxd = programs.iter().find(|program| program.kind == Kind::Program && program.name == "nxd");
    nxd.context("the build made no program `nxd`")
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
}
