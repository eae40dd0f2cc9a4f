//! The model families: one file each, and the only registry.
//!
//! A family file says how a configuration becomes a [`DecoderSpec`] and where its weights' names leave the standard.

mod gemma3;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use crate::config::{Config, ConfigError, Container};
use crate::names::Names;
use nxd_modules::{AttentionSpec, DecoderSpec, LayerSpec, MlpSpec, NormPlacement, RmsNormSpec};
use nxd_ops::Gated;
use serde_json::Value;

/// A family of models.
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Class names of `config.json`'s `architectures`.
    pub hf: &'static [&'static str],
    /// Values of GGUF's `general.architecture`.
    pub gguf: &'static [&'static str],
    /// Configuration to decoder.
    pub spec: fn(&Config) -> Result<DecoderSpec, ConfigError>,
    /// Names of weights.
    pub names: Names,
}

/// Every family.
pub const FAMILIES: &[Family] = &[llama::FAMILY, mistral::FAMILY, qwen2::FAMILY, qwen3::FAMILY, gemma3::FAMILY];

/// The family of a configuration.
///
/// # Errors
/// [`ConfigError::Unsupported`] with the architectures that are supported.
pub fn find(config: &Config) -> Result<&'static Family, ConfigError> {
    let (key, names): (_, fn(&Family) -> &'static [&'static str]) = match config.container() {
        Container::HuggingFace => ("architectures", |f| f.hf),
        Container::Gguf => ("general.architecture", |f| f.gguf),
    };
    let architecture = config.architecture();
    FAMILIES.iter().find(|family| names(family).contains(&architecture)).ok_or_else(|| {
        let supported: Vec<_> = FAMILIES.iter().flat_map(names).copied().collect();
        config.unsupported(key, &Value::from(architecture), &supported.join(", "))
    })
}

/// Keys that change the computation and that no family here implements, with the value that means nothing is changed.
const REFUSED: &[(&str, f64)] = &[
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("logits_scaling", 1.0),
    ("embedding_multiplier", 1.0),
    ("residual_multiplier", 1.0),
    ("attention_multiplier", f64::NAN),
    ("clip_qkv", f64::NAN),
    ("num_experts", 0.0),
    ("num_local_experts", 0.0),
    ("attention_chunk_size", f64::NAN),
    ("use_qk_norm", 0.0),
    ("use_bidirectional_attention", 0.0),
];

/// The fields that all families share, read once: a pre-norm decoder with RMS norms, rotary positions and a gated MLP.
fn base(config: &Config) -> Result<DecoderSpec, ConfigError> {
    config.refuse(REFUSED)?;
    let (hidden_size, num_heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let num_kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(num_heads);
    if !num_heads.is_multiple_of(num_kv_heads) {
        let expected = format!("a divisor of the {num_heads} query heads");
        return Err(config.wrong("num_key_value_heads", &Value::from(num_kv_heads), &expected));
    }
    let head_dim = match config.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected = format!("a divisor of hidden_size {hidden_size}, or `head_dim` given");
            return Err(config.wrong("num_attention_heads", &Value::from(num_heads), &expected));
        }
    };
    let num_layers = config.whole("num_hidden_layers", 1..=4096)?.ok_or_else(|| config.missing("num_hidden_layers"))?;
    let eps = config.positive("rms_norm_eps", 1e-6)?;
    if eps > 1.0 {
        return Err(config.wrong("rms_norm_eps", &Value::from(eps), "a number above 0 and at most 1"));
    }
    let layer = LayerSpec {
        attention: AttentionSpec {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            qkv_bias: false,
            output_bias: false,
            qk_norm: None,
            rope: config.rope(head_dim, "full_attention", 10_000.0)?,
            window: None,
        },
        mlp: MlpSpec {
            intermediate_size: config.size("intermediate_size")?,
            activation: activation(config, "hidden_act", Gated::Silu)?,
            bias: false,
        },
    };
    Ok(DecoderSpec {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        max_position_embeddings: config.optional_size("max_position_embeddings")?.unwrap_or(2048),
        embedding_scale: None,
        tie_word_embeddings: config.flag("tie_word_embeddings", false)?,
        norm: RmsNormSpec { eps: eps as f32, offset: 0.0 },
        norm_placement: NormPlacement::Pre,
        layers: vec![layer; num_layers],
    })
}

/// The activation named by `key`.
fn activation(config: &Config, key: &str, default: Gated) -> Result<Gated, ConfigError> {
    Ok(match config.text(key)? {
        None => default,
        Some("silu" | "swish") => Gated::Silu,
        Some("gelu") => Gated::Gelu,
        Some("gelu_pytorch_tanh" | "gelu_new") => Gated::GeluTanh,
        Some(other) => return Err(config.unsupported(key, &Value::from(other), "silu, gelu, gelu_pytorch_tanh")),
    })
}

/// Whether each layer has a sliding window: from `layer_types` where the configuration lists them, else as `otherwise` says.
fn sliding_layers(
    config: &Config,
    num_layers: usize,
    otherwise: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, ConfigError> {
    let Some(types) = config.texts("layer_types")? else { return Ok((0..num_layers).map(otherwise).collect()) };
    if types.len() != num_layers {
        let expected = format!("one entry for each of the {num_layers} layers");
        return Err(config.wrong("layer_types", &Value::from(types), &expected));
    }
    let kind = |name: &&str| match *name {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(config.unsupported("layer_types", &Value::from(other), "full_attention, sliding_attention")),
    };
    types.iter().map(kind).collect()
}
