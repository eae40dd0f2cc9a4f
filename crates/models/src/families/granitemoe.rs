//! Granite 3 MoE: Granite with experts, gates and what they meet stacked in one tensor; affinities are a softmax of the chosen.
//!
//! Source: transformers `models/granitemoe/modeling_granitemoe.py`.

use super::base::base_with;
use super::{Family, granite, mixture};
use crate::config::{Config, ConfigError};
use crate::names::{Layout, Names, Part, Place};
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "granitemoe",
    hf: &["GraniteMoeForCausalLM"],
    gguf: &["granitemoe"],
    keys: &[],
    spec,
    names: Names {
        hf: Layout {
            layer: &[
                Place::new("mlp.gate", "block_sparse_moe.router.layer"),
                Place::part("mlp.experts.*.gate_proj.weight", FUSED, Part::First).stacked(),
                Place::part("mlp.experts.*.up_proj.weight", FUSED, Part::Second).stacked(),
                Place::new("mlp.experts.*.down_proj.weight", "block_sparse_moe.output_linear.weight").stacked(),
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
    mixture::put(&mut spec, mixture::mixture(config, true)?, |_| true);
    Ok(spec)
}
