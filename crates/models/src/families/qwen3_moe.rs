//! Qwen3-MoE: Qwen3 with experts in most layers, stored one by one or stacked.
//!
//! Source: transformers `models/qwen3_moe/modeling_qwen3_moe.py`; arXiv:2505.09388.

use super::base::base_with;
use super::{Family, mixture};
use crate::config::{Config, ConfigError, Container};
use nxd_modules::{DecoderSpec, QkNorm, QkNormOver};

pub(super) const FAMILY: Family = Family {
    name: "qwen3_moe",
    hf: &["Qwen3MoeForCausalLM"],
    gguf: &["qwen3moe"],
    keys: &[],
    spec,
    names: mixture::NAMES,
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &mixture::COUNTS)?;
    let bias = config.flag("attention_bias", false)?;
    let output_bias = config.flag("attention_output_bias", bias)?;
    let window = match config.flag("use_sliding_window", false)? {
        true => config.optional_size("sliding_window")?,
        false => None,
    };
    let norm = QkNorm { norm: spec.norm, over: QkNormOver::Head, after_rope: false };
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        (attention.qk_norm, attention.window) = (Some(norm), window);
        (attention.qkv_bias, attention.output_bias) = (bias, output_bias);
    }
    // GGUF files do not say it, and all models do.
    let normalise = config.flag("norm_topk_prob", config.container() == Container::Gguf)?;
    let moe = mixture::mixture(config, normalise)?;
    let sparse = mixture::sparse_layers(config, spec.layers.len())?;
    mixture::put(&mut spec, moe, |layer| sparse[layer]);
    Ok(spec)
}
