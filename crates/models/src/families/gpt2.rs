//! GPT-2: learned positions, layer norms and projections with biases, an ungated MLP; matrices are stored the other way round.
//!
//! Source: transformers `models/gpt2/modeling_gpt2.py`; Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).

use super::Family;
use super::base::base_of_width;
use super::facts::activation;
use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::{DecoderSpec, HeadSpec, NormStyle};
use nxd_ops::Gated;
use serde_json::Value;

pub(super) const FAMILY: Family = Family {
    name: "gpt2",
    hf: &["GPT2LMHeadModel"],
    gguf: &["gpt2"],
    keys: &[
        ("hidden_size", "n_embd"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
        ("max_position_embeddings", "n_positions"),
        ("intermediate_size", "n_inner"),
        ("hidden_act", "activation_function"),
    ],
    spec,
    names: Names {
        hf: Layout {
            layers: "transformer.h",
            layer: &[
                Place::new("input_layernorm", "ln_1"),
                Place::new("post_attention_layernorm", "ln_2"),
                Place::part("self_attn.q_proj", "attn.c_attn", Part::Query).transposed(),
                Place::part("self_attn.k_proj", "attn.c_attn", Part::Key).transposed(),
                Place::part("self_attn.v_proj", "attn.c_attn", Part::Value).transposed(),
                Place::new("self_attn.o_proj", "attn.c_proj").transposed(),
                Place::new("mlp.up_proj", "mlp.c_fc").transposed(),
                Place::new("mlp.down_proj", "mlp.c_proj").transposed(),
            ],
            model: &[
                Place::new("model.embed_tokens", "transformer.wte"),
                Place::new("model.embed_positions", "transformer.wpe"),
                Place::new("model.norm", "transformer.ln_f"),
            ],
            pairs: false,
        },
        gguf: Layout { model: &[Place::new("model.embed_positions", "position_embd")], ..Layout::GGUF },
        // Masks that old files hold.
        ignored: &["*.attn.bias", "*.attn.masked_bias"],
    },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"] {
        if config.flag(key, false)? {
            return Err(config.unsupported(key, &Value::from(true), "false"));
        }
    }
    let width = config.optional_size("intermediate_size")?.unwrap_or(4 * config.size("hidden_size")?);
    let mut spec = base_of_width(config, &[], width)?;
    let activation = activation(config, "hidden_act", Gated::GeluTanh)?;
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        (attention.qkv_bias, attention.output_bias, attention.rope) = (true, true, None);
        layer.mlp.change(|mlp| (mlp.gated, mlp.bias, mlp.activation) = (false, true, activation));
    }
    Ok(DecoderSpec {
        learned_positions: true,
        norm: NormStyle::layer(spec.norm.eps, true),
        head: HeadSpec { tied: config.flag("tie_word_embeddings", true)?, ..spec.head },
        ..spec
    })
}
