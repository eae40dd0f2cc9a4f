//! The decoder: embedding, layers, final norm.

use crate::attention::Attention;
use crate::feed_forward::FeedForward;
use crate::norm::Norm;
use crate::spec::{DecoderSpec, LayerSpec, NormPlacement};
use nxd_ops::{Ops, Output, Params, Rows};
use nxd_parallel::{VocabParallelEmbedding, VocabParallelHead};

/// A decoder-only transformer up to its final norm, and the LM head that a [`crate::Sampler`] uses.
#[derive(Clone, Debug)]
pub struct Decoder {
    embedding: VocabParallelEmbedding,
    embedding_scale: Option<f32>,
    layers: Vec<DecoderLayer>,
    norm: Norm,
    head: VocabParallelHead,
}

impl Decoder {
    /// Declares all weights under the names of the standard Hugging Face layout (`model.embed_tokens`, `model.layers.0` …).
    pub fn new(params: &mut Params<'_>, spec: &DecoderSpec) -> Self {
        let (vocab_size, hidden_size) = (spec.vocab_size, spec.hidden_size);
        let mut model = params.scope("model");
        let tied = spec.tie_word_embeddings;
        let embedding = VocabParallelEmbedding::new(&mut model.scope("embed_tokens"), vocab_size, hidden_size, tied);
        let mut layers = model.scope("layers");
        let layer = |(i, layer)| DecoderLayer::new(&mut layers.scope(i), hidden_size, layer, spec);
        let layers = spec.layers.iter().enumerate().map(layer).collect();
        let norm = Norm::new(&mut model.scope("norm"), hidden_size, spec.norm);
        let head = if tied {
            VocabParallelHead::tied(params, &embedding, vocab_size)
        } else {
            VocabParallelHead::new(&mut params.scope("lm_head"), hidden_size, vocab_size)
        };
        Decoder { embedding, embedding_scale: spec.embedding_scale, layers, norm, head }
    }

    /// The LM head.
    pub fn head(&self) -> &VocabParallelHead {
        &self.head
    }

    /// Runs the step's tokens to the final norm and emits the rows that are wanted ([`Output::Hidden`]).
    pub fn forward<O: Ops>(&self, ops: &mut O) {
        let mut x = self.embedding.forward(ops);
        if let Some(factor) = self.embedding_scale {
            x = ops.scale(x, factor);
        }
        ops.emit(Output::Embedding, &x);
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(ops, x);
            ops.emit(Output::Layer(i), &x);
        }
        let wanted = ops.select_rows(&x, Rows::Wanted);
        let hidden = self.norm.forward(ops, &wanted);
        ops.emit(Output::Hidden, &hidden);
    }
}

/// One layer of a decoder.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    attention_norm: Norm,
    attention: Attention,
    mlp_norm: Norm,
    mlp: FeedForward,
    /// Norms of what attention and MLP give, before it joins the residual.
    after: Option<(Norm, Norm)>,
}

impl DecoderLayer {
    fn new(params: &mut Params<'_>, hidden_size: usize, spec: &LayerSpec, decoder: &DecoderSpec) -> Self {
        let attention = Attention::new(&mut params.scope("self_attn"), hidden_size, &spec.attention);
        let mlp = FeedForward::new(&mut params.scope("mlp"), hidden_size, &spec.mlp);
        let mut norm = |name| Norm::new(&mut params.scope(name), hidden_size, decoder.norm);
        let attention_norm = norm("input_layernorm");
        // The same name stands before the MLP in one placement and after the attention in the other.
        let (mlp_norm, after) = match decoder.norm_placement {
            NormPlacement::Pre => (norm("post_attention_layernorm"), None),
            NormPlacement::Sandwich => {
                let after = (norm("post_attention_layernorm"), norm("post_feedforward_layernorm"));
                (norm("pre_feedforward_layernorm"), Some(after))
            }
        };
        DecoderLayer { attention_norm, attention, mlp_norm, mlp, after }
    }

    /// `[T, E]` to `[T, E]`.
    fn forward<O: Ops>(&self, ops: &mut O, x: O::Tensor) -> O::Tensor {
        let normed = self.attention_norm.forward(ops, &x);
        let mut attended = self.attention.forward(ops, &normed);
        if let Some((after_attention, _)) = &self.after {
            attended = after_attention.forward(ops, &attended);
        }
        let (x, normed) = self.mlp_norm.add_forward(ops, x, &attended);
        let mut y = self.mlp.forward(ops, &normed);
        if let Some((_, after_mlp)) = &self.after {
            y = after_mlp.forward(ops, &y);
        }
        ops.add(x, &y)
    }
}
