//! Nemotron 3 and 4, Minitron: layer norms whose weights are stored as their distance from one, half of each head rotated, and an ungated MLP with
//! squared ReLU.
//!
//! Source: transformers `models/nemotron/modeling_nemotron.py`; arXiv:2402.16819.

use super::Family;
use super::base::base;
use super::facts::activation;
use crate::config::{Config, ConfigError, Container};
use crate::names::Names;
use nxd_modules::{DecoderSpec, NormStyle};
use nxd_ops::Gated;

pub(super) const FAMILY: Family = Family {
    name: "nemotron",
    hf: &["NemotronForCausalLM"],
    gguf: &["nemotron"],
    keys: &[("partial_rotary_factor", "rope_percent")],
    spec,
    names: Names::STANDARD,
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let is_gguf = config.container() == Container::Gguf;
    let bias = config.flag("attention_bias", false)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    let activation = activation(config, "hidden_act", Gated::Relu2)?;
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        (attention.qkv_bias, attention.output_bias) = (bias, config.flag("attention_output_bias", bias)?);
        // The class's default is not that of others.
        if !is_gguf
            && !config.has("partial_rotary_factor")
            && !config.has("rope_parameters")
            && let Some(rope) = &mut attention.rope
        {
            rope.rotary_dim = attention.head_dim / 4 * 2;
        }
        layer.mlp.change(|mlp| (mlp.gated, mlp.bias, mlp.activation) = (false, mlp_bias, activation));
    }
    // GGUF writers add the one to the weights.
    let offset = if is_gguf { 0.0 } else { 1.0 };
    Ok(DecoderSpec { norm: NormStyle { offset, ..NormStyle::layer(spec.norm.eps, true) }, ..spec })
}
