//! What families share: the fields that all configurations have, and facts that several have.

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
];

/// Keys for the `eps` of a norm.
const EPS: [&str; 5] = ["rms_norm_eps", "layer_norm_eps", "norm_epsilon", "norm_eps", "layer_norm_epsilon"];

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
    let head_dim = match config.optional_size("head_dim")? {
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

/// What is added to a norm's mean square, under whichever name.
fn eps(config: &Config) -> Result<f32, ConfigError> {
    let key = EPS.into_iter().find(|key| config.has(key)).unwrap_or(EPS[0]);
    let eps = config.positive(key, 1e-6)?;
    if eps > 1.0 {
        return Err(config.wrong(key, &Value::from(eps), "a number above 0 and at most 1"));
    }
    Ok(eps as f32)
}

/// The activation named by `key`.
pub(super) fn activation(config: &Config, key: &str, default: Gated) -> Result<Gated, ConfigError> {
    Ok(match config.text(key)? {
        None => default,
        Some("silu" | "swish") => Gated::Silu,
        Some("gelu") => Gated::Gelu,
        Some("gelu_pytorch_tanh" | "gelu_new") => Gated::GeluTanh,
        Some("relu2") => Gated::Relu2,
        Some(other) => {
            return Err(config.unsupported(key, &Value::from(other), "silu, gelu, gelu_pytorch_tanh, relu2"));
        }
    })
}

/// A finite number above zero, as f32, or `None` when the key is missing or null.
pub(super) fn factor(config: &Config, key: &str) -> Result<Option<f32>, ConfigError> {
    Ok(if config.has(key) { Some(config.positive(key, 1.0)? as f32) } else { None })
}

/// Whether each layer has a sliding window: from `layer_types` where the configuration lists them, else as `otherwise` says.
pub(super) fn sliding_layers(
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

/// The window of each layer of Qwen models: none below `max_window_layers`, none at all unless `use_sliding_window`.
pub(super) fn upper_windows(config: &Config, num_layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    if !config.flag("use_sliding_window", false)? {
        return Ok(vec![None; num_layers]);
    }
    let window = config.optional_size("sliding_window")?;
    let first = config.whole("max_window_layers", 0..=4096)?.unwrap_or(28);
    let sliding = sliding_layers(config, num_layers, |layer| layer >= first)?;
    Ok(sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect())
}
