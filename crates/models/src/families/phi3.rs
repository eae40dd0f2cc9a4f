//! Phi 3, 3.5 mini and 4: the base decoder with fused projections, LongRoPE, and a sliding window in every layer where the configuration has one.
//!
//! Source: transformers `models/phi3/modeling_phi3.py`; arXiv:2404.14219.

use super::Family;
use super::base::base;
use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "phi3",
    hf: &["Phi3ForCausalLM"],
    gguf: &["phi3"],
    keys: &[],
    spec,
    names: Names {
        hf: Layout { layer: FUSED, ..Layout::DECLARED },
        gguf: Layout {
            layer: &[
                Place::part("mlp.gate_proj", "ffn_up", Part::First),
                Place::part("mlp.up_proj", "ffn_up", Part::Second),
            ],
            ..Layout::GGUF
        },
        ..Names::STANDARD
    },
};

const FUSED: &[Place] = &[
    Place::part("self_attn.q_proj", "self_attn.qkv_proj", Part::Query),
    Place::part("self_attn.k_proj", "self_attn.qkv_proj", Part::Key),
    Place::part("self_attn.v_proj", "self_attn.qkv_proj", Part::Value),
    Place::part("mlp.gate_proj", "mlp.gate_up_proj", Part::First),
    Place::part("mlp.up_proj", "mlp.gate_up_proj", Part::Second),
];

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let window = config.optional_size("sliding_window")?;
    for layer in &mut spec.layers {
        layer.attention.window = window;
    }
    Ok(spec)
}
