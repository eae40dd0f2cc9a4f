//! GLM-4 (0414): norms before and after each block, half of each head rotated, in neighbouring pairs, biases on query, key and value, and fused gate and
//! up projections.
//!
//! Source: transformers `models/glm4/modeling_glm4.py`.

use super::Family;
use super::base::base;
use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::{DecoderSpec, NormPlacement};

pub(super) const FAMILY: Family = Family {
    name: "glm4",
    hf: &["Glm4ForCausalLM"],
    gguf: &["glm4"],
    keys: &[],
    spec,
    names: Names {
        hf: Layout {
            layer: &[
                Place::new("post_attention_layernorm", "post_self_attn_layernorm"),
                Place::new("pre_feedforward_layernorm", "post_attention_layernorm"),
                Place::new("post_feedforward_layernorm", "post_mlp_layernorm"),
                Place::part("mlp.gate_proj", "mlp.gate_up_proj", Part::First),
                Place::part("mlp.up_proj", "mlp.gate_up_proj", Part::Second),
            ],
            pairs: true,
            ..Layout::DECLARED
        },
        gguf: Layout {
            layer: &[
                Place::new("post_attention_layernorm", "post_attention_norm"),
                Place::new("pre_feedforward_layernorm", "ffn_norm"),
                Place::new("post_feedforward_layernorm", "post_ffw_norm"),
                Place::part("mlp.gate_proj", "ffn_up", Part::First),
                Place::part("mlp.up_proj", "ffn_up", Part::Second),
            ],
            pairs: true,
            ..Layout::GGUF
        },
        ..Names::STANDARD
    },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let bias = config.flag("attention_bias", false)?;
    for layer in &mut spec.layers {
        layer.attention.qkv_bias = bias;
    }
    Ok(DecoderSpec { norm_placement: NormPlacement::Sandwich, ..spec })
}
