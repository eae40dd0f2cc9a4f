//! The decoder: embedding, layers, final norm.

use crate::attention::Attention;
use crate::feed_forward::FeedForward;
use crate::latent::LatentAttention;
use crate::moe::Moe;
use crate::norm::Norm;
use crate::spec::{AttentionSpec, DecoderSpec, HeadSpec, LayerSpec, NormPlacement};
use nxd_ops::{Capture, Ops, Output, Params, Role, Rows, Sharding, Weight};
use nxd_parallel::{VocabParallelEmbedding, VocabParallelHead};

/// A decoder-only transformer up to its final norm, and the LM head that a [`crate::Sampler`] uses.
#[derive(Clone, Debug)]
pub struct Decoder {
    embedding: VocabParallelEmbedding,
    positions: Option<Weight>,
    embedding_scale: Option<f32>,
    layers: Vec<DecoderLayer>,
    norm: Norm,
    head: VocabParallelHead,
    head_spec: HeadSpec,
}

impl Decoder {
    /// Declares all weights under the names of the standard Hugging Face layout (`model.embed_tokens`, `model.layers.0` …).
    pub fn new(params: &mut Params<'_>, spec: &DecoderSpec) -> Self {
        let (vocab_size, hidden_size) = (spec.vocab_size, spec.hidden_size);
        let HeadSpec { tied, bias, .. } = spec.head;
        let mut model = params.scope("model");
        let embedding = VocabParallelEmbedding::new(&mut model.scope("embed_tokens"), vocab_size, hidden_size, tied);
        let positions = spec.learned_positions.then(|| {
            let shape = [spec.max_position_embeddings, hidden_size];
            model.scope("embed_positions").weight("weight", Role::Embedding, shape, Sharding::Replicated)
        });
        let mut layers = model.scope("layers");
        let layer = |(i, layer)| DecoderLayer::new(&mut layers.scope(i), hidden_size, layer, spec);
        let layers = spec.layers.iter().enumerate().map(layer).collect();
        let norm = Norm::new(&mut model.scope("norm"), hidden_size, spec.norm);
        let mut head = params.scope("lm_head");
        let head = if tied {
            VocabParallelHead::tied(&mut head, &embedding, vocab_size, bias)
        } else {
            VocabParallelHead::new(&mut head, hidden_size, vocab_size, bias)
        };
        let (embedding_scale, head_spec) = (spec.embedding_scale, spec.head);
        Decoder { embedding, positions, embedding_scale, layers, norm, head, head_spec }
    }

    /// The LM head, and what becomes of its products.
    pub fn head(&self) -> (&VocabParallelHead, HeadSpec) {
        (&self.head, self.head_spec)
    }

    /// The mixtures of experts among its layers.
    pub fn mixtures(&self) -> impl Iterator<Item = &Moe> {
        self.layers.iter().filter_map(|layer| match &layer.mlp {
            FeedForward::Moe(moe) => Some(moe),
            FeedForward::Dense(_) => None,
        })
    }

    /// Runs the step's tokens to the final norm and emits the rows that are wanted ([`Output::Hidden`]), and what `capture` says, which is
    /// the batch's.
    pub fn forward<O: Ops>(&self, ops: &mut O, capture: Capture) {
        let mut x = self.embedding.forward(ops);
        if let Some(factor) = self.embedding_scale {
            x = ops.scale(x, factor);
        }
        if let Some(table) = self.positions {
            let positions = ops.embed_positions(table);
            x = ops.add(x, &positions);
        }
        ops.emit(Output::Embedding, &x);
        // Behind the last layer's attention rows meet no others, so that those which nobody wants end there.
        let whole = self.layers.len().saturating_sub(usize::from(capture == Capture::Nothing));
        let (whole, last) = self.layers.split_at(whole);
        for (i, layer) in whole.iter().enumerate() {
            x = layer.forward(ops, x, None);
            ops.emit(Output::Layer(i), &x);
        }
        let wanted = match last {
            [layer, ..] => layer.forward(ops, x, Some(Rows::Wanted)),
            [] => ops.select_rows(&x, Rows::Wanted),
        };
        let hidden = self.norm.forward(ops, &wanted);
        ops.emit(Output::Hidden, &hidden);
    }
}

/// One layer of a decoder.
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    attention: LayerAttention,
    mlp: FeedForward,
    norms: Norms,
    residual_scale: Option<f32>,
}

/// The norms of a layer.
#[derive(Clone, Copy, Debug)]
enum Norms {
    /// Before attention and MLP, and, as the case may be, after each.
    Around { attention: Norm, mlp: Norm, after: Option<[Norm; 2]> },
    /// After attention and MLP alone.
    After { attention: Norm, mlp: Norm },
    /// Before both at once.
    Shared(Norm),
}

impl Norms {
    fn new(params: &mut Params<'_>, hidden_size: usize, decoder: &DecoderSpec) -> Self {
        let mut norm = |name| Norm::new(&mut params.scope(name), hidden_size, decoder.norm);
        // The same name stands before the MLP in one placement and after the attention in others.
        match decoder.norm_placement {
            NormPlacement::Pre => {
                Norms::Around { attention: norm("input_layernorm"), mlp: norm("post_attention_layernorm"), after: None }
            }
            NormPlacement::Sandwich => Norms::Around {
                attention: norm("input_layernorm"),
                mlp: norm("pre_feedforward_layernorm"),
                after: Some([norm("post_attention_layernorm"), norm("post_feedforward_layernorm")]),
            },
            NormPlacement::Post => {
                Norms::After { attention: norm("post_attention_layernorm"), mlp: norm("post_feedforward_layernorm") }
            }
            NormPlacement::Parallel => Norms::Shared(norm("input_layernorm")),
        }
    }
}

impl DecoderLayer {
    fn new(params: &mut Params<'_>, hidden_size: usize, spec: &LayerSpec, decoder: &DecoderSpec) -> Self {
        DecoderLayer {
            attention: LayerAttention::new(&mut params.scope("self_attn"), hidden_size, &spec.attention),
            mlp: FeedForward::new(&mut params.scope("mlp"), hidden_size, &spec.mlp),
            norms: Norms::new(params, hidden_size, decoder),
            residual_scale: decoder.residual_scale,
        }
    }

    /// `[T, E]` to `[T, E]`, or to the `rows` of it.
    fn forward<O: Ops>(&self, ops: &mut O, x: O::Tensor, rows: Option<Rows>) -> O::Tensor {
        match &self.norms {
            Norms::Around { attention, mlp, after } => {
                let normed = attention.forward(ops, &x);
                let mut attended = self.attention.forward(ops, &normed, rows);
                let x = kept(ops, x, rows);
                if let Some([after, _]) = after {
                    attended = after.forward(ops, &attended);
                }
                let attended = self.scaled(ops, attended);
                let (x, normed) = mlp.add_forward(ops, x, &attended);
                let mut y = self.mlp.forward(ops, &normed);
                if let Some([_, after]) = after {
                    y = after.forward(ops, &y);
                }
                let y = self.scaled(ops, y);
                ops.add(x, &y)
            }
            Norms::After { attention, mlp } => {
                let attended = self.attention.forward(ops, &x, rows);
                let x = kept(ops, x, rows);
                let attended = attention.forward(ops, &attended);
                let attended = self.scaled(ops, attended);
                let x = ops.add(x, &attended);
                let y = self.mlp.forward(ops, &x);
                let y = mlp.forward(ops, &y);
                let y = self.scaled(ops, y);
                ops.add(x, &y)
            }
            Norms::Shared(norm) => {
                let normed = norm.forward(ops, &x);
                let attended = self.attention.forward(ops, &normed, rows);
                let [x, normed] = [x, normed].map(|x| kept(ops, x, rows));
                let y = self.mlp.forward(ops, &normed);
                let (attended, y) = (self.scaled(ops, attended), self.scaled(ops, y));
                let x = ops.add(x, &attended);
                ops.add(x, &y)
            }
        }
    }

    /// What joins the residual stream.
    fn scaled<O: Ops>(&self, ops: &mut O, x: O::Tensor) -> O::Tensor {
        match self.residual_scale {
            Some(factor) => ops.scale(x, factor),
            None => x,
        }
    }
}

/// The `rows` of `x`, or all.
pub(crate) fn kept<O: Ops>(ops: &mut O, x: O::Tensor, rows: Option<Rows>) -> O::Tensor {
    match rows {
        Some(rows) => ops.select_rows(&x, rows),
        None => x,
    }
}

/// A layer's attention.
#[derive(Clone, Debug)]
enum LayerAttention {
    OfHeads(Attention),
    Latent(LatentAttention),
}

impl LayerAttention {
    fn new(params: &mut Params<'_>, hidden_size: usize, spec: &AttentionSpec) -> Self {
        match &spec.latent {
            None => LayerAttention::OfHeads(Attention::new(params, hidden_size, spec)),
            Some(latent) => LayerAttention::Latent(LatentAttention::new(params, hidden_size, spec, latent)),
        }
    }

    /// `[T, E]` to `[T, E]`, or to the `rows` of it.
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor, rows: Option<Rows>) -> O::Tensor {
        match self {
            LayerAttention::OfHeads(attention) => attention.forward(ops, x, rows),
            LayerAttention::Latent(attention) => attention.forward(ops, x, rows),
        }
    }
}
