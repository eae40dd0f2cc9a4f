//! GGUF metadata.

use super::{HIDDEN, INNER, LAYERS, VOCAB, assert_refused, load, tensors};
use crate::checkpoint::gguf_writer::*;
use nxd_models::{LoadMode, Model};
use nxd_ops::RopeScaling;
use tempfile::TempDir;

/// A key of the file: its name without the architecture, type and bytes.
type Key = (&'static str, u32, Vec<u8>);

fn number(key: &'static str, value: u32) -> Key {
    (key, U32_TYPE, value.to_le_bytes().to_vec())
}

fn float(key: &'static str, value: f32) -> Key {
    (key, F32_TYPE, value.to_le_bytes().to_vec())
}

fn text(key: &'static str, value: &str) -> Key {
    (key, STRING_TYPE, string(value))
}

fn good() -> Vec<Key> {
    vec![
        number("block_count", LAYERS as u32),
        number("embedding_length", HIDDEN as u32),
        number("feed_forward_length", INNER as u32),
        number("attention.head_count", 4),
        number("attention.head_count_kv", 2),
        number("context_length", 32),
        number("vocab_size", VOCAB as u32),
        float("attention.layer_norm_rms_epsilon", 1e-5),
        float("rope.freq_base", 1e4),
    ]
}

fn name_in_gguf(name: &str) -> String {
    const NAMES: [(&str, &str); 11] = [
        ("model.embed_tokens", "token_embd"),
        ("model.layers.", "blk."),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("", ""),
    ];
    NAMES.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The small model with these keys in place of or beside its own, without the tensor named.
fn folder(architecture: &[u8], architecture_type: u32, changes: &[Key], removed: &str) -> TempDir {
    let mut file = GgufFile::empty().key("general.architecture", architecture_type, architecture);
    let kept = good().into_iter().filter(|(key, ..)| *key != removed && !changes.iter().any(|(k, ..)| k == key));
    for (key, kind, value) in kept.chain(changes.iter().cloned()) {
        file = file.key(format!("llama.{key}"), kind, &value);
    }
    for (name, shape) in tensors() {
        let name = name_in_gguf(&name);
        if name != removed {
            let dims: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
            file = file.tensor(name, &dims, F32, vec![0; 4 * shape.iter().product::<usize>()]);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("small.gguf"), file.bytes()).unwrap();
    dir
}

fn changed(changes: &[Key], removed: &str) -> TempDir {
    folder(&string("llama"), STRING_TYPE, changes, removed)
}

#[track_caller]
fn assert_changes_refused(cases: &[(Key, &[&str])]) {
    for (change, parts) in cases {
        let dir = changed(std::slice::from_ref(change), "");
        assert_refused(dir.path(), &[&["small.gguf"], *parts].concat());
    }
}

#[test]
fn the_file_that_the_tables_change_loads() {
    load(changed(&[], "").path()).unwrap();
    load(changed(&[], "output.weight").path()).unwrap();
    load(changed(&[], "vocab_size").path()).unwrap();
}

#[test]
fn the_architecture_must_be_supported() {
    let refused = |value: &[u8], kind, part: &str| {
        assert_refused(folder(value, kind, &[], "").path(), &["small.gguf", "`general.architecture`", part]);
    };
    refused(&string("t5"), STRING_TYPE, "supported: command-r, ");
    refused(&7u32.to_le_bytes(), U32_TYPE, "is 7, expected a string");
    let file = GgufFile::empty().key("llama.block_count", U32_TYPE, &2u32.to_le_bytes());
    let file = file.tensor("token_embd.weight", &[2, 2], F32, vec![0; 16]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("small.gguf"), file.bytes()).unwrap();
    assert_refused(dir.path(), &["small.gguf", "`general.architecture` is missing"]);
}

#[test]
fn sizes_must_be_whole_numbers_in_range() {
    for key in [
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "context_length",
        "vocab_size",
    ] {
        let named = format!("`llama.{key}` is ");
        let allowed = "a whole number from 1 to 268435456";
        assert_changes_refused(&[
            (number(key, 0), &[&named, "is 0", allowed]),
            (number(key, u32::MAX), &[&named, "is 4294967295", allowed]),
            ((key, I32_TYPE, (-3i32).to_le_bytes().to_vec()), &[&named, "is -3", allowed]),
            (text(key, "8"), &[&named, "is \"8\"", allowed]),
            (float(key, 8.5), &[&named, "is 8.5", allowed]),
            ((key, ARRAY_TYPE, array(U32_TYPE, 2, &[0; 8])), &[&named, "is [0,0]", allowed]),
        ]);
    }
    for layers in [0, 4097, 4_000_000_000] {
        let found = format!("`llama.block_count` is {layers}");
        assert_changes_refused(&[(number("block_count", layers), &[&found, "from 1 to 4096"])]);
    }
    for key in ["block_count", "embedding_length", "feed_forward_length", "attention.head_count"] {
        assert_refused(changed(&[], key).path(), &["small.gguf", &format!("`llama.{key}` is missing")]);
    }
}

#[test]
fn sizes_must_fit_each_other() {
    assert_changes_refused(&[
        (
            number("attention.head_count_kv", 3),
            &["`llama.attention.head_count_kv` is 3", "a divisor of the 4 query heads"],
        ),
        (number("attention.head_count", 6), &["`llama.attention.head_count` is 6", "divisor of hidden_size 8"]),
        (number("attention.head_count", 8), &["`llama.attention.key_length` is 1", "an even number"]),
        (number("attention.key_length", 3), &["`llama.attention.key_length` is 3", "an even number"]),
        (number("rope.dimension_count", 4), &["`llama.rope.dimension_count` is 4", "the head length, 2"]),
        (number("expert_count", 8), &["`llama.expert_used_count` is missing"]),
        (number("expert_count", 5000), &["`llama.expert_count` is 5000", "from 0 to 4096"]),
    ]);
}

#[test]
fn numbers_must_be_finite_and_positive() {
    for key in ["rope.freq_base", "attention.layer_norm_rms_epsilon"] {
        let named = format!("`llama.{key}` is ");
        for (value, found) in [(f32::NAN, "NaN"), (0.0, "0.0"), (-1.0, "-1.0"), (f32::INFINITY, "inf")] {
            assert_changes_refused(&[(float(key, value), &[&named, found, "a finite number above 0"])]);
        }
    }
    assert_refused(
        changed(&[text("rope.scaling.type", "spiral")], "").path(),
        &["small.gguf", "`llama.rope.scaling.type` is \"spiral\"", "supported: default, linear"],
    );
    // A factor alone is one of a linear scaling.
    for key in ["rope.scaling.factor", "rope.scale_linear"] {
        let file = changed(&[float(key, 4.0)], "");
        let model = Model::open(file.path(), LoadMode::Mmap).unwrap();
        let rope = model.spec().layers[0].attention.rope.as_ref().unwrap();
        assert_eq!(rope.scaling, RopeScaling::Linear { factor: 4.0 });
    }
    let linear = text("rope.scaling.type", "linear");
    assert_refused(changed(std::slice::from_ref(&linear), "").path(), &["`llama.rope.scaling.factor` is missing"]);
    let zero = [linear, float("rope.scaling.factor", 0.0)];
    assert_refused(changed(&zero, "").path(), &["`llama.rope.scaling.factor` is 0.0", "above 0"]);
}

#[test]
fn what_changes_the_computation_and_is_not_implemented_is_refused() {
    let sections = array(U32_TYPE, 4, &[8u32, 12, 12, 0].map(u32::to_le_bytes).concat());
    assert_changes_refused(&[
        (("rope.dimension_sections", ARRAY_TYPE, sections), &["`llama.rope.dimension_sections` is [8,12,12,0]"]),
        (("attention.causal", BOOL_TYPE, vec![0]), &["`llama.attention.causal`", "not supported"]),
        (float("attention.temperature_scale", 0.1), &["`llama.attention.temperature_scale` is 0.1"]),
    ]);
    load(changed(&[("attention.causal", BOOL_TYPE, vec![1])], "").path()).unwrap();
}

#[test]
fn tensors_that_disagree_with_the_metadata_are_named() {
    for (change, parts) in [
        (number("vocab_size", 17), &["small.gguf", "`token_embd.weight` is [16, 8]", "implies [17, 8]"][..]),
        (number("feed_forward_length", 1 << 28), &["`blk.0.ffn_gate.weight` is [12, 8]", "implies [268435456, 8]"]),
        (number("attention.head_count_kv", 1), &["`blk.0.attn_k.weight` is [4, 8]", "implies [2, 8]"]),
        (number("block_count", 1), &["small.gguf", "unexpected tensors `blk.1."]),
        (number("block_count", 3), &["small.gguf", "`blk.2.attn_q.weight` is missing (have `blk."]),
    ] {
        assert_refused(changed(&[change], "").path(), parts);
    }
    let dir = changed(&[], "blk.1.attn_q.weight");
    assert_refused(dir.path(), &["small.gguf", "`blk.1.attn_q.weight` is missing (have `blk.0.attn_q.weight`"]);
}

#[test]
fn a_file_too_small_for_its_metadata_is_refused_before_anything_is_sized_by_it() {
    for change in [number("block_count", 4096), number("attention.key_length", 1 << 28)] {
        assert_changes_refused(&[(
            change,
            &["`llama.block_count`", "`llama.attention.head_count` 4", "imply at least", "the checkpoint has"],
        )]);
    }
}
