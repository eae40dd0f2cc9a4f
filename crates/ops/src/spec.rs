//! The specs of ops: what varies between models, as data.

use std::sync::Arc;

/// Handle of a declared rotary embedding; an index into [`crate::Manifest::ropes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rope(pub u32);

/// Handle of a layer's KV cache; an index into [`crate::Manifest::kv_layers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvLayer(pub u32);

/// A norm over groups of `width` neighbouring columns: `(x - c) / sqrt(mean((x - c)²) + eps) * (weight + offset) + bias`, where `c` is the
/// group's mean or 0.
///
/// Source: Zhang & Sennrich, arXiv:1910.07467, eq. 4; Ba et al., arXiv:1607.06450, eq. 4. `offset` is 1 where checkpoints store the weight's distance
/// from one (Gemma).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// What is subtracted first.
    pub centre: Centre,
    /// The weight: one value for each column of a group, `[width]`, or for each column of the row; `None` for ones.
    pub weight: Option<crate::Weight>,
    /// Added last, as long as the weight.
    pub bias: Option<crate::Weight>,
    /// Columns normalised together: the hidden size, or head_dim for norms of each head.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight.
    pub offset: f32,
    /// Where a group is a whole row whose columns are spread over ranks; `None` where ranks have whole groups.
    pub spread: Option<Spread>,
}

impl NormSpec {
    /// The root-mean-square norm that most models have, with a weight of `width` values.
    pub const fn rms(weight: crate::Weight, width: usize, eps: f32) -> Self {
        let (centre, weight) = (Centre::Zero, Some(weight));
        NormSpec { centre, weight, bias: None, width, eps, offset: 0.0, spread: None }
    }
}

/// What a norm measures from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Centre {
    /// Zero: a root-mean-square norm.
    Zero,
    /// The mean of the group: a layer norm.
    Mean,
}

/// A row whose columns are spread over the ranks of an axis. Padding is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The axis.
    pub axis: nxd_collectives::Axis,
    /// On how many ranks each column is.
    pub copies: usize,
}

/// A function of single values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Map {
    /// An activation.
    Activation(Gated),
    /// Cut off at ± the limit.
    Clamp(f32),
    /// `cap · tanh(x / cap)`.
    SoftCap(f32),
}

/// A factor that grows with a row's position `p`: `1 + scale · ln(1 + floor((p + 1) / floor))`, so that attention stays sharp over long contexts.
///
/// Source: `attn_temperature_tuning` of transformers' `modeling_llama4.py`; Nakanishi, arXiv:2501.19399.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// Positions between two steps of the factor.
    pub floor: usize,
    /// How fast it grows.
    pub scale: f32,
}

impl Temperature {
    /// The factor at a position.
    pub fn at(&self, position: u32) -> f32 {
        let steps = ((f64::from(position) + 1.0) / self.floor as f64).floor();
        (1.0 + f64::from(self.scale) * (1.0 + steps).ln()) as f32
    }
}

/// The activation of a gated MLP: `gated(g, u) = act(g) * u`.
///
/// Source: Shazeer, arXiv:2002.05202.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gated {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Φ(x)`, with the error function.
    Gelu,
    /// The tanh approximation of GELU (Hendrycks & Gimpel, arXiv:1606.08415).
    GeluTanh,
    /// `max(x, 0)²` (So et al., arXiv:2109.08668).
    Relu2,
    /// `g * sigmoid(1.702 g) * (u + 1)`, of a gate `g` of at most `limit` and a `u` within `± limit`.
    ///
    /// Source: OpenAI, arXiv:2508.10925; `_apply_gate` of transformers' `modeling_gpt_oss.py`.
    Clamped {
        /// The limit.
        limit: f32,
    },
}

/// Rotary position embedding over the first `rotary_dim` values of each head; value `i` pairs with value `i + rotary_dim / 2`.
///
/// Source: Su et al., arXiv:2104.09864; the pairing of halves follows GPT-NeoX.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Values a head.
    pub head_dim: usize,
    /// Values a head that are rotated; even, at most `head_dim`.
    pub rotary_dim: usize,
    /// Base of the geometric series of frequencies (`rope_theta`).
    pub theta: f64,
    /// How frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// How a model stretches its frequencies beyond the trained context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by `factor` (position interpolation, arXiv:2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the request's length beyond `max_position_embeddings`.
    DynamicNtk {
        /// `factor` of the configuration.
        factor: f64,
        /// The trained context.
        max_position_embeddings: usize,
    },
    /// Low frequencies divided by `factor`, high ones kept, a smooth step between (Llama 3.1).
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The trained context.
        original_max_position_embeddings: usize,
    },
    /// YaRN (arXiv:2309.00071): a ramp over dimensions between interpolated and kept frequencies; cos and sin scaled.
    Yarn {
        /// The divisor of interpolated frequencies.
        factor: f64,
        /// The trained context.
        original_max_position_embeddings: usize,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is interpolated.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
        /// Multiplies cos and sin.
        attention_factor: f64,
    },
    /// LongRoPE (arXiv:2402.13753): one divisor a dimension, another set for requests longer than the trained context.
    LongRope {
        /// Divisors up to the trained context, `[rotary_dim / 2]`.
        short_factor: Arc<[f64]>,
        /// Divisors beyond it, `[rotary_dim / 2]`.
        long_factor: Arc<[f64]>,
        /// The trained context.
        original_max_position_embeddings: usize,
        /// Multiplies cos and sin.
        attention_factor: f64,
    },
    /// One divisor a dimension at every length (`rope_freqs.weight` of GGUF files), `[rotary_dim / 2]`.
    Factors(Arc<[f64]>),
}

impl RopeSpec {
    /// The frequencies `[rotary_dim / 2]` (radians a position) of a request of `rope_len` tokens, and the factor on cos and sin.
    ///
    /// Source: `modeling_rope_utils.py` of transformers.
    pub fn frequencies(&self, rope_len: u32) -> (Vec<f32>, f32) {
        let dim = self.rotary_dim as f64;
        let half = self.rotary_dim / 2;
        let series = |theta: f64| (0..half).map(move |i| 1.0 / theta.powf(2.0 * i as f64 / dim));
        let divided = |by: &[f64]| series(self.theta).zip(by).map(|(f, d)| (f / d) as f32).collect();
        match &self.scaling {
            RopeScaling::None => (series(self.theta).map(|f| f as f32).collect(), 1.0),
            RopeScaling::Linear { factor } => (series(self.theta).map(|f| (f / factor) as f32).collect(), 1.0),
            RopeScaling::DynamicNtk { factor, max_position_embeddings } => {
                let (len, max) =
                    (f64::from(rope_len).max(*max_position_embeddings as f64), *max_position_embeddings as f64);
                let theta = self.theta * (factor * len / max - (factor - 1.0)).powf(dim / (dim - 2.0));
                (series(theta).map(|f| f as f32).collect(), 1.0)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = *original_max_position_embeddings as f64;
                let scaled = series(self.theta).map(|f| {
                    let wavelength = 2.0 * std::f64::consts::PI / f;
                    if wavelength < original / high_freq_factor {
                        f as f32
                    } else if wavelength > original / low_freq_factor {
                        (f / factor) as f32
                    } else {
                        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        ((1.0 - smooth) * f / factor + smooth * f) as f32
                    }
                });
                (scaled.collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor,
            } => {
                let original = *original_max_position_embeddings as f64;
                // The dimension that turns `rotations` times over the trained context.
                let dimension = |rotations: f64| {
                    dim * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low >= high {
                    high = low + 0.001; // as the source: no division by zero
                }
                let blended = series(self.theta).enumerate().map(|(i, f)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (f / factor * ramp + f * (1.0 - ramp)) as f32
                });
                (blended.collect(), *attention_factor as f32)
            }
            RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings, attention_factor } => {
                let long = rope_len as usize > *original_max_position_embeddings;
                (divided(if long { long_factor } else { short_factor }), *attention_factor as f32)
            }
            RopeScaling::Factors(factors) => (divided(factors), 1.0),
        }
    }

    /// Whether the frequencies depend on the request's length.
    pub fn depends_on_length(&self) -> bool {
        self.lengths_differ_from().is_some()
    }

    /// The length up to which all requests have the same frequencies; `None` where the length does not matter.
    pub fn lengths_differ_from(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::DynamicNtk { max_position_embeddings, .. } => Some(max_position_embeddings),
            RopeScaling::LongRope { original_max_position_embeddings, .. } => Some(original_max_position_embeddings),
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::Factors(_) => None,
        }
    }
}

/// What a layer keeps of each token, on one rank. Layers with equal specs form a KV group and share block tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvSpec {
    /// KV heads on each rank, padding included.
    pub num_kv_heads: usize,
    /// Values of a head's key.
    pub head_dim: usize,
    /// Where a head's value comes from.
    pub values: Values,
    /// Tokens that stay visible, the row's own included; `None` for all of them.
    pub window: Option<usize>,
}

/// Where the values of a KV layer come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Values {
    /// They are kept beside the keys, and are as wide.
    Own,
    /// The first columns of each key, this many: nothing is kept beside the keys. So one compressed row of a token serves all query heads
    /// as key and as value.
    OfKeys(usize),
}

impl KvSpec {
    /// Values of a head's value: what a query head gets.
    pub const fn value_dim(&self) -> usize {
        match self.values {
            Values::Own => self.head_dim,
            Values::OfKeys(columns) => columns,
        }
    }
}

/// Scaled dot-product attention of a step's rows over their requests' cached K and V, causal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttendSpec {
    /// Query heads on each rank, padding included; a multiple of the layer's KV heads.
    pub num_heads: usize,
    /// Multiplies the scores before the softmax.
    pub scale: f32,
    /// Bends each scaled score `s` to `cap · tanh(s / cap)`, so that none is beyond the cap.
    pub softcap: Option<f32>,
    /// A vector of one logit a query head, which takes part in the softmax's sum and has no value: a row may attend to nothing.
    pub sinks: Option<crate::Weight>,
    /// Tokens of a chunk, where the context is cut into such from its start on and rows see none but their own. The layer's window is at
    /// least as long.
    pub chunk: Option<usize>,
}

impl AttendSpec {
    /// Attention without a cap and without sinks.
    pub const fn new(num_heads: usize, scale: f32) -> Self {
        AttendSpec { num_heads, scale, softcap: None, sinks: None, chunk: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_are_the_same_up_to_the_length_that_is_said_and_no_further() {
        let dynamic = RopeScaling::DynamicNtk { factor: 2.0, max_position_embeddings: 80 };
        let long = RopeScaling::LongRope {
            short_factor: [1.0; 4].into(),
            long_factor: [2.0; 4].into(),
            original_max_position_embeddings: 80,
            attention_factor: 1.0,
        };
        for scaling in [dynamic, long] {
            let spec = RopeSpec { head_dim: 8, rotary_dim: 8, theta: 1e4, scaling };
            assert_eq!(spec.lengths_differ_from(), Some(80));
            assert_eq!(spec.frequencies(1), spec.frequencies(80));
            assert_ne!(spec.frequencies(80), spec.frequencies(81));
        }
        let plain = RopeSpec { head_dim: 8, rotary_dim: 8, theta: 1e4, scaling: RopeScaling::None };
        assert_eq!(plain.lengths_differ_from(), None);
    }
}
