//! Tokenizers: golden cases, the same vocabularies by way of GGUF, malformed files, and streaming.

mod gguf;
mod golden;
mod malformed;
mod streaming;

use std::path::{Path, PathBuf};

use nxd_models::tokenizer::Tokenizer;
use serde_json::Value;

/// Folders of the golden set that hold a tokenizer and what it must do.
fn cases() -> Vec<PathBuf> {
    let all = nxd_testkit::folders(&nxd_testkit::goldens().join("tokenizers"));
    let cases: Vec<PathBuf> = all
        .into_iter()
        .filter(|dir| dir.join("tokenizer.json").is_file() && read(&dir.join("expected.json")).get("encode").is_some())
        .collect();
    assert!(!cases.is_empty(), "no tokenizer case in {}", nxd_testkit::goldens().display());
    cases
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))).unwrap()
}

fn load(dir: &Path) -> Tokenizer {
    Tokenizer::from_dir(dir, usize::MAX).unwrap().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
