//! Seed-OSS: the base decoder, with biases of queries, keys and values, and a key of its own for the output's.
//!
//! Source: transformers `models/seed_oss/modeling_seed_oss.py`; GGUF's names are those of `gguf-py/gguf/constants.py` in llama.cpp.

use super::Family;
use super::base::base;
use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names, Place};
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "seed_oss",
    hf: &["SeedOssForCausalLM"],
    gguf: &["seed_oss"],
    keys: &[("attention_output_bias", "attention_out_bias")],
    spec,
    names: Names {
        gguf: Layout { layer: &[Place::new("post_attention_layernorm", "post_attention_norm")], ..Layout::GGUF },
        ..Names::STANDARD
    },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    for layer in &mut spec.layers {
        layer.attention.qkv_bias = config.flag("attention_bias", true)?;
        layer.attention.output_bias = config.flag("attention_output_bias", false)?;
        let mlp_bias = config.flag("mlp_bias", false)?;
        layer.mlp.change(|mlp| mlp.bias = mlp_bias);
    }
    Ok(spec)
}
