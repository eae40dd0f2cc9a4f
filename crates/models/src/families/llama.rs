//! Llama 1 to 3 and what shares its layout (SmolLM2 …): the base decoder, with optional biases.
//!
//! Source: transformers `models/llama/modeling_llama.py`; arXiv:2302.13971, arXiv:2407.21783.

use super::base::{base, base_with};
use super::{Family, mixture};
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names};
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "llama",
    hf: &["LlamaForCausalLM"],
    gguf: &["llama"],
    keys: &[],
    spec,
    names: Names { gguf: Layout { pairs: true, ..Layout::GGUF }, ..Names::STANDARD },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    if config.container() == Container::Gguf && config.whole("num_experts", 0..=4096)?.is_some_and(|count| count > 0) {
        // Mixtral has no architecture of its own there.
        let mut spec = base_with(config, &mixture::COUNTS)?;
        mixture::put(&mut spec, mixture::mixture(config, true)?, |_| true);
        return Ok(spec);
    }
    let mut spec = base(config)?;
    let attention_bias = config.flag("attention_bias", false)?;
    // GGUF metadata says nothing of biases; its tensors tell them apart.
    let output_bias = config.flag("attention_output_bias", attention_bias)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    for layer in &mut spec.layers {
        layer.attention.qkv_bias = attention_bias;
        layer.attention.output_bias = output_bias;
        layer.mlp.change(|mlp| mlp.bias = mlp_bias);
    }
    Ok(spec)
}
