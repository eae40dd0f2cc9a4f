//! Qwen2 and Qwen2.5 dense: the base decoder, with biases on query, key and value, and a sliding window in the upper layers where
//! `use_sliding_window` is set.
//!
//! Source: transformers `models/qwen2/modeling_qwen2.py`; arXiv:2407.10671.

use super::{Family, base, sliding_layers};
use crate::config::{Config, ConfigError};
use crate::names::Names;
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family =
    Family { name: "qwen2", hf: &["Qwen2ForCausalLM"], gguf: &["qwen2"], spec, names: Names::STANDARD };

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let windows = upper_windows(config, spec.layers.len())?;
    for (layer, window) in spec.layers.iter_mut().zip(windows) {
        layer.attention.qkv_bias = true;
        layer.attention.window = window;
    }
    Ok(spec)
}

/// The window of each layer: none below `max_window_layers`, none at all unless `use_sliding_window`.
fn upper_windows(config: &Config, num_layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
    if !config.flag("use_sliding_window", false)? {
        return Ok(vec![None; num_layers]);
    }
    let window = config.optional_size("sliding_window")?;
    let first = config.whole("max_window_layers", 0..=4096)?.unwrap_or(28);
    let sliding = sliding_layers(config, num_layers, |layer| layer >= first)?;
    Ok(sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect())
}
