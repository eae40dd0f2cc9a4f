//! What is not quantised, and why.

use super::{golden, options, write};
use nxd_models::quantise::{QuantiseOptions, Scheme, quantise};
use std::fs;
use std::path::{Path, PathBuf};

/// Fails unless quantising is refused with all of `parts`, and `out` and its folder are as before.
#[track_caller]
fn assert_refused(model: &Path, out: &Path, scheme: Scheme, parts: &[&str]) {
    let (before, beside) = (fs::read(out).ok(), fs::read_dir(out.parent().unwrap()).unwrap().count());
    let error = write(model, out, scheme).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    let text = format!("{error}{source}");
    for part in parts {
        assert!(text.contains(part), "`{text}` lacks `{part}`");
    }
    assert!(before == fs::read(out).ok() && beside == fs::read_dir(out.parent().unwrap()).unwrap().count());
}

/// A copy of a golden folder.
fn copy(home: &Path, name: &str) -> PathBuf {
    let to = home.join("model");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_replaced() {
    let home = tempfile::tempdir().unwrap();
    let source = golden("llama-gqa-llama3-rope-tied");
    for (scheme, out) in [(Scheme::Q8_0, "out.gguf"), (Scheme::Int8, "out")] {
        let out = home.path().join(out);
        write(&source, &out, scheme).unwrap();
        assert_refused(&source, &out, scheme, &["exists already"]);
        let options = QuantiseOptions { replace: true, ..options(scheme) };
        quantise(&source, &out, &options, &mut |_, _| {}).unwrap();
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
}

#[test]
fn a_model_is_not_written_over_itself() {
    let home = tempfile::tempdir().unwrap();
    let model = copy(home.path(), "llama-gqa-llama3-rope-tied");
    assert_refused(&model, &model, Scheme::Int8, &["is where the model is read from"]);
    assert_refused(&model, &model.join("model.safetensors"), Scheme::Q8_0, &["is where the model is read from"]);
}

#[test]
fn containers_and_schemes_that_do_not_fit_are_named() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let gguf = golden("llama-gguf-q8_0");
    assert_refused(&gguf, &out, Scheme::Fp8, &["model.gguf: is a GGUF file", "fp8 is made of a Hugging Face folder"]);
    let gptq = golden("llama-gptq-int4");
    assert_refused(&gptq, &out, Scheme::Int8, &["the weights are quantised as gptq", "original weights"]);
    assert_refused(&golden("gpt2"), &out, Scheme::Int8, &["no weight of this model is stored as a matrix"]);
    let windows = golden("mistral-sliding-window");
    assert_refused(&windows, &out, Scheme::Q8_0, &["mistral family", "by its sliding windows", "choose int8 or fp8"]);
    let deepseek = golden("deepseek-v3-noaux");
    assert_refused(&deepseek, &out, Scheme::Q8_0, &["deepseek family", "YaRN with an attention factor of its own"]);
}

#[test]
fn a_tokenizer_without_a_gguf_form_is_named() {
    let home = tempfile::tempdir().unwrap();
    let model = copy(home.path(), "qwen2-tied");
    let file = model.join("tokenizer.json");
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replace(r"\\p{N}", r"\\p{N}{1,7}");
    assert_ne!(text, changed);
    fs::write(&file, changed).unwrap();
    let out = home.path().join("out.gguf");
    assert_refused(&model, &out, Scheme::Q8_0, &["tokenizer.json: `pre_tokenizer`", "p{N}{1,7}", "`llama-bpe`"]);
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let home = tempfile::tempdir().unwrap();
    let model = copy(home.path(), "llama-gqa-llama3-rope-tied");
    let file = model.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let table: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let start = 8 + header + table[name]["data_offsets"][0].as_u64().unwrap() as usize;
    let cols = table[name]["shape"][1].as_u64().unwrap() as usize;
    let at = start + 4 * (3 * cols + 5);
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    for scheme in [Scheme::Q8_0, Scheme::Q4_K, Scheme::Int8, Scheme::Fp8] {
        let parts = ["up_proj.weight`, row 3", "value NaN in column 5 cannot be stored as"];
        assert_refused(&model, &home.path().join("out"), scheme, &parts);
    }
}
