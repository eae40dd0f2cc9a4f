//! gpt-oss: biases on all projections, a sink for each query head, a window in every second layer, and experts with a clamped activation
//! whose affinities are a softmax of the chosen.
//!
//! Source: transformers `models/gpt_oss/modeling_gpt_oss.py`; arXiv:2508.10925.

use super::base::base_with;
use super::facts::sliding_layers;
use super::{Family, mixture};
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::{DecoderSpec, MoeSpec};
use nxd_ops::{Gated, RopeScaling};

pub(super) const FAMILY: Family = Family {
    name: "gpt_oss",
    hf: &["GptOssForCausalLM"],
    gguf: &["gpt-oss"],
    keys: &[],
    spec,
    names: Names {
        hf: Layout {
            layer: &[
                Place::new("mlp.gate", "mlp.router"),
                Place::part("mlp.experts.*.gate_proj.weight", FUSED, Part::Even).stacked().transposed(),
                Place::part("mlp.experts.*.up_proj.weight", FUSED, Part::Odd).stacked().transposed(),
                Place::new("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj").stacked().transposed(),
                Place::part("mlp.experts.*.gate_proj.bias", FUSED_BIAS, Part::Even).stacked(),
                Place::part("mlp.experts.*.up_proj.bias", FUSED_BIAS, Part::Odd).stacked(),
                Place::new("mlp.experts.*.down_proj.bias", "mlp.experts.down_proj_bias").stacked(),
            ],
            ..Layout::DECLARED
        },
        gguf: Layout { layer: &[Place::new("post_attention_layernorm", "post_attention_norm")], ..Layout::GGUF },
        ..Names::STANDARD
    },
};

/// Gates and what they meet, row by row.
const FUSED: &str = "mlp.experts.gate_up_proj";
const FUSED_BIAS: &str = "mlp.experts.gate_up_proj_bias";

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    config.refuse(&[("swiglu_alpha", 1.702)])?;
    let mut spec = base_with(config, &mixture::COUNTS)?;
    let bias = config.flag("attention_bias", true)?;
    let window = match config.mentions("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(128),
    };
    let sliding = sliding_layers(config, spec.layers.len(), |layer| layer.is_multiple_of(2))?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        let attention = &mut layer.attention;
        (attention.qkv_bias, attention.output_bias, attention.sinks) = (bias, bias, true);
        attention.window = window.filter(|_| sliding);
        // GGUF files do not say it.
        if let (Container::Gguf, Some(RopeScaling::Yarn { truncate, .. })) =
            (config.container(), attention.rope.as_mut().map(|rope| &mut rope.scaling))
        {
            *truncate = false;
        }
    }
    let moe = MoeSpec {
        activation: Gated::Clamped { limit: config.positive("swiglu_limit", 7.0)? as f32 },
        bias: true,
        router_bias: true,
        ..mixture::mixture(config, true)?
    };
    mixture::put(&mut spec, moe, |_| true);
    Ok(spec)
}
