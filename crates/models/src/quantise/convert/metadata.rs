//! The keys of a GGUF file, from a model's decoder, configuration and tokenizer.
//!
//! Source: as for reading them, `docs/gguf.md` of ggml and `convert_hf_to_gguf.py` of llama.cpp.

use crate::checkpoint::gguf::Value;
use crate::checkpoint::write::gguf::Entry;
use crate::config::KEYS;
use crate::model::Model;
use crate::quantise::QuantiseError;
use crate::tokenizer::GgufVocab;
use nxd_modules::{DecoderSpec, FeedForwardSpec};
use nxd_ops::{Centre, RopeScaling, RopeSpec};
use serde_json::Value as Json;

/// Keys whose values are floats, also where `config.json` has a whole number.
const FLOATS: [&str; 8] = [
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "routed_scaling_factor",
    "logit_scale",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "clip_qkv",
];

/// Keys that say nothing unless a layer has a window, which `config.json` says in other words.
const OF_WINDOWS: [&str; 2] = ["sliding_window", "rope_local_base_freq"];

/// What a model is, as the keys of `architecture`.
///
/// # Errors
/// When its rotary embedding has no keys.
pub(super) fn of_model(model: &Model, architecture: &str) -> Result<Vec<(String, Entry)>, QuantiseError> {
    let spec = model.spec();
    let folder = model.checkpoint().dir().canonicalize().unwrap_or_default();
    let name = folder.file_name().map_or_else(|| architecture.to_owned(), |name| name.to_string_lossy().into_owned());
    let mut keys =
        vec![("general.architecture".to_owned(), text(architecture)), ("general.name".to_owned(), text(&name))];
    for (ours, theirs) in KEYS {
        let value = match of_spec(spec, ours) {
            Some(known) => known,
            None => model.config().value(ours).and_then(|value| of_json(ours, value)),
        };
        if let Some(value) = value {
            keys.push((format!("{architecture}.{theirs}"), Entry::Value(value)));
        }
    }
    for (key, value) in scaling(spec, model.family())? {
        keys.push((format!("{architecture}.rope.scaling.{key}"), Entry::Value(value)));
    }
    Ok(keys)
}

/// What the decoder says of a key, whatever `config.json` calls it; `None` where it says nothing.
fn of_spec(spec: &DecoderSpec, key: &str) -> Option<Option<Value>> {
    let layer = spec.layers.first()?;
    let attention = &layer.attention;
    let size = |size: usize| Some(u32::try_from(size).ok().map(Value::U32));
    let rope = attention.rope.as_ref().or_else(|| spec.layers.iter().find_map(|l| l.attention.rope.as_ref()));
    match key {
        "num_hidden_layers" => size(spec.layers.len()),
        "hidden_size" => size(spec.hidden_size),
        "intermediate_size" => match layer.mlp {
            FeedForwardSpec::Dense(mlp) => size(mlp.intermediate_size),
            FeedForwardSpec::Moe(_) => None,
        },
        "num_attention_heads" => size(attention.num_heads),
        "num_key_value_heads" => size(attention.num_kv_heads),
        "head_dim" | "value_head_dim" => size(attention.head_dim),
        "max_position_embeddings" => size(spec.max_position_embeddings),
        "vocab_size" => size(spec.vocab_size),
        "rms_norm_eps" => Some((spec.norm.centre == Centre::Zero).then_some(Value::F32(spec.norm.eps))),
        "layer_norm_eps" => Some((spec.norm.centre == Centre::Mean).then_some(Value::F32(spec.norm.eps))),
        "rope_theta" => Some(rope.map(|rope| Value::F32(rope.theta as f32))),
        "rotary_dim" => size(rope?.rotary_dim),
        // A number of experts for MLPs would make them experts.
        "num_experts" => size(layer.mlp.num_experts()).filter(|_| layer.mlp.num_experts() > 0).or(Some(None)),
        key if OF_WINDOWS.contains(&key) && spec.layers.iter().all(|l| l.attention.window.is_none()) => Some(None),
        _ => None,
    }
}

/// A value of `config.json`; lists and texts have no keys of these names.
fn of_json(key: &str, value: &Json) -> Option<Value> {
    match value {
        Json::Bool(flag) => Some(Value::Bool(*flag)),
        Json::Number(number) if FLOATS.contains(&key) => number.as_f64().map(|v| Value::F32(v as f32)),
        Json::Number(number) => match number.as_u64() {
            Some(whole) => u32::try_from(whole).ok().map(Value::U32),
            None => number.as_f64().map(|v| Value::F32(v as f32)),
        },
        _ => None,
    }
}

/// How the rotary frequencies are stretched, as keys under `rope.scaling`.
fn scaling(spec: &DecoderSpec, family: &'static str) -> Result<Vec<(&'static str, Value)>, QuantiseError> {
    let Some(rope) = spec.layers.iter().find_map(|layer| layer.attention.rope.as_ref()) else { return Ok(Vec::new()) };
    let refused = |reason: &str| Err(QuantiseError::NoGguf { family, reason: reason.to_owned() });
    match &rope.scaling {
        // Factors are a tensor.
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => Ok(Vec::new()),
        RopeScaling::Linear { factor } => {
            Ok(vec![("type", Value::String("linear".to_owned())), ("factor", Value::F32(*factor as f32))])
        }
        RopeScaling::Yarn {
            factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor, ..
        } => {
            // Readers multiply the usual factor on cos and sin with what the file says of it, or take that for the whole.
            let usual = if *factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            if (attention_factor - usual).abs() > 1e-6 {
                return refused("YaRN with an attention factor of its own is read in more than one way");
            }
            let original = u32::try_from(*original_max_position_embeddings).unwrap_or(u32::MAX);
            Ok(vec![
                ("type", Value::String("yarn".to_owned())),
                ("factor", Value::F32(*factor as f32)),
                ("original_context_length", Value::U32(original)),
                ("yarn_beta_fast", Value::F32(*beta_fast as f32)),
                ("yarn_beta_slow", Value::F32(*beta_slow as f32)),
            ])
        }
        RopeScaling::DynamicNtk { .. } => refused("dynamic NTK scaling of the rotary embedding has no key"),
        RopeScaling::LongRope { .. } => refused("the two sets of LongRoPE factors are read and not written"),
    }
}

/// The divisor of each rotary frequency, where they stand in a tensor of their own.
///
/// Source: `modeling_rope_utils.py` of transformers, `_compute_llama3_parameters`.
pub(super) fn rope_factors(spec: &DecoderSpec) -> Option<Vec<f32>> {
    let rope = spec.layers.iter().find_map(|layer| layer.attention.rope.as_ref())?;
    llama3_divisors(rope).map(|divisors| divisors.iter().map(|&divisor| divisor as f32).collect())
}

/// `None` for scaling of another kind.
fn llama3_divisors(rope: &RopeSpec) -> Option<Vec<f64>> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        rope.scaling
    else {
        return None;
    };
    let original = original_max_position_embeddings as f64;
    let divisor = |i: usize| {
        let wavelength = 2.0 * std::f64::consts::PI * rope.theta.powf(2.0 * i as f64 / rope.rotary_dim as f64);
        if wavelength < original / high_freq_factor {
            1.0
        } else if wavelength > original / low_freq_factor {
            factor
        } else {
            let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some((0..rope.rotary_dim / 2).map(divisor).collect())
}

/// The keys of a tokenizer.
pub(super) fn of_tokenizer(vocab: Option<GgufVocab>) -> Vec<(String, Entry)> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let Some(vocab) = vocab else { return vec![(key("model"), text("none"))] };
    let mut keys = vec![(key("model"), text(&vocab.model))];
    // SentencePiece's words are not cut, which has a name, too.
    keys.push((key("pre"), text(vocab.pre.as_deref().unwrap_or("default"))));
    keys.push((key("tokens"), Entry::Strings(vocab.tokens.iter().map(str::to_owned).collect())));
    if !vocab.scores.is_empty() {
        keys.push((key("scores"), Entry::F32s(vocab.scores)));
    }
    keys.push((key("token_type"), Entry::I32s(vocab.token_types)));
    if !vocab.merges.is_empty() {
        keys.push((key("merges"), Entry::Strings(vocab.merges.iter().map(str::to_owned).collect())));
    }
    let ids =
        [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unk), ("padding", vocab.pad), ("eot", vocab.eot)];
    let id = |(name, id): (&str, Option<u32>)| Some((key(&format!("{name}_token_id")), Entry::Value(Value::U32(id?))));
    keys.extend(ids.into_iter().filter_map(id));
    let flags = [
        ("add_bos_token", vocab.add_bos),
        ("add_eos_token", vocab.add_eos),
        ("add_space_prefix", vocab.add_space_prefix),
    ];
    keys.extend(flags.into_iter().filter_map(|(name, flag)| Some((key(name), Entry::Value(Value::Bool(flag?))))));
    if let Some(template) = vocab.chat_template {
        keys.push(("tokenizer.chat_template".to_owned(), text(&template)));
    }
    keys
}

fn text(text: &str) -> Entry {
    Entry::Value(Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_are_those_of_the_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let rope = RopeSpec { head_dim: 64, rotary_dim: 64, theta: 5e5, scaling };
        let divisors = llama3_divisors(&rope).unwrap();
        let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() };
        let divided = RopeSpec { scaling: RopeScaling::Factors(divisors.clone().into()), ..rope.clone() };
        let [plain, expected, found] = [&plain, &rope, &divided].map(|rope| rope.frequencies(1).0);
        for (expected, found) in expected.iter().zip(found) {
            assert!((found / expected - 1.0).abs() < 2e-7, "{found} against {expected}");
        }
        assert_eq!((divisors[0], divisors[31]), (1.0, 8.0));
        assert!(plain[20] > expected[20] && divisors.is_sorted());
    }
}
