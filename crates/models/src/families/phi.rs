//! Phi 1, 1.5 and 2: layer norms with biases, attention and an ungated MLP side by side behind one norm, partly rotated heads, biases
//! everywhere, the head's included.
//!
//! Source: transformers `models/phi/modeling_phi.py`; arXiv:2306.11644.

use super::Family;
use super::base::base;
use super::facts::activation;
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names, Place};
use nxd_modules::{DecoderSpec, HeadSpec, NormPlacement, NormStyle};
use nxd_ops::Gated;

pub(super) const FAMILY: Family = Family {
    name: "phi",
    hf: &["PhiForCausalLM"],
    gguf: &["phi2"],
    keys: &[],
    spec,
    names: Names {
        hf: Layout {
            layer: &[
                Place::new("self_attn.o_proj", "self_attn.dense"),
                Place::new("mlp.up_proj", "mlp.fc1"),
                Place::new("mlp.down_proj", "mlp.fc2"),
            ],
            model: &[Place::new("model.norm", "model.final_layernorm")],
            ..Layout::DECLARED
        },
        ..Names::STANDARD
    },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let activation = activation(config, "hidden_act", Gated::GeluTanh)?;
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        (attention.qkv_bias, attention.output_bias) = (true, true);
        // The class's default is not that of others.
        if config.container() == Container::HuggingFace
            && !config.has("partial_rotary_factor")
            && !config.has("rope_parameters")
            && let Some(rope) = &mut attention.rope
        {
            rope.rotary_dim = attention.head_dim / 4 * 2;
        }
        layer.mlp.change(|mlp| (mlp.gated, mlp.bias, mlp.activation) = (false, true, activation));
    }
    Ok(DecoderSpec {
        norm: NormStyle::layer(spec.norm.eps, true),
        norm_placement: NormPlacement::Parallel,
        head: HeadSpec { bias: true, ..spec.head },
        ..spec
    })
}
