//! DBRX: layer norms without biases, fused and clipped projections, and experts of which each matrix kind is one tensor; names of its own
//! for everything.
//!
//! The rotary base is that of the whole configuration, 10000 where it has none: the implementation that the golden data are from does not read
//! `attn_config.rope_theta`.
//!
//! Source: transformers 5, `models/dbrx/modeling_dbrx.py`.

use super::base::base_with;
use super::facts::factor;
use super::{Family, mixture};
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::{DecoderSpec, NormStyle};

pub(super) const FAMILY: Family = Family {
    name: "dbrx",
    hf: &["DbrxForCausalLM"],
    gguf: &["dbrx"],
    keys: &[
        ("hidden_size", "d_model"),
        ("num_attention_heads", "n_heads"),
        ("num_hidden_layers", "n_layers"),
        ("max_position_embeddings", "max_seq_len"),
        ("num_key_value_heads", "attn_config.kv_n_heads"),
        ("clip_qkv", "attn_config.clip_qkv"),
        ("intermediate_size", "ffn_config.ffn_hidden_size"),
        ("num_experts", "ffn_config.moe_num_experts"),
        ("num_experts_per_tok", "ffn_config.moe_top_k"),
        (NORM, "ffn_config.moe_normalize_expert_weights"),
        ("hidden_act", "ffn_config.ffn_act_fn.name"),
    ],
    spec,
    names: Names {
        hf: Layout {
            layers: "transformer.blocks",
            layer: &[
                Place::new("input_layernorm", "norm_attn_norm.norm_1"),
                Place::new("post_attention_layernorm", "norm_attn_norm.norm_2"),
                Place::part("self_attn.q_proj", "norm_attn_norm.attn.Wqkv", Part::Query),
                Place::part("self_attn.k_proj", "norm_attn_norm.attn.Wqkv", Part::Key),
                Place::part("self_attn.v_proj", "norm_attn_norm.attn.Wqkv", Part::Value),
                Place::new("self_attn.o_proj", "norm_attn_norm.attn.out_proj"),
                Place::new("mlp.gate", "ffn.router.layer"),
                Place::new("mlp.experts.*.gate_proj.weight", "ffn.experts.mlp.w1").stacked(),
                Place::new("mlp.experts.*.up_proj.weight", "ffn.experts.mlp.v1").stacked(),
                Place::new("mlp.experts.*.down_proj.weight", "ffn.experts.mlp.w2").stacked().transposed(),
            ],
            model: &[
                Place::new("model.embed_tokens", "transformer.wte"),
                Place::new("model.norm", "transformer.norm_f"),
            ],
            pairs: false,
        },
        gguf: Layout { layer: &[Place::new("post_attention_layernorm", "attn_output_norm")], ..Layout::GGUF },
        ..Names::STANDARD
    },
};

/// Which norm the chosen affinities are divided by: the first, their sum, or none.
const NORM: &str = "moe_normalize_expert_weights";

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &[&mixture::COUNTS[..], &["clip_qkv"]].concat())?;
    let clip = factor(config, "clip_qkv")?;
    for layer in &mut spec.layers {
        layer.attention.clip = clip;
    }
    config.refuse(&[(NORM, 1.0)])?;
    // No key means the class's default, null means none. GGUF files do not say it.
    let normalise = config.container() == Container::Gguf || !config.mentions(NORM) || config.has(NORM);
    mixture::put(&mut spec, mixture::mixture(config, normalise)?, |_| true);
    Ok(DecoderSpec { norm: NormStyle::layer(1e-5, false), ..spec })
}
