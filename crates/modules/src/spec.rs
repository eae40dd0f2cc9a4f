//! What a decoder is made of, as data: the result of reading a model's configuration.

use nxd_ops::{Gated, RopeSpec};

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

/// One layer: attention, then MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Its attention.
    pub attention: AttentionSpec,
    /// Its MLP.
    pub mlp: MlpSpec,
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
    /// The rotation by position.
    pub rope: RopeSpec,
    /// Tokens that a row sees, its own included; `None` for all before it.
    pub window: Option<usize>,
    /// How keys and values are compressed; `None` where each KV head has its own. With it all query heads share one KV row a token,
    /// `head_dim` counts both parts of a query head, and the biases of query, key and value are those of the compressing projections.
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
    pub norm: RmsNormSpec,
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
