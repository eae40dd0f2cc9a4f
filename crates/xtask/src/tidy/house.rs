//! The house: which crate may know which, as a table, and what every manifest must say.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{File, Violation};

/// A library crate and the crates of ours that it knows.
struct Floor {
    name: &'static str,
    uses: &'static [&'static str],
    /// Known only when a cargo feature is on.
    by_feature: &'static [&'static str],
}

const fn floor(name: &'static str, uses: &'static [&'static str]) -> Floor {
    Floor { name, uses, by_feature: &[] }
}

/// From the ground up. A crate that does not exist yet is no violation; one that is missing here is.
const HOUSE: &[Floor] = &[
    floor("nxd-runtime", &[]),
    floor("nxd-collectives", &[]),
    floor("nxd-ops", &["nxd-collectives"]),
    floor("nxd-cpu", &["nxd-ops", "nxd-collectives"]),
    floor("nxd-stablehlo", &["nxd-ops", "nxd-collectives", "nxd-runtime"]),
    floor("nxd-parallel", &["nxd-ops", "nxd-collectives"]),
    floor("nxd-modules", &["nxd-ops", "nxd-parallel"]),
    floor("nxd-models", &["nxd-modules", "nxd-parallel", "nxd-ops"]),
    Floor {
        name: "nxd-executor",
        uses: &["nxd-models", "nxd-modules", "nxd-parallel", "nxd-ops", "nxd-collectives", "nxd-cpu"],
        by_feature: &["nxd-stablehlo", "nxd-runtime"],
    },
    floor("nxd-engine", &["nxd-executor", "nxd-models", "nxd-ops"]),
    floor("nxd-server", &["nxd-engine", "nxd-models"]),
    floor("nxd", &["nxd-engine", "nxd-executor", "nxd-models"]),
    floor("nxd-python", &["nxd-executor", "nxd-engine", "nxd-models"]),
    floor(TESTKIT, &[]),
];

/// Programs: they may know every library of the house, and nobody knows them.
const PROGRAMS: [&str; 4] = ["nxd-cli", "nxd-examples", "nxd-benches", "xtask"];

/// A dev-dependency only.
const TESTKIT: &str = "nxd-testkit";

/// The arrows of `cargo metadata` (normal and build dependencies between members) are all in the table; a crate need not use all it may.
pub(super) fn arrows(metadata: &Value, files: &[File]) -> Vec<Violation> {
    let members = members(metadata);
    let mut found = Vec::new();
    for (name, package) in &members {
        let manifest = manifest_path(metadata, package);
        let arrows = known(package, &members);
        let at = |dependency: &str| line_of(files, &manifest, dependency);
        let mut report = |line: usize, message: String| found.push(Violation::new(&manifest, line, message));
        let floor = HOUSE.iter().find(|floor| floor.name == *name);
        if floor.is_none() && !PROGRAMS.contains(name) {
            report(1, format!("`{name}` is not in the table of crates; say in `docs/architecture.md` what it is for"));
            continue;
        }
        if let Some(floor) = floor
            && manifest != format!("crates/{}/Cargo.toml", name.strip_prefix("nxd-").unwrap_or(name))
        {
            report(1, format!("`{}` is not in the folder that its name says", floor.name));
        }
        for (dependency, optional) in &arrows {
            let line = at(dependency);
            if *dependency == TESTKIT || PROGRAMS.contains(dependency) {
                report(line, format!("`{name}` depends on `{dependency}`, which no crate may know outside its tests"));
            } else if let Some(floor) = floor {
                if floor.by_feature.contains(dependency) && !optional {
                    report(line, format!("`{name}` may know `{dependency}` by a cargo feature only; make it optional"));
                } else if !floor.uses.contains(dependency) && !floor.by_feature.contains(dependency) {
                    report(
                        line,
                        format!("`{name}` must not know `{dependency}`: the table of crates has no such arrow"),
                    );
                }
            }
        }
    }
    found
}

/// Every member takes the workspace's lints, and its dependencies' versions from the workspace.
pub(super) fn manifests(files: &[File]) -> Vec<Violation> {
    let is_member = |file: &&File| file.path.ends_with("/Cargo.toml");
    files.iter().filter(is_member).flat_map(manifest).collect()
}

fn manifest(file: &File) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut section = "";
    let mut lints = false;
    for (n, line) in file.text.lines().map(str::trim).enumerate() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[lints]" && line == "workspace = true" {
            lints = true;
        } else if section.ends_with("dependencies]")
            && line.contains('=')
            && !line.starts_with('#')
            && !line.contains("workspace = true")
        {
            let message = "a dependency with a version of its own; declare it in `[workspace.dependencies]`";
            found.push(Violation::new(&file.path, n + 1, message));
        }
    }
    if !lints {
        found.push(Violation::new(&file.path, 1, "the crate lacks `[lints]` with `workspace = true`"));
    }
    found
}

/// The packages of the workspace, by name.
fn members(metadata: &Value) -> BTreeMap<&str, &Value> {
    let ids: BTreeSet<&str> = array(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
    let packages =
        array(&metadata["packages"]).filter(|package| package["id"].as_str().is_some_and(|id| ids.contains(id)));
    packages.filter_map(|package| Some((package["name"].as_str()?, package))).collect()
}

/// The members that a package knows outside its tests, and whether only by a feature.
fn known<'a>(package: &'a Value, members: &BTreeMap<&str, &Value>) -> BTreeMap<&'a str, bool> {
    let mut arrows = BTreeMap::new();
    for dependency in array(&package["dependencies"]).filter(|dependency| dependency["kind"] != "dev") {
        if let Some(name) = dependency["name"].as_str().filter(|name| members.contains_key(name)) {
            let optional = dependency["optional"] == true;
            arrows.entry(name).and_modify(|o| *o &= optional).or_insert(optional);
        }
    }
    arrows
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn manifest_path(metadata: &Value, package: &Value) -> String {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    let path = package["manifest_path"].as_str().unwrap_or_default();
    path.strip_prefix(root).unwrap_or(path).trim_start_matches(['/', '\\']).replace('\\', "/")
}

/// The line of a manifest that declares `dependency`, or its first.
fn line_of(files: &[File], manifest: &str, dependency: &str) -> usize {
    let declares =
        |line: &str| line.trim_start().strip_prefix(dependency).is_some_and(|rest| rest.starts_with(['.', ' ', '=']));
    let file = files.iter().find(|file| file.path == manifest);
    file.and_then(|file| file.text.lines().position(declares)).map_or(1, |n| n + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A workspace of (name, folder, dependencies as (name, kind, optional)).
    type Member<'a> = (&'a str, &'a str, &'a [(&'a str, Option<&'a str>, bool)]);

    fn workspace(members: &[Member<'_>]) -> Value {
        let package = |(name, folder, dependencies): &Member<'_>| {
            let dependencies: Vec<Value> = dependencies
                .iter()
                .map(|(name, kind, optional)| json!({ "name": name, "kind": kind, "optional": optional }))
                .collect();
            json!({ "name": name, "id": name, "manifest_path": format!("/r/{folder}/Cargo.toml"), "dependencies": dependencies })
        };
        json!({
            "workspace_root": "/r",
            "workspace_members": members.iter().map(|m| m.0).collect::<Vec<_>>(),
            "packages": members.iter().map(package).collect::<Vec<_>>(),
        })
    }

    fn messages(members: &[Member<'_>], files: &[File]) -> Vec<String> {
        arrows(&workspace(members), files).iter().map(Violation::to_string).collect()
    }

    const COLLECTIVES: Member<'static> =
        ("nxd-collectives", "crates/collectives", &[("nxd-testkit", Some("dev"), false)]);
    const KIT: Member<'static> = (TESTKIT, "crates/testkit", &[]);

    #[test]
    fn arrows_of_the_table_are_fine_and_absent_crates_too() {
        let ops: Member<'_> = ("nxd-ops", "crates/ops", &[("nxd-collectives", None, false), ("serde", None, false)]);
        let cli: Member<'_> = ("nxd-cli", "crates/cli", &[("nxd-ops", None, false)]);
        assert!(messages(&[COLLECTIVES, KIT, ops, cli], &[]).is_empty());
    }

    #[test]
    fn an_arrow_against_the_table_is_found_with_its_line() {
        let ops: Member<'_> = ("nxd-ops", "crates/ops", &[("nxd-collectives", None, false)]);
        let bad: Member<'_> =
            ("nxd-collectives", "crates/collectives", &[("nxd-ops", None, false), ("nxd-ops", Some("dev"), false)]);
        let text = "[package]\n[dependencies]\nnxd-ops.workspace = true\n".to_owned();
        let files = [File { path: "crates/collectives/Cargo.toml".to_owned(), text }];
        let found = messages(&[bad, ops], &files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("crates/collectives/Cargo.toml:3: `nxd-collectives` must not know `nxd-ops`"),
            "{found:?}"
        );
    }

    #[test]
    fn an_unknown_crate_and_a_wrong_folder_are_found() {
        let found = messages(&[("nxd-attic", "crates/attic", &[]), ("nxd-runtime", "crates/pjrt", &[])], &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("`nxd-attic` is not in the table"), "{found:?}");
        assert!(found[1].contains("not in the folder"), "{found:?}");
    }

    #[test]
    fn testkit_and_programs_are_known_by_nobody() {
        let cli: Member<'_> = ("nxd-cli", "crates/cli", &[(TESTKIT, None, false), ("xtask", Some("build"), false)]);
        let found = messages(&[KIT, cli, ("xtask", "crates/xtask", &[])], &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|message| message.contains("which no crate may know")), "{found:?}");
    }

    #[test]
    fn an_arrow_by_feature_must_be_optional() {
        let executor = |optional| -> Vec<String> {
            let arrow = [("nxd-runtime", None, optional)];
            messages(&[("nxd-runtime", "crates/runtime", &[]), ("nxd-executor", "crates/executor", &arrow)], &[])
        };
        assert!(executor(true).is_empty());
        assert!(executor(false)[0].contains("make it optional"));
    }

    #[test]
    fn a_manifest_without_lints_or_with_a_version_is_found() {
        let bad = "[package]\n[dev-dependencies]\n# x = \"1\"\nserde = \"1\"\nhalf.workspace = true\n".to_owned();
        let found = manifests(&[File { path: "crates/ops/Cargo.toml".to_owned(), text: bad }]);
        assert_eq!(found.iter().map(|violation| violation.line).collect::<Vec<_>>(), [4, 1]);
        let good =
            "[lints]\nworkspace = true\n[dependencies]\nhalf = { workspace = true, optional = true }\n".to_owned();
        assert!(manifests(&[File { path: "crates/ops/Cargo.toml".to_owned(), text: good }]).is_empty());
    }
}
