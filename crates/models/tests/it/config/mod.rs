//! Configurations that cannot be run: each is an error that names file, key, what is there and what may be.

mod experts;
mod gguf;
mod huggingface;

use nxd_models::{LoadMode, Model};
use nxd_modules::Decoder;
use nxd_ops::{LocalWeight, Manifest, Mesh, Params, WeightSource};
use std::path::Path;
use std::time::{Duration, Instant};

const HIDDEN: usize = 8;
const INNER: usize = 12;
const LAYERS: usize = 2;
const VOCAB: usize = 16;

/// Name and shape of every tensor of a small Llama with 4 query heads and 2 KV heads of 2 values.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![4, HIDDEN]),
            ("self_attn.v_proj", vec![4, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
        ] {
            all.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    all.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    all.push(("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN]));
    all
}

/// Opens a model and takes each of its weights, as a device would; the error with its sources.
fn load(path: &Path) -> Result<(), String> {
    let model = Model::open(path, LoadMode::Mmap).map_err(|e| whole(&e))?;
    let mut manifest = Manifest::new(Mesh::single());
    Decoder::new(&mut Params::new(&mut manifest), model.spec());
    let weights = model.weights(&manifest).map_err(|e| whole(&e))?;
    for spec in manifest.weights() {
        let stored = weights.weight(spec).map_err(|e| whole(&e))?;
        LocalWeight::new(spec, stored, 0).map_err(|e| whole(&e))?;
    }
    Ok(())
}

fn whole(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", whole(cause)))
}

/// Fails unless loading fails at once with a short message that has all of `parts`.
#[track_caller]
fn assert_refused(path: &Path, parts: &[&str]) {
    let start = Instant::now();
    let Err(message) = load(path) else { panic!("loaded, expected an error with {parts:?}") };
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}: {message}", start.elapsed());
    for part in parts {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
    assert!(message.len() < 1000, "a message of {} bytes", message.len());
}
