//! EXAONE 4: norms after attention and MLP alone, norms on query and key heads; the larger ones with sliding layers, and no positions in their
//! global ones.
//!
//! Source: transformers `models/exaone4/modeling_exaone4.py`; arXiv:2507.11407.

use super::Family;
use super::base::base;
use super::facts::sliding_layers;
use crate::config::{Config, ConfigError};
use nxd_modules::{DecoderSpec, NormPlacement, QkNorm, QkNormOver};

pub(super) const FAMILY: Family = Family {
    name: "exaone4",
    hf: &["Exaone4ForCausalLM"],
    gguf: &["exaone4"],
    keys: &[],
    spec,
    names: super::olmo::NAMES,
};

fn spec(config: &Config) -> Result<DecoderSpec, ConfigError> {
    let mut spec = base(config)?;
    let num_layers = spec.layers.len();
    let window = config.optional_size("sliding_window")?;
    // `LLLG`, or a count: the last layer of each round is global.
    let pattern = match config.value("sliding_window_pattern").and_then(|value| value.as_str()) {
        Some(letters) => letters.len().max(1),
        None => config.optional_size("sliding_window_pattern")?.unwrap_or(4),
    };
    let is_sliding = |layer: usize| window.is_some() && !(layer + 1).is_multiple_of(pattern) && layer + 1 != num_layers;
    let sliding = sliding_layers(config, num_layers, is_sliding)?;
    let norm = QkNorm { norm: spec.norm, over: QkNormOver::Head, after_rope: false };
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        let attention = &mut layer.attention;
        attention.qk_norm = Some(norm);
        attention.rope = attention.rope.take().filter(|_| sliding || window.is_none());
        attention.window = window.filter(|_| sliding);
    }
    Ok(DecoderSpec { norm_placement: NormPlacement::Post, ..spec })
}
