//! Qwen3 dense: the base decoder, with an RMS norm on each query and key head before the rotation, and head_dim a field of its own.
//!
//! Source: transformers `models/qwen3/modeling_qwen3.py`; arXiv:2505.09388.

use super::{Family, base, sliding_layers};
use crate::config::{Config, ConfigError};
use crate::names::Names;
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family =
    Family { name: "qwen3", hf: &["Qwen3ForCausalLM"], gguf: &["qwen3"], spec, names: Names::STANDARD };

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let bias = config.flag("attention_bias", false)?;
    let window = match config.flag("use_sliding_window", false)? {
        true => config.optional_size("sliding_window")?,
        false => None,
    };
    let first = config.whole("max_window_layers", 0..=4096)?.unwrap_or(28);
    let sliding = sliding_layers(config, spec.layers.len(), |layer| layer >= first)?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.qk_norm = Some(spec.norm);
        layer.attention.qkv_bias = bias;
        layer.attention.output_bias = config.flag("attention_output_bias", bias)?;
        layer.attention.window = window.filter(|_| sliding);
    }
    Ok(spec)
}
