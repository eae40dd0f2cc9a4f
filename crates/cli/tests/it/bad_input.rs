//! Broken models: exit code 3, one message that names the file, at once and without a panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::Home;

/// A copy of the golden model `name` in a folder of its own.
fn copy(home: &Home, name: &str) -> PathBuf {
    let to = home.path().join("model");
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(nxd_testkit::goldens().join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// A golden model in Hugging Face layout and one in a GGUF file.
const FOLDER: &str = "llama-mha-default";
const GGUF: &str = "llama-gguf-q8_0";

/// Commands that read the whole model, and the one that reads its headers.
const ALL: &[&[&str]] = &[&["inspect"], &["check"], &["generate", "--prompt-ids", "1", "--max-tokens", "1"]];
/// A mistake that shows only when weights are bound.
const LOADING: &[&[&str]] = &[&["check"], &["generate", "--prompt-ids", "1", "--max-tokens", "1"]];

#[track_caller]
fn assert_refused(home: &Home, model: &Path, commands: &[&[&str]], parts: &[&str]) {
    for command in commands {
        let start = Instant::now();
        let mut args = vec![command[0], model.to_str().unwrap()];
        args.extend(&command[1..]);
        let run = home.nxd(&args, &[("HF_HUB_OFFLINE", "1"), ("RUST_BACKTRACE", "1")]);
        let took = start.elapsed();
        assert_eq!((run.code, run.out.as_str()), (Some(3), ""), "{args:?}: {run:?}");
        assert!(run.err.starts_with("error[model]: ") && !run.err.contains("panicked"), "{args:?}: {run:?}");
        for part in parts {
            assert!(run.err.contains(part), "{args:?}: `{}` lacks `{part}`", run.err);
        }
        assert!(took < Duration::from_secs(2), "{args:?} took {took:?}");
    }
}

/// Sets keys of a JSON file.
fn edit(file: &Path, changes: &Value) {
    let mut json: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    json.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fs::write(file, json.to_string()).unwrap();
}

#[test]
fn a_missing_or_malformed_configuration_is_refused_by_every_command() {
    for (content, parts) in [
        (None, &["config.json"][..]),
        (Some(""), &["config.json", "not a JSON object"]),
        (Some("[]"), &["config.json", "not a JSON object"]),
        (Some("{\"hidden_size\": NaN}"), &["config.json", "line 1"]),
        (Some("{\"architectures\": []}"), &["config.json", "`architectures` is []"]),
    ] {
        let home = Home::new();
        let dir = copy(&home, FOLDER);
        let file = dir.join("config.json");
        match content {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        assert_refused(&home, &dir, ALL, parts);
    }
}

#[test]
fn a_configuration_of_another_model_is_refused_when_weights_are_bound() {
    for (changes, parts) in [
        (json!({"architectures": ["T5Model"]}), &["config.json", "`architectures`", "T5Model", "LlamaForCausalLM"][..]),
        (json!({"hidden_size": 1e300}), &["config.json", "`hidden_size` is 1e+300", "whole number"]),
        (json!({"num_hidden_layers": -1}), &["config.json", "`num_hidden_layers` is -1", "4096"]),
        (
            json!({"num_hidden_layers": 4096, "hidden_size": 1 << 28}),
            &["config.json", "`num_hidden_layers` 4096", "imply"],
        ),
        (
            json!({"num_attention_heads": 1 << 28, "num_key_value_heads": 1 << 28, "head_dim": 1 << 28}),
            &["config.json", "imply"],
        ),
        (json!({"vocab_size": 513}), &["model.safetensors", "`model.embed_tokens.weight` is [512, 64]", "[513, 64]"]),
        (
            json!({"intermediate_size": 1 << 28}),
            &["model.safetensors", "gate_proj.weight` is [128, 64]", "[268435456, 64]"],
        ),
        (
            json!({"num_hidden_layers": 3}),
            &["model.safetensors", "`model.layers.2.self_attn.q_proj.weight` is missing"],
        ),
        (json!({"num_hidden_layers": 1}), &["unexpected tensors `model.layers.1."]),
        (
            json!({"quantization_config": {"quant_method": "bitsandbytes"}}),
            &["config.json", "`quantization_config.quant_method` is \"bitsandbytes\""],
        ),
        (json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}), &["config.json", "`rope_scaling.factor` is 0"]),
    ] {
        let home = Home::new();
        let dir = copy(&home, FOLDER);
        edit(&dir.join("config.json"), &changes);
        assert_refused(&home, &dir, LOADING, parts);
    }
}

#[test]
fn broken_files_beside_the_weights_are_refused() {
    let home = Home::new();
    let dir = copy(&home, FOLDER);
    edit(&dir.join("generation_config.json"), &json!({"eos_token_id": [2, 512]}));
    assert_refused(&home, &dir, LOADING, &["generation_config.json", "`eos_token_id` is 512", "vocabulary size, 512"]);

    let dir = copy(&home, FOLDER);
    fs::write(dir.join("tokenizer.json"), "{\"model\": ").unwrap();
    assert_refused(&home, &dir, ALL, &["tokenizer.json"]);
    fs::write(dir.join("tokenizer.json"), "{\"model\": {\"type\": \"Martian\"}}").unwrap();
    assert_refused(&home, &dir, ALL, &["tokenizer.json"]);
}

#[test]
fn weights_that_were_cut_or_overwritten_are_refused() {
    for (model, file) in [(FOLDER, "model.safetensors"), (GGUF, "model.gguf")] {
        let home = Home::new();
        let path = copy(&home, model).join(file);
        let whole = fs::read(&path).unwrap();
        for keep in [whole.len() - 1, whole.len() / 2, 100, 4, 0] {
            fs::write(&path, &whole[..keep]).unwrap();
            assert_refused(&home, path.parent().unwrap(), ALL, &[file]);
        }
        fs::write(&path, vec![b'{'; 4096]).unwrap();
        assert_refused(&home, path.parent().unwrap(), ALL, &[file]);
    }
}

#[test]
fn metadata_of_another_model_is_refused() {
    for (key, value, parts) in [
        ("llama.block_count", 3u32, &["model.gguf", "`blk.2.attn_q.weight` is missing"][..]),
        ("llama.block_count", u32::MAX, &["model.gguf", "`llama.block_count` is 4294967295", "4096"]),
        ("llama.block_count", 4096, &["model.gguf", "`llama.block_count` 4096", "imply"]),
        ("llama.attention.head_count", 0, &["model.gguf", "`llama.attention.head_count` is 0", "whole number from 1"]),
        ("llama.attention.head_count_kv", 3, &["model.gguf", "`llama.attention.head_count_kv` is 3", "divisor"]),
        ("llama.feed_forward_length", 1 << 28, &["model.gguf", "`blk.0.ffn_gate.weight` is [128, 64]"]),
        ("tokenizer.ggml.eos_token_id", u32::MAX, &["model.gguf", "4294967295"]),
    ] {
        let home = Home::new();
        let path = copy(&home, GGUF).join("model.gguf");
        let mut bytes = fs::read(&path).unwrap();
        // The key with its length before it, then a type of four bytes, then the value.
        let entry = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat();
        let at = bytes.windows(entry.len()).position(|window| window == entry).unwrap() + entry.len() + 4;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        assert_refused(&home, &path, &[&["generate", "--prompt-ids", "1", "--max-tokens", "1"]], parts);
        assert_refused(&home, path.parent().unwrap(), LOADING, parts);
    }
}

#[test]
fn paths_that_are_no_model_are_refused_without_waiting() {
    let home = Home::new();
    let pipe = home.path().join("pipe.gguf");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for path in [pipe, empty, PathBuf::from("/dev/zero"), home.path().join("missing.gguf")] {
        assert_refused(&home, &path, ALL, &[path.to_str().unwrap()]);
    }
    // Pipes inside a folder that looks like a model.
    for file in ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"] {
        let home = Home::new();
        let dir = copy(&home, FOLDER);
        fs::remove_file(dir.join(file)).unwrap();
        assert!(Command::new("mkfifo").arg(dir.join(file)).status().unwrap().success());
        assert_refused(&home, &dir, LOADING, &[file]);
    }
}
