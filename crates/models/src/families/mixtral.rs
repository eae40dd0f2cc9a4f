//! Mixtral: Mistral without a window, with experts in the place of the MLP; the chosen affinities sum to one.
//!
//! Source: transformers `models/mixtral/modeling_mixtral.py`; arXiv:2401.04088. GGUF files of Mixtral models name themselves `llama`.

use super::base::base_with;
use super::{Family, mixture};
use crate::config::{Config, ConfigError};
use crate::names::Names;
use nxd_modules::DecoderSpec;

pub(super) const FAMILY: Family = Family {
    name: "mixtral",
    hf: &["MixtralForCausalLM"],
    gguf: &[],
    keys: &[],
    spec,
    names: Names { hf: mixture::W1_W2_W3, ..Names::STANDARD },
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base_with(config, &mixture::COUNTS)?;
    let window = config.optional_size("sliding_window")?;
    spec.layers.iter_mut().for_each(|layer| layer.attention.window = window);
    mixture::put(&mut spec, mixture::mixture(config, true)?, |_| true);
    Ok(spec)
}
