//! SmolLM3: the base decoder with layers that know no positions.
//!
//! Source: transformers `models/smollm3/modeling_smollm3.py`; arXiv:2501.18795.

use super::Family;
use super::base::base;
use super::facts::upper_windows;
use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names};
use nxd_modules::DecoderSpec;
use serde_json::Value;

pub(super) const FAMILY: Family = Family {
    name: "smollm3",
    hf: &["SmolLM3ForCausalLM"],
    gguf: &["smollm3"],
    keys: &[],
    spec,
    names: Names { gguf: Layout { pairs: true, ..Layout::GGUF }, ..Names::STANDARD },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let bias = config.flag("attention_bias", false)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    let rotated = rotated_layers(config, spec.layers.len(), 4)?;
    let windows = upper_windows(config, spec.layers.len())?;
    for ((layer, rotated), window) in spec.layers.iter_mut().zip(rotated).zip(windows) {
        let attention = &mut layer.attention;
        (attention.qkv_bias, attention.output_bias) = (bias, config.flag("attention_output_bias", bias)?);
        attention.rope = attention.rope.take().filter(|_| rotated);
        attention.window = window;
        layer.mlp.change(|mlp| mlp.bias = mlp_bias);
    }
    spec.head.tied = config.flag("tie_word_embeddings", true)?;
    Ok(spec)
}

/// Whether each layer rotates: `no_rope_layers`, which has a 1 for those that do, else all but every `no_rope_layer_interval`th.
pub(super) fn rotated_layers(config: &Config, num_layers: usize, interval: usize) -> Result<Vec<bool>, ConfigError> {
    let interval = config.optional_size("no_rope_layer_interval")?.unwrap_or(interval);
    let listed = config.numbers("no_rope_layers")?.filter(|listed| !listed.is_empty());
    let Some(listed) = listed else {
        return Ok((0..num_layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect());
    };
    if listed.len() != num_layers {
        let expected = format!("one entry for each of the {num_layers} layers");
        return Err(config.wrong("no_rope_layers", &Value::from(listed), &expected));
    }
    Ok(listed.into_iter().map(|rotates| rotates != 0).collect())
}
