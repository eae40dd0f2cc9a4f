//! Mistral: the base decoder, with a sliding window in every layer where the configuration has one.
//!
//! Source: transformers `models/mistral/modeling_mistral.py`; arXiv:2310.06825. GGUF files of Mistral models name themselves `llama`.

use super::Family;
use super::base::base;
use super::facts::sliding_layers;
use crate::config::{Config, ConfigError};
use crate::names::Names;
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family =
    Family { name: "mistral", hf: &["MistralForCausalLM"], gguf: &[], keys: &[], spec, names: Names::STANDARD };

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    // No key means the class's default, null means no window.
    let window = match config.mentions("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(4096),
    };
    let sliding = sliding_layers(config, spec.layers.len(), |_| true)?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.window = window.filter(|_| sliding);
    }
    Ok(spec)
}
