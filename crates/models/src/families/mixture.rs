//! What families with experts share: how many there are, how many a row takes, and which layers have them.

use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::{DecoderSpec, FeedForwardSpec, MoeSpec};
use nxd_ops::{Gated, RouterSpec, Score, TopKRouter, Weighing};

/// Keys that say how many experts there are.
pub(super) const COUNTS: [&str; 2] = ["num_experts", "num_local_experts"];

/// Mixtral's names.
pub(super) const W1_W2_W3: Layout = Layout {
    layer: &[
        Place::new("mlp.gate", "block_sparse_moe.gate"),
        Place::new("mlp.experts.*.gate_proj", "block_sparse_moe.experts.*.w1"),
        Place::new("mlp.experts.*.up_proj", "block_sparse_moe.experts.*.w3"),
        Place::new("mlp.experts.*.down_proj", "block_sparse_moe.experts.*.w2"),
    ],
    ..Layout::DECLARED
};

/// The names of families whose experts are stored one by one, or stacked.
pub(super) const NAMES: Names = Names {
    hf: Layout {
        layer: &[
            Place::new("mlp.experts.*.gate_proj", "mlp.experts.*.gate_proj"),
            Place::new("mlp.experts.*.up_proj", "mlp.experts.*.up_proj"),
            Place::new("mlp.experts.*.down_proj", "mlp.experts.*.down_proj"),
            Place::part("mlp.experts.*.gate_proj.weight", "mlp.experts.gate_up_proj", Part::First).stacked(),
            Place::part("mlp.experts.*.up_proj.weight", "mlp.experts.gate_up_proj", Part::Second).stacked(),
            Place::new("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj").stacked(),
        ],
        ..Layout::DECLARED
    },
    ..Names::STANDARD
};

/// More experts than any model has in a layer.
pub(super) const MAX_EXPERTS: usize = 4096;

/// Experts with the MLP's activation, and its width unless they have one of their own; the best ones by a softmax of all, whose affinities are divided by
/// their sum where `normalise` says so.
pub(super) fn mixture(config: &Config, normalise: bool) -> Result<MoeSpec, ConfigError> {
    let key = if config.has("num_local_experts") { "num_local_experts" } else { "num_experts" };
    let num_experts = config.whole(key, 1..=MAX_EXPERTS)?.ok_or_else(|| config.missing(key))?;
    let top_k = config.whole("num_experts_per_tok", 1..=num_experts)?;
    let top_k = top_k.ok_or_else(|| config.missing("num_experts_per_tok"))?;
    let intermediate_size = match config.optional_size("moe_intermediate_size")? {
        Some(size) => size,
        None => config.size("intermediate_size")?,
    };
    Ok(MoeSpec {
        num_experts,
        intermediate_size,
        activation: super::facts::activation(config, "hidden_act", Gated::Silu)?,
        bias: false,
        weighing: Weighing::Output,
        router: RouterSpec::TopK(TopKRouter { normalise, ..TopKRouter::new(Score::Softmax, top_k) }),
        router_bias: false,
        correction: false,
        shared: None,
    })
}

/// Puts `moe` into the layers that `is_sparse` names.
pub(super) fn put(spec: &mut DecoderSpec, moe: MoeSpec, is_sparse: impl Fn(usize) -> bool) {
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if is_sparse(i) {
            layer.mlp = FeedForwardSpec::Moe(moe);
        }
    }
}

/// Which of the layers have experts: every `decoder_sparse_step`-th, without those of `mlp_only_layers`.
pub(super) fn sparse_layers(config: &Config, num_layers: usize) -> Result<Vec<bool>, ConfigError> {
    let step = config.whole("decoder_sparse_step", 1..=4096)?.unwrap_or(1);
    let mut sparse: Vec<bool> = (0..num_layers).map(|layer| (layer + 1).is_multiple_of(step)).collect();
    let Some(dense) = config.value("mlp_only_layers") else { return Ok(sparse) };
    let wrong = || config.wrong("mlp_only_layers", dense, &format!("a list of layers below {num_layers}"));
    for layer in dense.as_array().ok_or_else(wrong)? {
        let layer = layer.as_u64().and_then(|layer| usize::try_from(layer).ok());
        *layer.and_then(|layer| sparse.get_mut(layer)).ok_or_else(wrong)? = false;
    }
    Ok(sparse)
}
