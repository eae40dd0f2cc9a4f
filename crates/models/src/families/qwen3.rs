//! Qwen3 dense: the base decoder, with an RMS norm on each query and key head before the rotation, and head_dim a field of its own.
//!
//! Source: transformers `models/qwen3/modeling_qwen3.py`; arXiv:2505.09388.

use super::Family;
use super::base::base;
use super::facts::upper_windows;
use crate::config::{Config, ConfigError};
use crate::names::Names;
use nxd_modules::{DecoderSpec, QkNorm, QkNormOver};

pub(super) const FAMILY: Family =
    Family { name: "qwen3", hf: &["Qwen3ForCausalLM"], gguf: &["qwen3"], keys: &[], spec, names: Names::STANDARD };

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let bias = config.flag("attention_bias", false)?;
    let norm = QkNorm { norm: spec.norm, over: QkNormOver::Head, after_rope: false };
    let windows = upper_windows(config, spec.layers.len())?;
    for (layer, window) in spec.layers.iter_mut().zip(windows) {
        layer.attention.qk_norm = Some(norm);
        layer.attention.qkv_bias = bias;
        layer.attention.output_bias = config.flag("attention_output_bias", bias)?;
        layer.attention.window = window;
    }
    Ok(spec)
}
