//! OLMo 2 and 3: norms after attention and MLP alone, and norms over all query and all key heads together; version 3 with three sliding
//! layers for each global one. GGUF files of both name themselves `olmo2`, and those with a window are of version 3.
//!
//! Source: transformers `models/olmo2/modeling_olmo2.py`, `models/olmo3/modeling_olmo3.py`; arXiv:2501.00656.

use super::Family;
use super::base::base;
use super::facts::sliding_layers;
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names, Place};
use nxd_modules::{DecoderSpec, NormPlacement, QkNorm, QkNormOver};
use nxd_ops::RopeScaling;

pub(super) const OLMO2: Family =
    Family { name: "olmo2", hf: &["Olmo2ForCausalLM"], gguf: &["olmo2"], keys: &[], spec: olmo2, names: NAMES };

pub(super) const OLMO3: Family =
    Family { name: "olmo3", hf: &["Olmo3ForCausalLM"], gguf: &[], keys: &[], spec: olmo3, names: NAMES };

/// Norms after attention and MLP, as GGUF files name them.
pub(super) const NAMES: Names = Names {
    gguf: Layout {
        layer: &[
            Place::new("post_attention_layernorm", "post_attention_norm"),
            Place::new("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        ..Layout::GGUF
    },
    ..Names::STANDARD
};

fn olmo2(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let slides = config.container() == Container::Gguf && config.has("sliding_window");
    if slides { olmo3(config) } else { global(config) }
}

/// As version 2: every layer sees all that is before it.
fn global(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let bias = config.flag("attention_bias", false)?;
    let norm = QkNorm { norm: spec.norm, over: QkNormOver::Projection, after_rope: false };
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        attention.qk_norm = Some(norm);
        (attention.qkv_bias, attention.output_bias) = (bias, config.flag("attention_output_bias", bias)?);
    }
    Ok(DecoderSpec { norm_placement: NormPlacement::Post, ..spec })
}

fn olmo3(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = global(config)?;
    let window = config.optional_size("sliding_window")?.unwrap_or(4096);
    let sliding = sliding_layers(config, spec.layers.len(), |layer| !(layer + 1).is_multiple_of(4))?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.window = sliding.then_some(window);
        // Only global layers see far enough for stretched positions.
        if let (true, Some(rope)) = (sliding, &mut layer.attention.rope) {
            rope.scaling = RopeScaling::None;
        }
    }
    Ok(spec)
}
