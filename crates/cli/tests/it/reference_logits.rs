//! `nxd check --logits`: a file that any framework can save, made here from golden data.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde_json::Value;
use std::fs;
use std::path::Path;

use crate::program::{Home, Run};

const CASE: &str = "qwen3-tied";

/// Tokens of a prompt and the logits at all of its positions.
fn reference() -> (Vec<i64>, Vec<f32>) {
    let dir = nxd_testkit::goldens().join(CASE);
    let expected: Value = serde_json::from_slice(&fs::read(dir.join("expected.json")).unwrap()).unwrap();
    let bytes = fs::read(dir.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let name = file.names().into_iter().find(|name| name.starts_with("logits_full.")).unwrap().to_owned();
    let prompt: usize = name.rsplit('.').next().unwrap().parse().unwrap();
    let tokens = expected["prompts"][prompt].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
    let logits = file.tensor(&name).unwrap();
    (tokens, logits.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn save(path: &Path, tokens: &[i64], tensors: &[(&str, &[f32])]) {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let ids: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    let data: Vec<_> = tensors.iter().map(|(name, values)| (*name, values.len(), bytes(values))).collect();
    let shape = |len: usize| vec![tokens.len(), len / tokens.len()];
    let mut views = vec![("token_ids", TensorView::new(Dtype::I64, vec![tokens.len()], &ids).unwrap())];
    views.extend(data.iter().map(|(name, len, data)| (*name, TensorView::new(Dtype::F32, shape(*len), data).unwrap())));
    serialize_to_file(views, None, path).unwrap();
}

fn check(file: &Path, more: &[&str]) -> Run {
    let model = nxd_testkit::goldens().join(CASE);
    let mut args = vec!["check", model.to_str().unwrap(), "--logits", file.to_str().unwrap()];
    args.extend(more);
    Home::new().nxd(&args, &[])
}

#[test]
fn a_model_agrees_with_logits_of_another_implementation() {
    let (tokens, logits) = reference();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reference.safetensors");
    save(&file, &tokens, &[("logits", &logits)]);
    let run = check(&file, &["--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((&report["ok"], &report["within"]), (&Value::Bool(true), &Value::from(tokens.len())));
    assert!(check(&file, &[]).out.starts_with("ok: "), "a table for people");
}

#[test]
fn a_position_that_is_off_is_shown_unless_the_reference_is_as_noisy() {
    let (tokens, logits) = reference();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reference.safetensors");
    let vocab = logits.len() / tokens.len();
    let mut off = logits.clone();
    off[3 * vocab..4 * vocab].iter_mut().enumerate().for_each(|(i, logit)| *logit += 0.2 * (i as f32).sin());
    save(&file, &tokens, &[("logits", &off)]);
    let run = check(&file, &["--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((&report["worst"][0]["position"], &report["within"]), (&Value::from(3), &Value::from(tokens.len() - 1)));
    save(&file, &tokens, &[("logits", &off), ("logits_other", &logits)]);
    assert_eq!(check(&file, &[]).code, Some(0));
}

#[test]
fn files_that_do_not_fit_are_named() {
    let (tokens, logits) = reference();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reference.safetensors");
    let refused = |part: &str| {
        let run = check(&file, &[]);
        assert!(run.code == Some(3) && run.err.contains("reference.safetensors") && run.err.contains(part), "{run:?}");
    };
    refused("No such file");
    save(&file, &tokens, &[]);
    refused("there is no tensor `logits`");
    save(&file, &tokens, &[("logits", &logits[..2 * tokens.len()])]);
    refused("`logits` has 2 columns");
    save(&file, &tokens, &[("logits", &logits), ("logits_other", &logits[..tokens.len()])]);
    refused("`logits_other`");
    fs::write(&file, b"nothing").unwrap();
    refused("");
}
