//! OLMoE: the base decoder with norms over all query and all key heads together, clipped projections, and experts.
//!
//! Source: transformers `models/olmoe/modeling_olmoe.py`; arXiv:2409.02060.

use super::base::base_with;
use super::facts::factor;
use super::{Family, mixture};
use crate::config::{Config, ConfigError};
use nxd_modules::{DecoderSpec, QkNorm, QkNormOver};

pub(super) const FAMILY: Family =
    Family { name: "olmoe", hf: &["OlmoeForCausalLM"], gguf: &["olmoe"], keys: &[], spec, names: mixture::NAMES };

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &[&mixture::COUNTS[..], &["clip_qkv"]].concat())?;
    let bias = config.flag("attention_bias", false)?;
    let output_bias = config.flag("attention_output_bias", bias)?;
    let clip = factor(config, "clip_qkv")?;
    let norm = QkNorm { norm: spec.norm, over: QkNormOver::Projection, after_rope: false };
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        (attention.qk_norm, attention.clip) = (Some(norm), clip);
        (attention.qkv_bias, attention.output_bias) = (bias, output_bias);
    }
    let moe = mixture::mixture(config, config.flag("norm_topk_prob", false)?)?;
    mixture::put(&mut spec, moe, |_| true);
    Ok(spec)
}
