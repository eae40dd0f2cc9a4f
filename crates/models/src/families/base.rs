//! What families share: the fields that all configurations have.

use super::facts::{activation, eps};
use crate::config::{Config, ConfigError};
use nxd_modules::{
    AttentionSpec, DecoderSpec, FeedForwardSpec, HeadSpec, LayerSpec, MlpSpec, NormPlacement, NormStyle,
};
use nxd_ops::Gated;
use serde_json::Value;

/// Keys that change the computation, with the value that means nothing is changed. A family that implements one says so.
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
    ("qk_layernorm", 0.0),
    ("use_bidirectional_attention", 0.0),
    ("attn_temperature_scale", 0.0),
    // Positions of several dimensions, whose heads GGUF files store in another order.
    ("rope_sections", f64::NAN),
];

/// The fields that all families share, read once: a pre-norm decoder with RMS norms, rotary positions and a gated MLP.
pub(super) fn base(config: &Config) -> Result<DecoderSpec, ConfigError> {
    base_with(config, &[])
}

/// As [`base`], for a family that implements some of the keys that others refuse.
pub(super) fn base_with(config: &Config, implemented: &[&str]) -> Result<DecoderSpec, ConfigError> {
    base_of_width(config, implemented, config.size("intermediate_size")?)
}

/// As [`base_with`], for a family whose MLP has a width that need not be said.
pub(super) fn base_of_width(
    config: &Config,
    implemented: &[&str],
    intermediate_size: usize,
) -> Result<DecoderSpec, ConfigError> {
    let refused: Vec<_> = REFUSED.iter().filter(|(key, _)| !implemented.contains(key)).copied().collect();
    config.refuse(&refused)?;
    let (hidden_size, num_heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let num_kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(num_heads);
    if !num_heads.is_multiple_of(num_kv_heads) {
        let expected = format!("a divisor of the {num_heads} query heads");
        return Err(config.wrong("num_key_value_heads", &Value::from(num_kv_heads), &expected));
    }
    // Where keys are compressed, the part of a head that is rotated.
    let head_dim = match config.optional_size("head_dim")?.or(config.optional_size("qk_rope_head_dim")?) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected = format!("a divisor of hidden_size {hidden_size}, or `head_dim` given");
            return Err(config.wrong("num_attention_heads", &Value::from(num_heads), &expected));
        }
    };
    let num_layers = config.whole("num_hidden_layers", 1..=4096)?.ok_or_else(|| config.missing("num_hidden_layers"))?;
    let layer = LayerSpec {
        attention: AttentionSpec {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            softcap: None,
            qkv_bias: false,
            output_bias: false,
            clip: None,
            qk_norm: None,
            rope: Some(config.rope(head_dim, "full_attention", 10_000.0)?),
            temperature: None,
            window: None,
            chunk: None,
            sinks: false,
            latent: None,
        },
        mlp: FeedForwardSpec::Dense(MlpSpec {
            intermediate_size,
            activation: activation(config, "hidden_act", Gated::Silu)?,
            gated: true,
            bias: false,
        }),
    };
    Ok(DecoderSpec {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        max_position_embeddings: config.optional_size("max_position_embeddings")?.unwrap_or(2048),
        learned_positions: false,
        embedding_scale: None,
        norm: NormStyle::rms(eps(config)?),
        norm_placement: NormPlacement::Pre,
        residual_scale: None,
        layers: vec![layer; num_layers],
        head: HeadSpec { tied: config.flag("tie_word_embeddings", false)?, ..HeadSpec::default() },
    })
}
