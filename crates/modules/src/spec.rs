//! What a decoder is made of, as data: the result of reading a model's configuration.

use nxd_ops::{Gated, RopeSpec, RouterSpec, Weighing};

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Rows of the embedding and of the LM head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest context that the model was configured for.
    pub max_position_embeddings: usize,
    /// Multiplies the embedded tokens.
    pub embedding_scale: Option<f32>,
    /// Whether the LM head is the embedding's table.
    pub tie_word_embeddings: bool,
    /// All norms of the residual stream.
    pub norm: RmsNormSpec,
    /// Where a block's norms stand.
    pub norm_placement: NormPlacement,
    /// The layers, first to last.
    pub layers: Vec<LayerSpec>,
}

/// One layer: attention, then MLP or experts.
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
    /// The MLP, if it is one.
    pub fn dense_mut(&mut self) -> Option<&mut MlpSpec> {
        match self {
            FeedForwardSpec::Dense(mlp) => Some(mlp),
            FeedForwardSpec::Moe(_) => None,
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

/// Multi-head attention with grouped KV heads and rotary positions.
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
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Norm of each query and key head, before the rotation.
    pub qk_norm: Option<RmsNormSpec>,
    /// Whether each query head has a logit of its own that takes part in the softmax and has no value.
    pub sinks: bool,
    /// The rotation by position.
    pub rope: RopeSpec,
    /// Tokens that a row sees, its own included; `None` for all before it.
    pub window: Option<usize>,
}

/// A gated MLP: `down(act(gate(x)) * up(x))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlpSpec {
    /// Columns between the projections.
    pub intermediate_size: usize,
    /// The activation of the gate.
    pub activation: Gated,
    /// Whether the projections have a bias.
    pub bias: bool,
}

/// A root-mean-square norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormSpec {
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the stored weight: 1 where checkpoints store its distance from one.
    pub offset: f32,
}

/// Where the norms of a block stand relative to attention and MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before each.
    Pre,
    /// Before and after each, inside the residual connection.
    Sandwich,
}
