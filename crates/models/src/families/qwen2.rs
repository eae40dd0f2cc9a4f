//! Qwen2 and Qwen2.5 dense: the base decoder, with biases on query, key and value, and a sliding window in the upper layers where
//! `use_sliding_window` is set.
//!
//! Source: transformers `models/qwen2/modeling_qwen2.py`; arXiv:2407.10671.

use super::Family;
use super::base::base;
use super::facts::upper_windows;
use crate::config::{Config, ConfigError};
use crate::names::Names;
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family =
    Family { name: "qwen2", hf: &["Qwen2ForCausalLM"], gguf: &["qwen2"], keys: &[], spec, names: Names::STANDARD };

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let windows = upper_windows(config, spec.layers.len())?;
    for (layer, window) in spec.layers.iter_mut().zip(windows) {
        layer.attention.qkv_bias = true;
        layer.attention.window = window;
    }
    Ok(spec)
}
