//! Gemma 2: Gemma with norms before and after each block, every other layer sliding, and caps on scores and logits.
//!
//! Source: transformers `models/gemma2/modeling_gemma2.py`; arXiv:2408.00118.

use super::Family;
use super::base::base_with;
use super::facts::{activation, factor, sliding_layers};
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names, Place};
use nxd_modules::{DecoderSpec, HeadSpec, NormPlacement, NormStyle};
use nxd_ops::Gated;

pub(super) const FAMILY: Family =
    Family { name: "gemma2", hf: &["Gemma2ForCausalLM"], gguf: &["gemma2"], keys: &[], spec, names: NAMES };

pub(super) const NAMES: Names = Names {
    gguf: Layout {
        layer: &[
            Place::new("post_attention_layernorm", "post_attention_norm"),
            Place::new("pre_feedforward_layernorm", "ffn_norm"),
            Place::new("post_feedforward_layernorm", "post_ffw_norm"),
        ],
        ..Layout::GGUF
    },
    ..Names::STANDARD
};

/// Layers of the 27B model, the one whose scores are not scaled by its head_dim; GGUF files do not say so.
const LAYERS_27B: usize = 46;

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &["attn_logit_softcapping", "final_logit_softcapping"])?;
    let is_gguf = config.container() == Container::Gguf;
    let norm = NormStyle { offset: if is_gguf { 0.0 } else { 1.0 }, ..spec.norm };
    let num_layers = spec.layers.len();
    let sliding = sliding_layers(config, num_layers, |layer| layer.is_multiple_of(2))?;
    let window = config.optional_size("sliding_window")?.unwrap_or(4096);
    let activation = activation(config, "hidden_activation", Gated::GeluTanh)?;
    let bias = config.flag("attention_bias", false)?;
    let softcap = factor(config, "attn_logit_softcapping")?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.mlp.change(|mlp| mlp.activation = activation);
        let attention = &mut layer.attention;
        let scalar = match (is_gguf, num_layers) {
            (true, LAYERS_27B) => spec.hidden_size / attention.num_heads,
            (true, _) => attention.head_dim,
            (false, _) => 256,
        };
        let scalar = config.positive("query_pre_attn_scalar", scalar as f64)?;
        (attention.scale, attention.softcap) = ((1.0 / scalar.sqrt()) as f32, softcap);
        (attention.qkv_bias, attention.output_bias) = (bias, config.flag("attention_output_bias", bias)?);
        attention.window = sliding.then_some(window);
    }
    let tied = config.flag("tie_word_embeddings", true)?;
    Ok(DecoderSpec {
        embedding_scale: Some((spec.hidden_size as f32).sqrt()),
        norm,
        norm_placement: NormPlacement::Sandwich,
        head: HeadSpec { tied, softcap: factor(config, "final_logit_softcapping")?, ..spec.head },
        ..spec
    })
}
