//! StarCoder2: layer norms and projections with biases, an ungated MLP, and a sliding window in every layer.
//!
//! Source: transformers `models/starcoder2/modeling_starcoder2.py`; arXiv:2402.19173.

use super::Family;
use super::base::base;
use super::facts::activation;
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names, Place};
use nxd_modules::{DecoderSpec, HeadSpec, NormStyle};
use nxd_ops::Gated;

pub(super) const FAMILY: Family = Family {
    name: "starcoder2",
    hf: &["Starcoder2ForCausalLM"],
    gguf: &["starcoder2"],
    keys: &[],
    spec,
    names: Names {
        hf: Layout {
            layer: &[Place::new("mlp.up_proj", "mlp.c_fc"), Place::new("mlp.down_proj", "mlp.c_proj")],
            ..Layout::DECLARED
        },
        ..Names::STANDARD
    },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let bias = config.flag("use_bias", true)?;
    let window = config.optional_size("sliding_window")?;
    let activation = activation(config, "hidden_act", Gated::GeluTanh)?;
    let (qkv_bias, output_bias) = (config.flag("attention_bias", bias)?, config.flag("attention_output_bias", bias)?);
    let mlp_bias = config.flag("mlp_bias", bias)?;
    for layer in &mut spec.layers {
        let attention = &mut layer.attention;
        (attention.qkv_bias, attention.output_bias, attention.window) = (qkv_bias, output_bias, window);
        layer.mlp.change(|mlp| (mlp.gated, mlp.bias, mlp.activation) = (false, mlp_bias, activation));
    }
    let is_gguf = config.container() == Container::Gguf;
    Ok(DecoderSpec {
        norm: NormStyle::layer(spec.norm.eps, true),
        head: HeadSpec { tied: config.flag("tie_word_embeddings", !is_gguf)?, ..spec.head },
        ..spec
    })
}
