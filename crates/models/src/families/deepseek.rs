//! DeepSeek V2, V3 and R1: latent attention, and behind the first layers experts in groups, beside shared ones.
//!
//! V2 chooses by a softmax, groups by their best expert; V3 by sigmoids and a correction, groups by their best two.
//!
//! Source: transformers `models/deepseek_v2/modeling_deepseek_v2.py` and `models/deepseek_v3/modeling_deepseek_v3.py`; arXiv:2405.04434,
//! arXiv:2412.19437.

use super::base::base_with;
use super::facts::activation;
use super::{Family, latent, mixture};
use crate::config::{Config, ConfigError, Container};
use nxd_modules::{DecoderSpec, MoeSpec, SharedExpertSpec};
use nxd_ops::{Gated, GroupWorth, RouterGroups, RouterSpec, Score, TopKRouter, Weighing};
use serde_json::Value;

pub(super) const FAMILY: Family = Family {
    name: "deepseek",
    hf: &["DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"],
    gguf: &["deepseek2"],
    keys: &[],
    spec,
    names: latent::NAMES,
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &mixture::COUNTS)?;
    latent::put(config, &mut spec)?;
    if config.whole(experts_key(config), 0..=mixture::MAX_EXPERTS)?.is_some_and(|count| count > 0) {
        let first = config.whole("first_k_dense_replace", 0..=4096)?.unwrap_or(0);
        let every = config.whole("moe_layer_freq", 1..=4096)?.unwrap_or(1);
        mixture::put(&mut spec, experts(config)?, |layer| layer >= first && layer.is_multiple_of(every));
    }
    Ok(spec)
}

/// The key that says how many experts there are.
fn experts_key(config: &Config) -> &'static str {
    match config.container() {
        Container::HuggingFace => "n_routed_experts",
        Container::Gguf => "num_experts",
    }
}

fn experts(config: &Config) -> Result<MoeSpec, ConfigError> {
    let required = |key, most| config.whole(key, 1..=most)?.ok_or_else(|| config.missing(key));
    let num_experts = required(experts_key(config), mixture::MAX_EXPERTS)?;
    let top_k = required("num_experts_per_tok", num_experts)?;
    let (score, worth) = choice(config)?;
    let count = config.whole("n_group", 1..=num_experts)?.unwrap_or(1);
    let top = config.whole("topk_group", 1..=count)?.unwrap_or(count);
    let each = num_experts / count;
    let enough = each * top >= top_k && (each > 1 || count == 1 || worth != Some(GroupWorth::BestTwo));
    if worth.is_some() && (!num_experts.is_multiple_of(count) || !enough) {
        let expected = format!("a divisor of {num_experts} experts, with {top_k} in the groups that are chosen");
        return Err(config.wrong("n_group", &Value::from(count), &expected));
    }
    let groups = worth.filter(|_| count > 1).map(|worth| RouterGroups { count, top, worth });
    // GGUF files say it only where it is so.
    let is_default = score == Score::Sigmoid && config.container() == Container::HuggingFace;
    let normalise = config.flag("norm_topk_prob", is_default)?;
    let scale = config.positive("routed_scaling_factor", 1.0)? as f32;
    let intermediate_size = config.size("moe_intermediate_size")?;
    let shared = config.whole("n_shared_experts", 0..=mixture::MAX_EXPERTS)?.filter(|&count| count > 0);
    Ok(MoeSpec {
        num_experts,
        intermediate_size,
        activation: activation(config, "hidden_act", Gated::Silu)?,
        bias: false,
        weighing: Weighing::Output,
        router: RouterSpec::TopK(TopKRouter { groups, normalise, scale, ..TopKRouter::new(score, top_k) }),
        router_bias: false,
        correction: worth == Some(GroupWorth::BestTwo),
        shared: shared.map(|count| SharedExpertSpec { intermediate_size: count * intermediate_size, weighed: false }),
    })
}

/// What logits become, and what groups of experts are worth where there are any.
fn choice(config: &Config) -> Result<(Score, Option<GroupWorth>), ConfigError> {
    // GGUF files have numbers for both scores, and say of groups how many there are.
    let by_number = config.whole("expert_gating_func", 1..=2)?;
    let is_v3 = config.architecture() == "DeepseekV3ForCausalLM" || by_number == Some(2);
    let score = match config.text("scoring_func")? {
        None if is_v3 => Score::Sigmoid,
        None | Some("softmax") => Score::Softmax,
        Some("sigmoid") => Score::Sigmoid,
        Some(other) => return Err(config.unsupported("scoring_func", &Value::from(other), "softmax, sigmoid")),
    };
    let worth = match config.text("topk_method")? {
        None if is_v3 => Some(GroupWorth::BestTwo),
        None if config.has("n_group") => Some(GroupWorth::Best),
        None | Some("greedy") => None,
        Some("group_limited_greedy") => Some(GroupWorth::Best),
        Some("noaux_tc") => Some(GroupWorth::BestTwo),
        Some(other) => {
            let supported = "greedy, group_limited_greedy, noaux_tc";
            return Err(config.unsupported("topk_method", &Value::from(other), supported));
        }
    };
    Ok((score, worth))
}
