//! StableLM 2 and 3B: the base decoder with layer norms that have biases, a quarter of each head rotated, and attention and MLP side by side where
//! the configuration says so.
//!
//! Source: transformers `models/stablelm/modeling_stablelm.py`.

use super::Family;
use super::base::base;
use crate::config::{Config, ConfigError, Container};
use crate::names::Names;
use nxd_modules::{DecoderSpec, NormPlacement, NormStyle, QkNorm, QkNormOver};

pub(super) const FAMILY: Family = Family {
    name: "stablelm",
    hf: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
    gguf: &["stablelm"],
    keys: &[("partial_rotary_factor", "rope_pct"), ("layer_norm_eps", "norm_eps")],
    spec,
    names: Names::STANDARD,
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let bias = match config.container() {
        Container::HuggingFace => config.flag("use_qkv_bias", false)?,
        Container::Gguf => config.flag("attention_bias", false)?,
    };
    let norm = NormStyle::layer(spec.norm.eps, false);
    // Of the 12B model, whose folders have a tensor for each head.
    let qk_norm = config.flag("has_qk_norm", false)?;
    let qk_norm = qk_norm.then_some(QkNorm { norm, over: QkNormOver::OwnHead, after_rope: false });
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        attention.qkv_bias = bias;
        attention.qk_norm = qk_norm;
        // The class's default is not that of others.
        if config.container() == Container::HuggingFace
            && !config.has("partial_rotary_factor")
            && !config.has("rope_parameters")
            && let Some(rope) = &mut attention.rope
        {
            rope.rotary_dim = attention.head_dim / 8 * 2;
        }
    }
    let parallel = config.flag("use_parallel_residual", false)?;
    Ok(DecoderSpec {
        norm: NormStyle::layer(spec.norm.eps, true),
        norm_placement: if parallel { NormPlacement::Parallel } else { NormPlacement::Pre },
        ..spec
    })
}
