//! Granite 3 MoE: Granite with experts, gates and what they meet stacked in one tensor; affinities are a softmax of the chosen. Some models have a
//! shared expert besides.
//!
//! Source: transformers `models/granitemoe/modeling_granitemoe.py`, `models/granitemoeshared/modeling_granitemoeshared.py`.

use super::base::base_with;
use super::{Family, granite, mixture};
use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::{DecoderSpec, MoeSpec, SharedExpertSpec};

pub(super) const FAMILY: Family = Family {
    name: "granitemoe",
    hf: &["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"],
    gguf: &["granitemoe"],
    keys: &[("shared_expert_intermediate_size", "shared_intermediate_size")],
    spec,
    names: Names {
        hf: Layout {
            layer: &[
                Place::new("mlp.gate", "block_sparse_moe.router.layer"),
                Place::part("mlp.experts.*.gate_proj.weight", FUSED, Part::First).stacked(),
                Place::part("mlp.experts.*.up_proj.weight", FUSED, Part::Second).stacked(),
                Place::new("mlp.experts.*.down_proj.weight", "block_sparse_moe.output_linear.weight").stacked(),
                Place::part("mlp.shared_expert.gate_proj", "shared_mlp.input_linear", Part::First),
                Place::part("mlp.shared_expert.up_proj", "shared_mlp.input_linear", Part::Second),
                Place::new("mlp.shared_expert.down_proj", "shared_mlp.output_linear"),
            ],
            ..Layout::DECLARED
        },
        gguf: Layout { pairs: true, ..Layout::GGUF },
        ..Names::STANDARD
    },
};

const FUSED: &str = "block_sparse_moe.input_linear.weight";

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let implemented = [&granite::FACTORS[..], &mixture::COUNTS].concat();
    let mut spec = granite::scaled(config, base_with(config, &implemented)?)?;
    let shared = config.whole("shared_expert_intermediate_size", 0..=1 << 28)?.filter(|&size| size > 0);
    let shared = shared.map(|intermediate_size| SharedExpertSpec { intermediate_size, weighed: false });
    mixture::put(&mut spec, MoeSpec { shared, ..mixture::mixture(config, true)? }, |_| true);
    Ok(spec)
}
