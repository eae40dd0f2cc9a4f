//! `docs/models.md` is what the registry says, so that it cannot lie.
//!
//! `NXD_WRITE_PAGES=1 cargo test --package nxd-cli models_page` writes it.

use nxd_models::families::{FAMILIES, Family};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const HEAD: &str = "\
# Models

One line for each family that loads. This page is written from the registry by a test and compared with it by the same test.

Every family is one declaration, so each runs on the CPU and on traced devices, at any tensor-parallel size, from any weights that this
workspace reads, quantised ones included ([README](../README.md#what-works-today-and-what-does-not-yet)). *Checked* says what decides: golden checkpoints of
the family, small and random, with logits and tokens of an independent implementation. Each of them must pass on the CPU at 1, 2 and 4 ranks, in small
chunks, and on a traced device; a family without one loads and is unproven.

Models that take pictures or sound load as their text part, where the family is here; vision, audio and diffusion models do not.

| family | `architectures` of `config.json` | `general.architecture` of GGUF | CPU, traced, 1 to 4 ranks | checked by |
| --- | --- | --- | --- | --- |
";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models.md")
}

/// Names of the golden checkpoints of each architecture.
fn goldens() -> BTreeMap<String, Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/goldens");
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for dir in nxd_testkit::folders(&folder) {
        let Ok(text) = std::fs::read_to_string(dir.join("config.json")) else { continue };
        let config: Value = serde_json::from_str(&text).unwrap();
        let Some(architecture) = config["architectures"][0].as_str() else { continue };
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        found.entry(architecture.to_owned()).or_default().push(name);
    }
    found
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        "–".to_owned()
    } else {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn the_page_of_models_is_what_the_registry_says() {
    let goldens = goldens();
    let mut text = HEAD.to_owned();
    let mut families: Vec<&Family> = FAMILIES.iter().collect();
    families.sort_by_key(|family| family.name);
    for Family { name, hf, gguf, .. } in families {
        let of_family = hf.iter().filter_map(|architecture| goldens.get(*architecture)).flatten();
        let cases: Vec<&str> = of_family.map(String::as_str).collect();
        let state = if cases.is_empty() { "unproven" } else { "yes" };
        writeln!(text, "| {name} | {} | {} | {state} | {} |", listed(hf), listed(gguf), listed(&cases)).unwrap();
    }
    if std::env::var_os("NXD_WRITE_PAGES").is_some() {
        std::fs::write(page(), &text).unwrap();
    }
    let written = std::fs::read_to_string(page()).unwrap_or_default();
    assert!(
        written == text,
        "docs/models.md is old; write it with `NXD_WRITE_PAGES=1 cargo test --package nxd-cli models_page`"
    );
}
