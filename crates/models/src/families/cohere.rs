//! Command R and R7B (Cohere 1 and 2): layer norms without biases, attention and MLP side by side behind one norm, heads rotated in
//! neighbouring pairs, scaled logits; version 2 with sliding layers, and no positions at all in the global ones.
//!
//! Source: transformers `models/cohere/modeling_cohere.py`, `models/cohere2/modeling_cohere2.py`.

use super::Family;
use super::base::base_with;
use super::facts::sliding_layers;
use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names};
use nxd_modules::{DecoderSpec, HeadSpec, NormPlacement, NormStyle, QkNorm, QkNormOver};

pub(super) const COHERE: Family =
    Family { name: "cohere", hf: &["CohereForCausalLM"], gguf: &["command-r"], keys: &[], spec: cohere, names: NAMES };

pub(super) const COHERE2: Family =
    Family { name: "cohere2", hf: &["Cohere2ForCausalLM"], gguf: &["cohere2"], keys: &[], spec: cohere2, names: NAMES };

const NAMES: Names = Names {
    hf: Layout { pairs: true, ..Layout::DECLARED },
    gguf: Layout { pairs: true, ..Layout::GGUF },
    ..Names::STANDARD
};

fn cohere(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &["logit_scale", "use_qk_norm"])?;
    let norm = NormStyle::layer(spec.norm.eps, false);
    let bias = config.flag("attention_bias", false)?;
    let qk_norm = config.flag("use_qk_norm", config.flag("has_qk_norm", false)?)?;
    let qk_norm = qk_norm.then_some(QkNorm { norm, over: QkNormOver::OwnHead, after_rope: false });
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        attention.qk_norm = qk_norm;
        (attention.qkv_bias, attention.output_bias) = (bias, config.flag("attention_output_bias", bias)?);
    }
    let scale = config.positive("logit_scale", 0.0625)? as f32;
    let tied = config.flag("tie_word_embeddings", true)?;
    Ok(DecoderSpec {
        norm,
        norm_placement: NormPlacement::Parallel,
        head: HeadSpec { tied, scale: Some(scale), ..spec.head },
        ..spec
    })
}

fn cohere2(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = cohere(config)?;
    let pattern = config.optional_size("sliding_window_pattern")?.unwrap_or(4);
    let window = config.optional_size("sliding_window")?.unwrap_or(4096);
    let sliding = sliding_layers(config, spec.layers.len(), |layer| !(layer + 1).is_multiple_of(pattern))?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.window = sliding.then_some(window);
        layer.attention.rope = layer.attention.rope.take().filter(|_| sliding);
    }
    Ok(spec)
}
