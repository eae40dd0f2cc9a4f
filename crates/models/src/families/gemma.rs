//! Gemma 1: the base decoder with embeddings scaled by √hidden, norm weights stored as their distance from one, and tanh GELU.
//!
//! Source: transformers `models/gemma/modeling_gemma.py`; arXiv:2403.08295.

use super::Family;
use super::base::base;
use super::facts::activation;
use crate::config::{Config, ConfigError, Container};
use crate::names::Names;
use nxd_modules::{DecoderSpec, HeadSpec, NormStyle};
use nxd_ops::Gated;

pub(super) const FAMILY: Family =
    Family { name: "gemma", hf: &["GemmaForCausalLM"], gguf: &["gemma"], keys: &[], spec, names: Names::STANDARD };

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    // GGUF writers add the one to the weights.
    let offset = if config.container() == Container::Gguf { 0.0 } else { 1.0 };
    let activation = activation(config, "hidden_activation", Gated::GeluTanh)?;
    let bias = config.flag("attention_bias", false)?;
    for layer in &mut spec.layers {
        layer.mlp.change(|mlp| mlp.activation = activation);
        (layer.attention.qkv_bias, layer.attention.output_bias) = (bias, config.flag("attention_output_bias", bias)?);
    }
    Ok(DecoderSpec {
        embedding_scale: Some((spec.hidden_size as f32).sqrt()),
        norm: NormStyle { offset, ..spec.norm },
        head: HeadSpec { tied: config.flag("tie_word_embeddings", true)?, ..spec.head },
        ..spec
    })
}
