//! Whether a GGUF file would be read as the model that it is made of.

use super::json;
use crate::checkpoint::write::NewTensor;
use crate::checkpoint::write::gguf::Entry;
use crate::config::{TensorFacts, from_gguf};
use crate::families::Family;
use crate::model::Model;
use crate::quantise::QuantiseError;
use nxd_modules::{AttentionSpec, DecoderSpec};
use nxd_ops::{RopeScaling, RopeSpec};

/// Reads the planned keys as a configuration and compares the decoder with the model's. Gives what is added to the weights of norms, which
/// some families store as their distance from one in folders alone.
///
/// # Errors
/// [`QuantiseError::NoGguf`] with what would be different; and what reading the keys gives.
pub(super) fn check(
    model: &Model,
    target: &'static Family,
    metadata: &[(String, Entry)],
    tensors: &[NewTensor],
    factors: Option<&[f32]>,
) -> Result<f32, QuantiseError> {
    let has = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
    let facts = TensorFacts {
        has: &has,
        embedding_rows: Some(model.spec().vocab_size),
        rope_factors: factors.map(|factors| factors.iter().map(|&factor| f64::from(factor)).collect()),
        long_rope: None,
    };
    let file = "the GGUF file to be".to_owned();
    let again = (target.spec)(&from_gguf(file, |key| json(metadata, key), facts)?)?;
    let plus = model.spec().norm.offset - again.norm.offset;
    let [ours, theirs] = [(model.spec(), 0.0), (&again, plus)].map(|(spec, plus)| comparable(spec, plus, factors));
    let different = differences(&ours, &theirs);
    if different.is_empty() {
        return Ok(plus);
    }
    let reason = format!("read again, the file would be another model, by its {}", different.join(", "));
    Err(QuantiseError::NoGguf { family: model.family(), reason })
}

/// The decoder with numbers as exact as files have them, and `plus` added to what norms add to their weights.
fn comparable(spec: &DecoderSpec, plus: f32, factors: Option<&[f32]>) -> DecoderSpec {
    let mut spec = spec.clone();
    spec.norm.offset += plus;
    for layer in &mut spec.layers {
        if let Some(norm) = &mut layer.attention.qk_norm {
            norm.norm.offset += plus;
        }
        if let Some(rope) = &mut layer.attention.rope {
            *rope = rounded(rope, factors);
        }
    }
    spec
}

fn rounded(rope: &RopeSpec, factors: Option<&[f32]>) -> RopeSpec {
    let round = |value: f64| f64::from(value as f32);
    let scaling = match (&rope.scaling, factors) {
        (RopeScaling::Llama3 { .. }, Some(factors)) => {
            RopeScaling::Factors(factors.iter().map(|&factor| f64::from(factor)).collect())
        }
        (RopeScaling::Linear { factor }, _) => RopeScaling::Linear { factor: round(*factor) },
        (
            &RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor,
            },
            _,
        ) => RopeScaling::Yarn {
            factor: round(factor),
            original_max_position_embeddings,
            beta_fast: round(beta_fast),
            beta_slow: round(beta_slow),
            truncate,
            attention_factor: round(attention_factor),
        },
        (scaling, _) => scaling.clone(),
    };
    RopeSpec { theta: round(rope.theta), scaling, ..rope.clone() }
}

/// What differs, in words of the configuration.
fn differences(ours: &DecoderSpec, theirs: &DecoderSpec) -> Vec<&'static str> {
    let layers = || ours.layers.iter().zip(&theirs.layers);
    let attention = |differs: fn(&AttentionSpec, &AttentionSpec) -> bool| {
        layers().any(|(ours, theirs)| differs(&ours.attention, &theirs.attention))
    };
    let found = [
        ("number of layers", ours.layers.len() != theirs.layers.len()),
        ("sliding windows", attention(|a, b| a.window != b.window || a.chunk != b.chunk)),
        ("rotary embedding", attention(|a, b| a.rope != b.rope)),
        ("attention scale", attention(|a, b| a.scale.to_bits() != b.scale.to_bits() || a.softcap != b.softcap)),
        ("norms of queries and keys", attention(|a, b| a.qk_norm != b.qk_norm)),
        ("experts", layers().any(|(a, b)| a.mlp != b.mlp)),
        ("norms", ours.norm != theirs.norm || ours.norm_placement != theirs.norm_placement),
        ("head", ours.head != theirs.head),
        ("embedding", ours.embedding_scale != theirs.embedding_scale || ours.vocab_size != theirs.vocab_size),
    ];
    let named: Vec<&str> = found.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect();
    if named.is_empty() && ours != theirs { vec!["other parts"] } else { named }
}
