//! Llama 4, text: neighbouring pairs are rotated, in layers that see a chunk of the context; every fourth layer sees all of it, knows no
//! positions, and sharpens with them. Queries and keys are normed without weights after the rotation. Experts take an input that is weighed
//! by a sigmoid, beside a shared expert.
//!
//! Source: transformers `models/llama4/modeling_llama4.py`.

use super::base::base_with;
use super::smollm3::rotated_layers;
use super::{Family, mixture};
use crate::config::{Config, ConfigError, Container};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::{DecoderSpec, FeedForwardSpec, MoeSpec, NormStyle, QkNorm, QkNormOver, SharedExpertSpec};
use nxd_ops::{RouterSpec, Score, Temperature, TopKRouter, Weighing};

pub(super) const FAMILY: Family = Family {
    name: "llama4",
    hf: &["Llama4ForConditionalGeneration", "Llama4ForCausalLM"],
    gguf: &["llama4"],
    keys: &[],
    spec,
    names: Names {
        hf: Layout {
            layer: &[
                Place::new("mlp.gate", "feed_forward.router"),
                Place::part("mlp.experts.*.gate_proj.weight", FUSED, Part::First).stacked().transposed(),
                Place::part("mlp.experts.*.up_proj.weight", FUSED, Part::Second).stacked().transposed(),
                Place::new("mlp.experts.*.down_proj.weight", "feed_forward.experts.down_proj").stacked().transposed(),
                Place::new("mlp.shared_expert.gate_proj", "feed_forward.shared_expert.gate_proj"),
                Place::new("mlp.shared_expert.up_proj", "feed_forward.shared_expert.up_proj"),
                Place::new("mlp.shared_expert.down_proj", "feed_forward.shared_expert.down_proj"),
                Place::new("mlp.gate_proj", "feed_forward.gate_proj"),
                Place::new("mlp.up_proj", "feed_forward.up_proj"),
                Place::new("mlp.down_proj", "feed_forward.down_proj"),
            ],
            pairs: true,
            ..Layout::DECLARED
        },
        gguf: Layout { pairs: true, ..Layout::GGUF },
        ..Names::STANDARD
    },
};

const FUSED: &str = "feed_forward.experts.gate_up_proj";

/// Tokens of a chunk in all models so far; GGUF files do not say it.
const GGUF_CHUNK: usize = 8192;

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let implemented = [&mixture::COUNTS[..], &["attention_chunk_size", "use_qk_norm"]].concat();
    let mut spec = base_with(config, &implemented)?;
    let bias = config.flag("attention_bias", false)?;
    let output_bias = config.flag("attention_output_bias", bias)?;
    let is_gguf = config.container() == Container::Gguf;
    let mut chunk = config.optional_size("attention_chunk_size")?;
    if is_gguf {
        chunk = Some(GGUF_CHUNK);
    }
    let norm = NormStyle { weight: false, ..spec.norm };
    // GGUF files do not say it: Maverick, which has 128 experts, is the one without.
    let has_norm = !is_gguf || config.whole("num_experts", 0..=mixture::MAX_EXPERTS)? != Some(128);
    let qk_norm =
        config.flag("use_qk_norm", has_norm)?.then_some(QkNorm { norm, over: QkNormOver::Head, after_rope: true });
    let temperature = match config.flag("attn_temperature_tuning", true)? {
        true => Some(Temperature {
            floor: config.optional_size("floor_scale")?.unwrap_or(8192),
            scale: config.positive("attn_scale", 0.1)? as f32,
        }),
        false => None,
    };
    let mut rotated = rotated_layers(config, spec.layers.len(), 4)?;
    if is_gguf && config.mentions("sliding_window") && !config.has("sliding_window") {
        // A window of nothing means that all layers see everything and rotate.
        (chunk, rotated) = (None, vec![true; rotated.len()]);
    }
    // In GGUF files the usual key has it.
    let dense_size = config.optional_size("intermediate_size_mlp")?;
    for (layer, rotated) in spec.layers.iter_mut().zip(rotated) {
        let attention = &mut layer.attention;
        (attention.qkv_bias, attention.output_bias) = (bias, output_bias);
        if rotated {
            (attention.qk_norm, attention.chunk) = (qk_norm, chunk);
        } else {
            (attention.rope, attention.temperature) = (None, temperature);
        }
        if let FeedForwardSpec::Dense(mlp) = &mut layer.mlp {
            mlp.intermediate_size = dense_size.unwrap_or(mlp.intermediate_size);
        }
    }
    let moe = mixture::mixture(config, false)?;
    let top_k = config.size("num_experts_per_tok")?;
    let moe = MoeSpec {
        weighing: Weighing::Input,
        router: RouterSpec::TopK(TopKRouter::new(Score::Sigmoid, top_k)),
        shared: Some(SharedExpertSpec { intermediate_size: moe.intermediate_size, weighed: false }),
        ..moe
    };
    let listed = config.numbers("moe_layers")?;
    let step = config.whole("interleave_moe_layer_step", 1..=4096)?.unwrap_or(1);
    mixture::put(&mut spec, moe, |layer| match &listed {
        Some(layers) => layers.contains(&(layer as u64)),
        None => (layer + 1).is_multiple_of(step),
    });
    Ok(spec)
}
