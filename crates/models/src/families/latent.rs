//! What families with latent attention share: where their weights lie, and what their attention is.
//!
//! Source: transformers `models/deepseek_v3/modeling_deepseek_v3.py`; the names of GGUF files are those of `tensor_mapping.py` in llama.cpp.

use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::{DecoderSpec, LatentSpec, NormStyle};
use nxd_ops::RopeScaling;
use serde_json::Value;

/// Names with several shared experts, and with rotated values in neighbouring pairs.
pub(super) const NAMES: Names = Names {
    hf: Layout {
        layer: &[
            Place::part("self_attn.q_proj.nope", "self_attn.q_proj", Part::QueryNope),
            Place::part("self_attn.q_proj.rope", "self_attn.q_proj", Part::QueryRope),
            Place::part("self_attn.q_b_proj.nope", "self_attn.q_b_proj", Part::QueryNope),
            Place::part("self_attn.q_b_proj.rope", "self_attn.q_b_proj", Part::QueryRope),
            Place::part("self_attn.kv_a_proj_with_mqa.latent", "self_attn.kv_a_proj_with_mqa", Part::Latent),
            Place::part("self_attn.kv_a_proj_with_mqa.rope", "self_attn.kv_a_proj_with_mqa", Part::LatentRope),
            Place::part("self_attn.kv_b_proj.key", "self_attn.kv_b_proj", Part::KeyOfLatent),
            Place::part("self_attn.kv_b_proj.value", "self_attn.kv_b_proj", Part::ValueOfLatent),
            Place::new("mlp.shared_expert.gate_proj", "mlp.shared_experts.gate_proj"),
            Place::new("mlp.shared_expert.up_proj", "mlp.shared_experts.up_proj"),
            Place::new("mlp.shared_expert.down_proj", "mlp.shared_experts.down_proj"),
        ],
        pairs: true,
        ..Layout::DECLARED
    },
    gguf: Layout {
        layer: &[
            Place::part("self_attn.q_proj.nope", "attn_q", Part::QueryNope),
            Place::part("self_attn.q_proj.rope", "attn_q", Part::QueryRope),
            Place::new("self_attn.q_a_proj", "attn_q_a"),
            Place::new("self_attn.q_a_layernorm", "attn_q_a_norm"),
            Place::part("self_attn.q_b_proj.nope", "attn_q_b", Part::QueryNope),
            Place::part("self_attn.q_b_proj.rope", "attn_q_b", Part::QueryRope),
            Place::part("self_attn.kv_a_proj_with_mqa.latent", "attn_kv_a_mqa", Part::Latent),
            Place::part("self_attn.kv_a_proj_with_mqa.rope", "attn_kv_a_mqa", Part::LatentRope),
            Place::new("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
            // Split and turned in files since 2025, one matrix in older ones.
            Place::new("self_attn.kv_b_proj.key", "attn_k_b"),
            Place::new("self_attn.kv_b_proj.value", "attn_v_b"),
            Place::part("self_attn.kv_b_proj.key", "attn_kv_b", Part::KeyOfLatent),
            Place::part("self_attn.kv_b_proj.value", "attn_kv_b", Part::ValueOfLatent),
        ],
        pairs: true,
        ..Layout::GGUF
    },
    ..Names::STANDARD
};

/// Makes the attention of every layer latent, as the configuration has it.
pub(super) fn put(config: &Config, spec: &mut DecoderSpec) -> Result<(), ConfigError> {
    if !config.flag("rope_interleave", true)? {
        return Err(config.unsupported("rope_interleave", &Value::from(false), "true"));
    }
    let [qk_nope_head_dim, qk_rope_head_dim, v_head_dim] = head_dims(config)?;
    let latent = LatentSpec {
        q_lora_rank: config.optional_size("q_lora_rank")?,
        kv_lora_rank: config.size("kv_lora_rank")?,
        qk_nope_head_dim,
        qk_rope_head_dim,
        v_head_dim,
        // The configuration's is for the other norms.
        norm: NormStyle::rms(1e-6),
    };
    let rope = config.rope(qk_rope_head_dim, "full_attention", 10_000.0)?;
    let head_dim = qk_nope_head_dim + qk_rope_head_dim;
    let factor = match rope.scaling {
        RopeScaling::Yarn { factor, .. } => stretch(config, factor),
        _ => 1.0,
    };
    let bias = config.flag("attention_bias", false)?;
    let output_bias = config.flag("attention_output_bias", bias)?;
    for attention in spec.layers.iter_mut().map(|layer| &mut layer.attention) {
        (attention.num_kv_heads, attention.head_dim, attention.latent) = (1, head_dim, Some(latent));
        attention.scale = (factor * factor / (head_dim as f64).sqrt()) as f32;
        (attention.qkv_bias, attention.output_bias) = (bias, output_bias);
        attention.rope = Some(rope.clone());
    }
    Ok(())
}

/// Values of a query head without positions and of those that are rotated, and of a value head.
fn head_dims(config: &Config) -> Result<[usize; 3], ConfigError> {
    if config.container() == Container::HuggingFace {
        return Ok([config.size("qk_nope_head_dim")?, config.size("qk_rope_head_dim")?, config.size("v_head_dim")?]);
    }
    // Newer files say what a head of the cache has, and beside it what one had that is not absorbed.
    let either = |key, older| if config.has(key) { config.size(key) } else { config.size(older) };
    let (head_dim, rope) = (either("key_length_mla", "head_dim")?, config.size("rotary_dim")?);
    let nope = head_dim.checked_sub(rope).filter(|&nope| nope > 0);
    let nope = nope.ok_or_else(|| config.wrong("rotary_dim", &Value::from(rope), &format!("less than {head_dim}")))?;
    Ok([nope, rope, either("value_length_mla", "value_head_dim")?])
}

/// What yarn multiplies queries and keys with when a context is `factor` times as long.
fn stretch(config: &Config, factor: f64) -> f64 {
    let sections = ["rope_parameters", "rope_scaling"];
    let all = sections.iter().find_map(|section| config.value(section)?.get("mscale_all_dim")?.as_f64());
    all.filter(|_| factor > 1.0).map_or(1.0, |all| 0.1 * all * factor.ln() + 1.0)
}
