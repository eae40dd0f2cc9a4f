//! `nxd quantize`: what it writes runs, near the source; what it refuses, and how.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{Home, Run};

/// Schemes, and the usual error of a weight as a part of the usual weight: a step over √12, where a block's or row's greatest value is three times
/// the usual one.
const SCHEMES: [(&str, f64); 5] = [("q8_0", 0.007), ("int8", 0.007), ("fp8", 0.026), ("q4_k", 0.06), ("q4_0", 0.1)];

fn golden(name: &str) -> PathBuf {
    nxd_testkit::goldens().join(name)
}

fn quantize(home: &Home, model: &Path, out: &Path, scheme: &str, more: &[&str]) -> Run {
    let mut args = vec!["quantize", model.to_str().unwrap(), out.to_str().unwrap(), "--scheme", scheme];
    args.extend(more);
    home.nxd(&args, &[("HF_HUB_OFFLINE", "1")])
}

/// The largest difference of a logit from the golden data of `against`.
fn logits_off(home: &Home, model: &Path, against: &Path) -> f64 {
    let run = home.nxd(&["check", model.to_str().unwrap(), "--against", against.to_str().unwrap(), "--json"], &[]);
    let report: Value = serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{run:?}"));
    report["max_abs_error"].as_f64().unwrap()
}

/// How far logits may be off, in deviations of them. Errors of some ten matrices in a row add up to three or four times one, and the
/// largest of 10⁵ logits is off by five times as much as the usual one; twice that is allowed. Where experts are chosen a row may meet another one.
fn bound(model: &Path, weight_error: f64) -> f64 {
    let config = fs::read_to_string(model.join("config.json")).unwrap_or_default();
    if config.contains("expert") { 5.0 } else { 40.0 * weight_error }
}

#[test]
fn golden_models_stay_near_themselves_in_every_scheme() {
    let (mut ran, home) = (Vec::new(), Home::new());
    for model in nxd_testkit::folders(&nxd_testkit::goldens()) {
        let Ok(expected) = fs::read(model.join("expected.json")) else { continue };
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let (name, deviation) = (model.file_name().unwrap().to_string_lossy(), expected["logit_std"].as_f64());
        let Some(deviation) = deviation.filter(|_| model.join("expected.safetensors").is_file()) else { continue };
        for (scheme, weight_error) in SCHEMES {
            let out = home.path().join(if scheme.starts_with('q') { "out.gguf" } else { "out" });
            let run = quantize(&home, &model, &out, scheme, &["--force"]);
            if run.code != Some(0) {
                assert!(run.code == Some(3) && !run.err.contains("panicked"), "{run:?}");
                println!("refused {name} as {scheme}: {}", run.err.trim());
                continue;
            }
            let off = logits_off(&home, &out, &model) / deviation;
            println!("{name} as {scheme}: off by {off:.4} of the deviation");
            assert!(off < bound(&model, weight_error), "{name} as {scheme}: off by {off} of the deviation");
            ran.push(name.clone().into_owned());
        }
    }
    println!("{} golden cases ran", ran.len());
    assert!(!ran.is_empty(), "no golden case ran");
}

#[test]
fn what_was_written_is_told_and_generates() {
    let home = Home::new();
    let (model, out) = (golden("llama-gqa-llama3-rope-tied"), home.path().join("out.gguf"));
    let run = quantize(&home, &model, &out, "q8_0", &["--json"]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((report["scheme"].as_str(), report["path"].as_str()), (Some("q8_0"), out.to_str()));
    assert_eq!(report["dtypes"], serde_json::json!({"F32": 6, "Q8_0": 15}));
    assert!(report["bytes"].as_u64().unwrap() * 3 < report["source_bytes"].as_u64().unwrap());

    let ids = |model: &Path| {
        let args = ["generate", model.to_str().unwrap(), "--prompt", "Hello there", "--max-tokens", "4", "--json"];
        let run = home.nxd(&args, &[]);
        let report: Value = serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{run:?}"));
        report[0].clone()
    };
    let (source, written) = (ids(&model), ids(&out));
    assert_eq!(source["prompt_tokens"], written["prompt_tokens"]);
    assert_eq!(written["tokens"].as_array().unwrap().len(), source["tokens"].as_array().unwrap().len());

    let run = quantize(&home, &model, &home.path().join("out"), "int8", &[]);
    assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.out.contains("F32 × 20, I8 × 14"), "{run:?}");
    let inspected = home.nxd(&["inspect", home.path().join("out").to_str().unwrap(), "--json"], &[]);
    assert!(inspected.out.contains("compressed-tensors int8"), "{inspected:?}");
}

#[test]
fn what_cannot_be_is_said_with_its_exit_code() {
    let home = Home::new();
    let (model, taken) = (golden("llama-gqa-llama3-rope-tied"), home.path().join("taken"));
    fs::write(&taken, "mine").unwrap();
    for (model, out, scheme, code, parts) in [
        (&model, &taken, "q8_0", 2, &["error[usage]: ", "taken: exists already", "--force"][..]),
        (&model, &taken, "int8", 2, &["taken: exists already"]),
        (&model, &taken, "q9", 2, &["q8_0, q4_0, q4_k, int8, fp8"]),
        (&golden("llama-gguf-q8_0"), &home.path().join("new"), "int8", 2, &["is a GGUF file"]),
        (&golden("llama-gptq-int4"), &home.path().join("new"), "fp8", 3, &["error[model]: ", "quantised as gptq"]),
        (&home.path().join("nothing"), &home.path().join("new"), "q8_0", 3, &["nothing"]),
        (&model, &home.path().join("no/such/folder"), "q8_0", 3, &["cannot be written", "No such file"]),
    ] {
        let run = quantize(&home, model, out, scheme, &[]);
        assert_eq!((run.code, run.out.as_str()), (Some(code), ""), "{run:?}");
        for part in parts {
            assert!(run.err.contains(part), "`{}` lacks `{part}`", run.err);
        }
    }
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
    assert!(!home.path().join("new").exists());
}
