//! Phi 3.5 MoE: layer norms and projections with biases, LongRoPE, and two experts a row, each chosen and weighed among those that are left.
//!
//! Source: transformers `models/phimoe/modeling_phimoe.py`; arXiv:2404.14219.

use super::base::base_with;
use super::{Family, mixture};
use crate::config::{Config, ConfigError};
use crate::names::Names;
use nxd_modules::{DecoderSpec, HeadSpec, MoeSpec, NormStyle};
use nxd_ops::RouterSpec;
use serde_json::Value;

pub(super) const FAMILY: Family = Family {
    name: "phimoe",
    hf: &["PhimoeForCausalLM", "PhiMoEForCausalLM"],
    gguf: &["phimoe"],
    keys: &[],
    spec,
    names: Names { hf: mixture::W1_W2_W3, ..Names::STANDARD },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &mixture::COUNTS)?;
    let bias = config.flag("attention_bias", false)?;
    let output_bias = config.flag("attention_output_bias", bias)?;
    let window = config.optional_size("sliding_window")?;
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        (attention.qkv_bias, attention.output_bias, attention.window) = (bias, output_bias, window);
    }
    let top_k = config.whole("num_experts_per_tok", 1..=4096)?.unwrap_or(2);
    if top_k != 2 {
        return Err(config.unsupported("num_experts_per_tok", &Value::from(top_k), "2"));
    }
    let jitter = config.positive("router_jitter_noise", 0.01)? as f32;
    let moe = MoeSpec { router: RouterSpec::Sparsemixer { jitter }, ..mixture::mixture(config, false)? };
    mixture::put(&mut spec, moe, |_| true);
    Ok(DecoderSpec {
        norm: NormStyle::layer(spec.norm.eps, true),
        head: HeadSpec { bias: config.flag("lm_head_bias", false)?, ..spec.head },
        ..spec
    })
}
