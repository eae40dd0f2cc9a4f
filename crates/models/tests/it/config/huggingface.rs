//! `config.json` and `generation_config.json`.

use super::{HIDDEN, INNER, LAYERS, VOCAB, assert_refused, load, tensors};
use serde_json::{Map, Value, json};
use std::fs;
use tempfile::TempDir;

/// The configuration of the small model.
fn good() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    })
}

/// `good()` with these keys in place of or beside its own.
fn with(changes: &Value) -> Value {
    let mut config = good();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

/// A folder with this `config.json` and the small model's weights, those named by `without` left out.
fn folder(config: &[u8], without: &str) -> TempDir {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors().into_iter().filter(|(name, _)| name != without) {
        let (start, values) = (data.len(), shape.iter().product::<usize>());
        data.resize(start + 4 * values, 0);
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let header = Value::Object(header).to_string();
    let dir = tempfile::tempdir().unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    fs::write(dir.path().join("config.json"), config).unwrap();
    dir
}

/// Each change alone makes the model unusable, with a message that names `config.json` and has the parts.
#[track_caller]
fn assert_changes_refused(cases: &[(Value, &[&str])]) {
    for (changes, parts) in cases {
        let dir = folder(with(changes).to_string().as_bytes(), "");
        let parts = [&["config.json"], *parts].concat();
        assert_refused(dir.path(), &parts);
    }
}

#[test]
fn the_model_that_the_tables_change_loads() {
    load(folder(good().to_string().as_bytes(), "").path()).unwrap();
}

#[test]
fn files_that_are_no_json_object_are_refused() {
    let nan = good().to_string().replace("1e-5", "NaN").replace("0.00001", "NaN");
    let deep = format!("{{\"a\": {}", "[".repeat(100_000));
    for (text, parts) in [
        ("", &["not a JSON object", "EOF", "line 1"][..]),
        ("hidden_size = 8", &["not a JSON object", "line 1 column 1"]),
        ("[1, 2]", &["not a JSON object", "sequence"]),
        ("null", &["not a JSON object"]),
        ("{\"a\": 1", &["not a JSON object", "EOF"]),
        (nan.as_str(), &["not a JSON object", "expected value", "line 1"]),
        (deep.as_str(), &["not a JSON object", "recursion limit"]),
        ("{\"a\": 1e999}", &["not a JSON object", "out of range"]),
    ] {
        let dir = folder(text.as_bytes(), "");
        assert_refused(dir.path(), &[&["config.json"], parts].concat());
    }
    assert_refused(folder(b"\xff\xfe{", "").path(), &["config.json", "not a JSON object"]);
}

#[test]
fn what_is_no_regular_file_of_bounded_size_is_refused() {
    let dir = folder(b"{}", "");
    let path = dir.path().join("config.json");
    fs::remove_file(&path).unwrap();
    assert_refused(dir.path(), &["config.json", "No such file"]);
    fs::create_dir(&path).unwrap();
    assert_refused(dir.path(), &["config.json", "not a regular file"]);
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert_refused(dir.path(), &["config.json", "not a regular file"]);
    fs::remove_file(&path).unwrap();
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert_refused(dir.path(), &["config.json", "1099511627776 bytes", "at most 16777216"]);
}

#[test]
fn architectures_must_name_a_family() {
    let long = "x".repeat(1 << 20);
    assert_changes_refused(&[
        (json!({"architectures": null}), &["`architectures` is missing"]),
        (json!({"architectures": []}), &["`architectures` is []", "a list with the name of a model class"]),
        (json!({"architectures": "LlamaForCausalLM"}), &["`architectures` is \"Llama", "a list"]),
        (json!({"architectures": [7]}), &["`architectures` is [7]", "a list"]),
        (
            json!({"architectures": ["T5ForConditionalGeneration"]}),
            &["`architectures`", "\"T5For", "supported: ", "LlamaForCausalLM"],
        ),
        (json!({"architectures": [long]}), &["`architectures`", "xxx…", "supported: ", "LlamaForCausalLM"]),
    ]);
}

#[test]
fn sizes_must_be_whole_numbers_in_range() {
    let keys = [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "max_position_embeddings",
        "head_dim",
    ];
    for key in keys {
        for value in [
            json!(0),
            json!(-1),
            json!(1e300),
            json!(2.5),
            json!("8"),
            json!(true),
            json!([8]),
            json!({}),
            json!(u64::MAX),
            json!(1u64 << 29),
        ] {
            let (name, found) = (format!("`{key}` is "), value.to_string());
            assert_changes_refused(&[(
                json!({ key: value }),
                &[&name, &found, "expected a whole number from 1 to 268435456"],
            )]);
        }
    }
    for value in [json!(0), json!(-2), json!(4097), json!(4e9), json!("2")] {
        let found = format!("`num_hidden_layers` is {value}");
        assert_changes_refused(&[(json!({ "num_hidden_layers": value }), &[&found, "a whole number from 1 to 4096"])]);
    }
    for key in ["hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"] {
        assert_changes_refused(&[(json!({ key: null }), &[&format!("`{key}` is missing")])]);
    }
}

#[test]
fn sizes_must_fit_each_other() {
    assert_changes_refused(&[
        (json!({"num_key_value_heads": 3}), &["`num_key_value_heads` is 3", "a divisor of the 4 query heads"]),
        (json!({"num_key_value_heads": 8}), &["`num_key_value_heads` is 8", "a divisor of the 4 query heads"]),
        (json!({"num_attention_heads": 6}), &["`num_attention_heads` is 6", "divisor of hidden_size 8", "`head_dim`"]),
        (json!({"head_dim": 3}), &["`head_dim` is 3", "an even number"]),
        (json!({"num_attention_heads": 8}), &["`head_dim` is 1", "an even number"]),
        (json!({"partial_rotary_factor": 1.5}), &["`partial_rotary_factor` is 1.5", "head_dim 2"]),
        (json!({"partial_rotary_factor": 0.5}), &["`partial_rotary_factor` is 0.5", "an even part of head_dim 2"]),
    ]);
}

#[test]
fn numbers_flags_and_texts_must_be_what_they_are() {
    assert_changes_refused(&[
        (json!({"rms_norm_eps": -1e-5}), &["`rms_norm_eps` is -", "a finite number above 0"]),
        (json!({"rms_norm_eps": 0}), &["`rms_norm_eps` is 0", "a finite number above 0"]),
        (json!({"rms_norm_eps": "NaN"}), &["`rms_norm_eps` is \"NaN\"", "a finite number above 0"]),
        (json!({"rms_norm_eps": 1e300}), &["`rms_norm_eps` is 1e+300", "at most 1"]),
        (json!({"rope_theta": 0}), &["`rope_theta` is 0", "a finite number above 0"]),
        (json!({"rope_theta": -1.0}), &["`rope_theta` is -1.0", "a finite number above 0"]),
        (json!({"hidden_act": "relu6"}), &["`hidden_act` is \"relu6\"", "supported: silu, gelu"]),
        (json!({"hidden_act": 3}), &["`hidden_act` is 3", "a string"]),
        (json!({"tie_word_embeddings": "yes"}), &["`tie_word_embeddings` is \"yes\"", "true or false"]),
        (json!({"attention_bias": 1}), &["`attention_bias` is 1", "true or false"]),
    ]);
}

#[test]
fn what_changes_the_computation_is_refused_by_name() {
    assert_changes_refused(&[
        (json!({"num_local_experts": 8}), &["`num_local_experts` is 8", "the key left out, or 0"]),
        (json!({"final_logit_softcapping": 30.0}), &["`final_logit_softcapping` is 30.0", "the key left out, or 0"]),
    ]);
}

#[test]
fn rotary_scaling_must_be_known_and_whole() {
    let llama3 = |low: f64, high: f64| {
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": low,
        "high_freq_factor": high, "original_max_position_embeddings": 16}})
    };
    let scaling = |fields: Value| json!({ "rope_scaling": fields });
    assert_changes_refused(&[
        (scaling(json!("linear")), &["`rope_scaling` is \"linear\"", "an object"]),
        (
            scaling(json!({"rope_type": "spiral"})),
            &["`rope_scaling.rope_type` is \"spiral\"", "supported: default, linear"],
        ),
        (scaling(json!({"type": 5, "factor": 2.0})), &["`rope_scaling.rope_type` is 5", "supported: default, linear"]),
        (scaling(json!({"rope_type": "linear"})), &["`rope_scaling.factor` is missing"]),
        (
            scaling(json!({"rope_type": "linear", "factor": 0})),
            &["`rope_scaling.factor` is 0", "a finite number above 0"],
        ),
        (
            scaling(json!({"type": "dynamic", "factor": -2})),
            &["`rope_scaling.factor` is -2", "a finite number above 0"],
        ),
        (
            scaling(json!({"rope_type": "yarn", "factor": "4"})),
            &["`rope_scaling.factor` is \"4\"", "a finite number above 0"],
        ),
        (
            scaling(json!({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 0.5})),
            &["original_max_position_embeddings` is 0.5", "a whole number"],
        ),
        (scaling(json!({"rope_type": "llama3", "factor": 8})), &["`rope_scaling.low_freq_factor` is missing"]),
        (llama3(4.0, 4.0), &["`rope_scaling.high_freq_factor` is 4.0", "above low_freq_factor 4"]),
        (scaling(json!({"rope_type": "longrope", "factor": 2})), &["`rope_scaling.short_factor` is missing"]),
        (
            scaling(json!({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1]})),
            &["`rope_scaling.short_factor` is [1,1]", "a list of 1 finite"],
        ),
        (
            scaling(json!({"rope_type": "longrope", "short_factor": [1], "long_factor": [0]})),
            &["`rope_scaling.long_factor` is [0]", "a list of 1 finite"],
        ),
        (
            scaling(
                json!({"rope_type": "longrope", "short_factor": [1], "long_factor": [1], "original_max_position_embeddings": 1}),
            ),
            &["original_max_position_embeddings` is 1", "2 or more"],
        ),
        (json!({"rope_parameters": 3}), &["`rope_parameters` is 3", "an object"]),
        (
            json!({"rope_parameters": {"rope_type": "linear", "factor": 0}}),
            &["`rope_parameters.factor` is 0", "above 0"],
        ),
    ]);
}

#[test]
fn layer_types_must_name_each_layer() {
    let mistral =
        |types: Value| json!({"architectures": ["MistralForCausalLM"], "sliding_window": 4, "layer_types": types});
    assert_changes_refused(&[
        (
            mistral(json!(["full_attention"])),
            &["`layer_types` is [\"full_attention\"]", "one entry for each of the 2 layers"],
        ),
        (
            mistral(json!(["full_attention", "linear_attention"])),
            &["`layer_types` is \"linear_attention\"", "supported: full_attention"],
        ),
        (mistral(json!("full_attention")), &["`layer_types` is \"full_attention\"", "a list of strings"]),
        (mistral(json!(vec!["full_attention"; 10_000])), &["`layer_types`", "…", "each of the 2 layers"]),
    ]);
}

#[test]
fn ids_that_end_a_text_must_be_in_the_vocabulary() {
    for (value, found) in [
        (json!(16), "16"),
        (json!([2, 999]), "999"),
        (json!(-1), "-1"),
        (json!("</s>"), "\"</s>\""),
        (json!(4294967295u64), "4294967295"),
    ] {
        let found = format!("`eos_token_id` is {found}");
        let allowed = "a token id below the vocabulary size, 16";
        assert_changes_refused(&[(json!({ "eos_token_id": value }), &[&found, allowed])]);
        let dir = folder(good().to_string().as_bytes(), "");
        fs::write(dir.path().join("generation_config.json"), json!({ "eos_token_id": value }).to_string()).unwrap();
        assert_refused(dir.path(), &["generation_config.json", &found, allowed]);
    }
    let dir = folder(good().to_string().as_bytes(), "");
    fs::write(dir.path().join("generation_config.json"), json!({ "eos_token_id": "x".repeat(1 << 20) }).to_string())
        .unwrap();
    assert_refused(dir.path(), &["generation_config.json", "`eos_token_id`", "…"]);
    fs::write(dir.path().join("generation_config.json"), "[]").unwrap();
    assert_refused(dir.path(), &["generation_config.json", "not a JSON object"]);
}

#[test]
fn a_head_is_needed_unless_tied_and_a_stored_tied_head_is_a_copy() {
    let untied = folder(good().to_string().as_bytes(), "lm_head.weight");
    assert_refused(untied.path(), &["model.safetensors", "tensor `lm_head.weight` is missing"]);
    let tied = with(&json!({"tie_word_embeddings": true})).to_string();
    load(folder(tied.as_bytes(), "lm_head.weight").path()).unwrap();
    load(folder(tied.as_bytes(), "").path()).unwrap();
}

#[test]
fn shapes_that_disagree_name_both_sides() {
    assert_changes_refused_by_weights(&[
        (json!({"vocab_size": 17}), &["`model.embed_tokens.weight` is [16, 8]", "implies [17, 8]"]),
        (json!({"vocab_size": 1u32 << 28}), &["`model.embed_tokens.weight` is [16, 8]", "implies [268435456, 8]"]),
        (json!({"intermediate_size": 1u32 << 28}), &["mlp.gate_proj.weight` is [12, 8]", "implies [268435456, 8]"]),
        (json!({"num_key_value_heads": 1}), &["k_proj.weight` is [4, 8]", "implies [2, 8]"]),
        (json!({"head_dim": 4}), &["q_proj.weight` is [8, 8]", "implies [16, 8]"]),
        (
            json!({"num_hidden_layers": 3}),
            &["`model.layers.2.self_attn.q_proj.weight` is missing", "have `model.layers."],
        ),
        (json!({"num_hidden_layers": 1}), &["unexpected tensors `model.layers.1.", "llama"]),
    ]);
}

#[track_caller]
fn assert_changes_refused_by_weights(cases: &[(Value, &[&str])]) {
    for (changes, parts) in cases {
        assert_refused(folder(with(changes).to_string().as_bytes(), "").path(), parts);
    }
}

#[test]
fn weights_too_small_for_the_configuration_are_refused_before_anything_is_sized_by_it() {
    let most = 1u32 << 28;
    for changes in [
        json!({"num_hidden_layers": 4096, "hidden_size": most}),
        json!({"num_hidden_layers": 4096}),
        json!({"num_attention_heads": most, "num_key_value_heads": most, "head_dim": most, "num_hidden_layers": 4096, "hidden_size": most}),
        json!({"num_attention_heads": most, "head_dim": 2}),
        json!({"head_dim": most}),
        json!({"hidden_size": most}),
    ] {
        let parts = [
            "`num_hidden_layers` ",
            "`num_attention_heads` ",
            "`head_dim` ",
            "`hidden_size` ",
            "imply at least",
            "the checkpoint has",
        ];
        assert_changes_refused(&[(changes, &parts)]);
    }
}
