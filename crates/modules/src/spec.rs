//! What a decoder is made of, as data: the result of reading a model's configuration.

use nxd_ops::{Centre, Gated, RopeSpec, RouterSpec, Temperature, Weighing};

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Rows of the embedding and of the LM head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest context that the model was configured for.
    pub max_position_embeddings: usize,
    /// Whether a learned vector of its position, of which there are `max_position_embeddings`, is added to each embedded token.
    pub learned_positions: bool,
    /// Multiplies the embedded tokens.
    pub embedding_scale: Option<f32>,
    /// All norms of the residual stream.
    pub norm: NormStyle,
    /// Where a block's norms stand.
    pub norm_placement: NormPlacement,
    /// Multiplies what attention and MLP add to the residual stream.
    pub residual_scale: Option<f32>,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
    /// From the last norm to logits.
    pub head: HeadSpec,
}

/// The LM head.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadSpec {
    /// Whether its matrix is the embedding's table.
    pub tied: bool,
    /// Whether it has a bias.
    pub bias: bool,
    /// Multiplies the logits.
    pub scale: Option<f32>,
    /// Bends each scaled logit `x` to `cap · tanh(x / cap)`.
    pub softcap: Option<f32>,
}

/// One layer: attention, and MLP or experts.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Its attention.
    pub attention: AttentionSpec,
    /// Its MLP or experts.
    pub mlp: FeedForwardSpec,
}

/// What stands behind a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FeedForwardSpec {
    /// One MLP for every row.
    Dense(MlpSpec),
    /// A mixture of experts.
    Moe(MoeSpec),
}

impl FeedForwardSpec {
    /// Changes the MLP, if it is one.
    pub fn change(&mut self, change: impl FnOnce(&mut MlpSpec)) {
        if let FeedForwardSpec::Dense(mlp) = self {
            change(mlp);
        }
    }

    /// How many experts there are; none in an MLP.
    pub fn num_experts(&self) -> usize {
        match self {
            FeedForwardSpec::Dense(_) => 0,
            FeedForwardSpec::Moe(moe) => moe.num_experts,
        }
    }
}

/// A mixture of experts, each a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoeSpec {
    /// How many there are.
    pub num_experts: usize,
    /// Columns between an expert's projections.
    pub intermediate_size: usize,
    /// The activation of gates.
    pub activation: Gated,
    /// Whether the experts' projections have a bias.
    pub bias: bool,
    /// What affinities multiply.
    pub weighing: Weighing,
    /// How rows choose. Its correction is declared by the module.
    pub router: RouterSpec,
    /// Whether the router has a bias.
    pub router_bias: bool,
    /// Whether the router corrects its choice by a vector ([`nxd_ops::TopKRouter::correction`]).
    pub correction: bool,
    /// An expert that every row takes besides.
    pub shared: Option<SharedExpertSpec>,
}

/// An expert that every row takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpertSpec {
    /// Columns between its projections.
    pub intermediate_size: usize,
    /// Whether its result is multiplied with the sigmoid of a product of the row.
    pub weighed: bool,
}

/// Multi-head attention with grouped KV heads.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub num_heads: usize,
    /// KV heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Multiplies the scores before the softmax.
    pub scale: f32,
    /// Bends each scaled score `s` to `cap · tanh(s / cap)`.
    pub softcap: Option<f32>,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Cuts queries, keys and values off at ± this, before the rotation.
    pub clip: Option<f32>,
    /// Norm of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// The rotation by position; `None` where a layer knows no positions.
    pub rope: Option<RopeSpec>,
    /// Makes queries grow with their position.
    pub temperature: Option<Temperature>,
    /// Tokens that a row sees, its own included; `None` for all before it.
    pub window: Option<usize>,
    /// Tokens of a chunk, where the context is cut into such from its start on and rows see none but their own.
    pub chunk: Option<usize>,
    /// Whether each head has a learned logit that takes part in the softmax and has no value.
    pub sinks: bool,
    /// How keys and values are compressed; `None` where each KV head has its own. With it all query heads share one KV row a token,
    /// `head_dim` counts both parts of a query head, and the biases of query, key and value are those of the compressing projections;
    /// it has no clip, norm of heads, temperature, chunk and sinks.
    pub latent: Option<LatentSpec>,
}

/// Latent attention: keys and values of all heads come from one row of `kv_lora_rank` values a token, and a part of the keys that carries
/// the positions and is the same for every head.
///
/// Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentSpec {
    /// Values of compressed queries; `None` where queries are not compressed.
    pub q_lora_rank: Option<usize>,
    /// Values of a compressed row of keys and values.
    pub kv_lora_rank: usize,
    /// Values of a query head without positions.
    pub qk_nope_head_dim: usize,
    /// Values of a query head that are rotated; the rope's head_dim.
    pub qk_rope_head_dim: usize,
    /// Values of a head's value.
    pub v_head_dim: usize,
    /// Norm of what is compressed.
    pub norm: NormStyle,
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QkNorm {
    /// The norm.
    pub norm: NormStyle,
    /// What is normalised together.
    pub over: QkNormOver,
    /// Whether the rotation comes first.
    pub after_rope: bool,
}

/// What a norm of queries or keys is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormOver {
    /// Each head, with one weight for all.
    Head,
    /// Each head, with a weight of its own.
    OwnHead,
    /// All heads together.
    Projection,
}

/// An MLP: `down(act(gate(x)) * up(x))`, or `down(act(up(x)))` without a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlpSpec {
    /// Columns between the projections.
    pub intermediate_size: usize,
    /// The activation.
    pub activation: Gated,
    /// Whether there is a gate.
    pub gated: bool,
    /// Whether the projections have a bias.
    pub bias: bool,
}

/// How a norm computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormStyle {
    /// What is subtracted first.
    pub centre: Centre,
    /// Added to the mean square.
    pub eps: f32,
    /// Whether it has a weight.
    pub weight: bool,
    /// Added to the stored weight: 1 where checkpoints store its distance from one.
    pub offset: f32,
    /// Whether it has a bias.
    pub bias: bool,
}

impl NormStyle {
    /// A root-mean-square norm.
    pub const fn rms(eps: f32) -> Self {
        NormStyle { centre: Centre::Zero, eps, weight: true, offset: 0.0, bias: false }
    }

    /// A layer norm.
    pub const fn layer(eps: f32, bias: bool) -> Self {
        NormStyle { centre: Centre::Mean, bias, ..NormStyle::rms(eps) }
    }
}

/// Where the norms of a block stand relative to attention and MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before each.
    Pre,
    /// After each, inside the residual connection.
    Post,
    /// Before and after each, inside the residual connection.
    Sandwich,
    /// One before both, which work side by side on the same input.
    Parallel,
}
