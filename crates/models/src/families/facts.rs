//! Single facts that several families read alike.

use crate::config::{Config, ConfigError};
use nxd_ops::Gated;
use serde_json::Value;

/// Keys for the `eps` of a norm.
const EPS: [&str; 5] = ["rms_norm_eps", "layer_norm_eps", "norm_epsilon", "norm_eps", "layer_norm_epsilon"];

/// What is added to a norm's mean square, under whichever name.
pub(super) fn eps(config: &Config) -> Result<f32, ConfigError> {
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
