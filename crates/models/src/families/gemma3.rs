//! Gemma 3, text: embeddings scaled by √hidden, norms before and after each block with weights stored as their distance from one, norms on
//! query and key heads, tanh GELU, and several sliding layers with a rotary base of their own for each global one.
//!
//! Source: transformers `models/gemma3/modeling_gemma3.py`; arXiv:2503.19786.

use super::Family;
use super::base::base_with;
use super::facts::{activation, factor, sliding_layers};
use crate::config::{Config, ConfigError, Container};
use nxd_modules::{DecoderSpec, HeadSpec, NormPlacement, NormStyle, QkNorm, QkNormOver};
use nxd_ops::{Gated, RopeScaling, RopeSpec};

pub(super) const FAMILY: Family = Family {
    name: "gemma3",
    hf: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    gguf: &["gemma3"],
    keys: &[],
    spec,
    names: super::gemma2::NAMES,
};

/// Layers of the 27B model, the one whose scores are not scaled by its head_dim; GGUF files do not say so.
const LAYERS_27B: usize = 62;

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &["final_logit_softcapping"])?;
    let is_gguf = config.container() == Container::Gguf;
    // GGUF writers add the one to the weights.
    let norm = NormStyle { offset: if is_gguf { 0.0 } else { 1.0 }, ..spec.norm };
    let num_layers = spec.layers.len();
    let attention = spec.layers[0].attention.clone();
    let head_dim = config.optional_size("head_dim")?.unwrap_or(256);
    let default_scalar =
        if is_gguf && num_layers == LAYERS_27B { spec.hidden_size / attention.num_heads } else { head_dim };
    let scale = (1.0 / config.positive("query_pre_attn_scalar", default_scalar as f64)?.sqrt()) as f32;
    let pattern = config.optional_size("sliding_window_pattern")?.unwrap_or(6);
    let default_window = if is_gguf { None } else { Some(4096) };
    let window = config.optional_size("sliding_window")?.or(default_window);
    let sliding = sliding_layers(config, num_layers, |layer| window.is_some() && !(layer + 1).is_multiple_of(pattern))?;
    let global = RopeSpec { head_dim, rotary_dim: head_dim, ..config.rope(head_dim, "full_attention", 1e6)? };
    let local = RopeSpec { scaling: RopeScaling::None, theta: local_theta(config, head_dim)?, ..global.clone() };
    let bias = config.flag("attention_bias", false)?;
    let activation = activation(config, "hidden_activation", Gated::GeluTanh)?;
    let qk_norm = QkNorm { norm, over: QkNormOver::Head, after_rope: false };
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.mlp.change(|mlp| mlp.activation = activation);
        let attention = &mut layer.attention;
        (attention.head_dim, attention.scale, attention.qk_norm) = (head_dim, scale, Some(qk_norm));
        (attention.qkv_bias, attention.output_bias) = (bias, config.flag("attention_output_bias", bias)?);
        attention.window = window.filter(|_| sliding);
        attention.rope = Some(if sliding { local.clone() } else { global.clone() });
    }
    let tied = config.flag("tie_word_embeddings", true)?;
    Ok(DecoderSpec {
        embedding_scale: Some((spec.hidden_size as f32).sqrt()),
        head: HeadSpec { tied, softcap: factor(config, "final_logit_softcapping")?, ..spec.head },
        norm,
        norm_placement: NormPlacement::Sandwich,
        ..spec
    })
}

/// The rotary base of sliding layers: a key of its own, or a section of the newer `rope_parameters`.
fn local_theta(config: &Config, head_dim: usize) -> Result<f64, ConfigError> {
    if config.has("rope_parameters") && !config.has("rope_local_base_freq") {
        return Ok(config.rope(head_dim, "sliding_attention", 10_000.0)?.theta);
    }
    config.positive("rope_local_base_freq", 10_000.0)
}
