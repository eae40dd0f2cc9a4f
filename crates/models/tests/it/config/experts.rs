//! Mixtures of experts: configurations that cannot be, and the layouts in which experts are stored.

use super::{HIDDEN, INNER, LAYERS, VOCAB, assert_refused, load, tensors};
use crate::checkpoint::gguf_writer::*;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const EXPERTS: usize = 3;
/// Columns between an expert's projections.
const NARROW: usize = 4;

/// The small model with experts in the place of MLPs; `stacked` ones in two tensors a layer.
fn of_experts(stacked: bool) -> Vec<(String, Vec<usize>)> {
    let mut all: Vec<_> = tensors().into_iter().filter(|(name, _)| !name.contains(".mlp.")).collect();
    for layer in 0..LAYERS {
        let mut add =
            |name: String, shape: &[usize]| all.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        add("self_attn.q_norm.weight".to_owned(), &[2]);
        add("self_attn.k_norm.weight".to_owned(), &[2]);
        add("mlp.gate.weight".to_owned(), &[EXPERTS, HIDDEN]);
        if stacked {
            add("mlp.experts.gate_up_proj".to_owned(), &[EXPERTS, 2 * NARROW, HIDDEN]);
            add("mlp.experts.down_proj".to_owned(), &[EXPERTS, HIDDEN, NARROW]);
            continue;
        }
        for expert in 0..EXPERTS {
            add(format!("mlp.experts.{expert}.gate_proj.weight"), &[NARROW, HIDDEN]);
            add(format!("mlp.experts.{expert}.up_proj.weight"), &[NARROW, HIDDEN]);
            add(format!("mlp.experts.{expert}.down_proj.weight"), &[HIDDEN, NARROW]);
        }
    }
    all
}

fn folder(changes: &Value, tensors: &[(String, Vec<usize>)]) -> TempDir {
    let mut config = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2, "vocab_size": VOCAB, "max_position_embeddings": 32,
        "tie_word_embeddings": false, "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": NARROW,
        "norm_topk_prob": true, "mlp_only_layers": [], "decoder_sparse_step": 1,
    });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors {
        let (start, values) = (data.len(), shape.iter().product::<usize>());
        data.resize(start + 4 * values, 0);
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let header = Value::Object(header).to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn experts_load_one_by_one_and_stacked() {
    for stacked in [false, true] {
        load(folder(&json!({}), &of_experts(stacked)).path()).unwrap();
    }
}

#[test]
fn expert_counts_must_fit_each_other() {
    for (changes, parts) in [
        (json!({"num_experts": 0}), ["`num_experts` is 0", "from 1 to 4096"]),
        (json!({"num_experts": 1e9}), ["`num_experts` is 1000000000", "from 1 to 4096"]),
        (json!({"num_experts": null}), ["`num_experts` is missing", "config.json"]),
        (json!({"num_experts_per_tok": 4}), ["`num_experts_per_tok` is 4", "from 1 to 3"]),
        (json!({"num_experts_per_tok": null}), ["`num_experts_per_tok` is missing", "config.json"]),
        (json!({"moe_intermediate_size": "4"}), ["`moe_intermediate_size` is \"4\"", "a whole number"]),
        (json!({"decoder_sparse_step": 0}), ["`decoder_sparse_step` is 0", "from 1 to 4096"]),
        (json!({"mlp_only_layers": 1}), ["`mlp_only_layers` is 1", "a list of layers below 2"]),
        (json!({"mlp_only_layers": [2]}), ["`mlp_only_layers` is [2]", "a list of layers below 2"]),
        (json!({"mlp_only_layers": [-1]}), ["`mlp_only_layers` is [-1]", "a list of layers below 2"]),
        (json!({"norm_topk_prob": "yes"}), ["`norm_topk_prob` is \"yes\"", "true or false"]),
    ] {
        let dir = folder(&changes, &of_experts(false));
        assert_refused(dir.path(), &[&["config.json"], &parts[..]].concat());
    }
}

#[test]
fn experts_that_are_missing_too_many_or_of_another_size_are_named() {
    let refused = |changes: Value, stacked, parts: &[&str]| {
        assert_refused(folder(&changes, &of_experts(stacked)).path(), parts);
    };
    refused(json!({"num_experts": 2}), false, &["unexpected tensors `model.layers.0.mlp.experts.2.", "qwen3_moe"]);
    refused(json!({"num_experts": 4}), false, &["mlp.gate.weight` is [3, 8]", "implies [4, 8]"]);
    let stacked = folder(&json!({"num_experts": 2, "num_experts_per_tok": 1}), &of_experts(true));
    assert_refused(stacked.path(), &["mlp.gate.weight` is [3, 8]", "implies [2, 8]"]);
    refused(json!({"moe_intermediate_size": 5}), false, &["experts.0.gate_proj.weight` is [4, 8]", "implies [5, 8]"]);
    refused(json!({"moe_intermediate_size": 5}), true, &["mlp.experts.gate_up_proj` is [3, 8, 8]", "implies [5, 8]"]);
    let mut without = of_experts(false);
    without.retain(|(name, _)| !name.contains("layers.1.mlp.experts.2.up_proj"));
    let dir = folder(&json!({}), &without);
    assert_refused(dir.path(), &["model.layers.1.mlp.experts.2.up_proj.weight` is missing", "have `model.layers."]);
}

#[test]
fn weights_too_small_for_their_experts_are_refused_before_anything_is_sized_by_them() {
    let dir = folder(&json!({"num_experts": 4096}), &of_experts(false));
    assert_refused(
        dir.path(),
        &["`num_experts` 4096", "`hidden_size` 8", "imply at least 65536", "the checkpoint has"],
    );
}

/// A GGUF file of architecture `llama` with stacked experts.
fn mixtral_file(path: &Path, used: u32) {
    let numbers = [
        ("block_count", LAYERS as u32),
        ("embedding_length", HIDDEN as u32),
        ("feed_forward_length", NARROW as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 32),
        ("expert_count", EXPERTS as u32),
        ("expert_used_count", used),
    ];
    let mut file = GgufFile::empty().key("general.architecture", STRING_TYPE, &string("llama"));
    for (key, value) in numbers {
        file = file.key(format!("llama.{key}"), U32_TYPE, &value.to_le_bytes());
    }
    file = file.key("llama.attention.layer_norm_rms_epsilon", F32_TYPE, &1e-5f32.to_le_bytes());
    let mut all = vec![("token_embd".to_owned(), vec![VOCAB, HIDDEN]), ("output_norm".to_owned(), vec![HIDDEN])];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("attn_q", vec![HIDDEN, HIDDEN]),
            ("attn_k", vec![4, HIDDEN]),
            ("attn_v", vec![4, HIDDEN]),
            ("attn_output", vec![HIDDEN, HIDDEN]),
            ("attn_norm", vec![HIDDEN]),
            ("ffn_norm", vec![HIDDEN]),
            ("ffn_gate_inp", vec![EXPERTS, HIDDEN]),
            ("ffn_gate_exps", vec![EXPERTS, NARROW, HIDDEN]),
            ("ffn_up_exps", vec![EXPERTS, NARROW, HIDDEN]),
            ("ffn_down_exps", vec![EXPERTS, HIDDEN, NARROW]),
        ] {
            all.push((format!("blk.{layer}.{name}"), shape));
        }
    }
    for (name, shape) in all {
        let dims: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
        file = file.tensor(format!("{name}.weight"), &dims, F32, vec![0; 4 * shape.iter().product::<usize>()]);
    }
    fs::write(path.join("small.gguf"), file.bytes()).unwrap();
}

#[test]
fn stacked_experts_of_gguf_files_load() {
    let dir = tempfile::tempdir().unwrap();
    mixtral_file(dir.path(), 2);
    load(dir.path()).unwrap();
    mixtral_file(dir.path(), 4);
    assert_refused(dir.path(), &["small.gguf", "`llama.expert_used_count` is 4", "from 1 to 3"]);
}
