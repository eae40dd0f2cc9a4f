//! Granite 3: the base decoder with factors on embeddings, scores, what joins the residual, and logits.
//!
//! Source: transformers `models/granite/modeling_granite.py`.

use super::Family;
use super::base::base_with;
use super::facts::factor;
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names};
use nxd_modules::{DecoderSpec, HeadSpec};

pub(super) const FAMILY: Family = Family {
    name: "granite",
    hf: &["GraniteForCausalLM"],
    gguf: &["granite"],
    keys: &[],
    spec,
    names: Names { gguf: Layout { pairs: true, ..Layout::GGUF }, ..Names::STANDARD },
};

/// The keys of the factors.
pub(super) const FACTORS: [&str; 5] =
    ["embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"];

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = scaled(config, base_with(config, &FACTORS)?)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    for layer in &mut spec.layers {
        layer.mlp.change(|mlp| mlp.bias = mlp_bias);
    }
    Ok(spec)
}

/// `spec` with the factors and the biases of attention.
pub(super) fn scaled(config: &Config, mut spec: DecoderSpec) -> Result<DecoderSpec, ConfigError> {
    let scale = factor(config, "attention_multiplier")?;
    // A key of GGUF files.
    let rotates = config.flag("rope_finetuned", true)?;
    let bias = config.flag("attention_bias", false)?;
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        attention.scale = scale.unwrap_or(attention.scale);
        attention.rope = attention.rope.take().filter(|_| rotates);
        (attention.qkv_bias, attention.output_bias) = (bias, config.flag("attention_output_bias", bias)?);
    }
    // Logits are divided by it, under another name in GGUF files.
    let divisor = if config.container() == Container::Gguf { "logit_scale" } else { "logits_scaling" };
    Ok(DecoderSpec {
        embedding_scale: factor(config, "embedding_multiplier")?,
        residual_scale: factor(config, "residual_multiplier")?,
        head: HeadSpec { scale: factor(config, divisor)?.map(|divisor| 1.0 / divisor), ..spec.head },
        ..spec
    })
}
