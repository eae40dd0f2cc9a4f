//! Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts in most layers, and a shared expert that is weighed by a sigmoid of its own.
//!
//! Source: transformers `models/qwen2_moe/modeling_qwen2_moe.py`; arXiv:2407.10671.

use super::base::base_with;
use super::facts::sliding_layers;
use super::{Family, mixture};
use crate::config::{Config, ConfigError, Container};
use nxd_modules::{DecoderSpec, MoeSpec, SharedExpertSpec};

pub(super) const FAMILY: Family = Family {
    name: "qwen2_moe",
    hf: &["Qwen2MoeForCausalLM"],
    gguf: &["qwen2moe"],
    keys: &[],
    spec,
    names: mixture::NAMES,
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &mixture::COUNTS)?;
    let window = match config.flag("use_sliding_window", false)? {
        true => config.optional_size("sliding_window")?,
        false => None,
    };
    let below = config.whole("max_window_layers", 0..=4096)?.unwrap_or(28);
    let sliding = sliding_layers(config, spec.layers.len(), |layer| layer.is_multiple_of(2) && layer < below)?;
    let qkv_bias = config.flag("qkv_bias", true)?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.attention.qkv_bias = qkv_bias;
        layer.attention.window = window.filter(|_| sliding);
    }
    let mut moe = mixture::mixture(config, config.flag("norm_topk_prob", false)?)?;
    let mut shared_size = 5632;
    if config.container() == Container::Gguf {
        // Old files have one width: that of the shared expert, and of all experts that a row takes together.
        shared_size = config.size("intermediate_size")?;
        if !config.has("moe_intermediate_size") {
            moe.intermediate_size = shared_size / config.size("num_experts_per_tok")?;
        }
    }
    let intermediate_size = config.optional_size("shared_expert_intermediate_size")?.unwrap_or(shared_size);
    let moe = MoeSpec { shared: Some(SharedExpertSpec { intermediate_size, weighed: true }), ..moe };
    let sparse = mixture::sparse_layers(config, spec.layers.len())?;
    mixture::put(&mut spec, moe, |layer| sparse[layer]);
    Ok(spec)
}
