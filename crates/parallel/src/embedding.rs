//! Embedding and LM head cut along the vocabulary.

use nxd_collectives::Axis;
use nxd_ops::{Dim, Ops, Params, Role, ShardLayout, Sharding, Weight};
use std::sync::Arc;

const AXIS: Axis = Axis::Tensor;

fn vocabulary(params: &Params<'_>, vocab_size: usize) -> Sharding {
    let layout = Arc::new(ShardLayout::even(vocab_size, params.mesh().size(AXIS)));
    Sharding::Split { dim: Dim::Rows, axis: AXIS, layout }
}

/// A token embedding whose rows are spread over the ranks.
#[derive(Clone, Debug)]
pub struct VocabParallelEmbedding {
    table: Weight,
    size: usize,
}

impl VocabParallelEmbedding {
    /// Declares `weight` `[vocab_size, columns]`; `tied` when a [`VocabParallelHead::tied`] uses it too.
    pub fn new(params: &mut Params<'_>, vocab_size: usize, columns: usize, tied: bool) -> Self {
        let role = if tied { Role::TiedEmbedding } else { Role::Embedding };
        let sharding = vocabulary(params, vocab_size);
        VocabParallelEmbedding {
            table: params.weight("weight", role, [vocab_size, columns], sharding),
            size: params.mesh().size(AXIS),
        }
    }

    /// The embedded tokens of the step, `[T, columns]`, equal on every rank.
    pub fn forward<O: Ops>(&self, ops: &mut O) -> O::Tensor {
        let rows = ops.embed(self.table);
        // One rank holds a token's row, the others add zeros.
        if self.size > 1 { ops.all_reduce(rows, AXIS) } else { rows }
    }
}

/// An LM head whose outputs are spread over the ranks.
#[derive(Clone, Debug)]
pub struct VocabParallelHead {
    weight: Weight,
    bias: Option<Weight>,
    vocab_size: usize,
    size: usize,
}

impl VocabParallelHead {
    /// Declares `weight` `[vocab_size, inputs]`, and `bias` `[vocab_size]` when the head has one.
    pub fn new(params: &mut Params<'_>, inputs: usize, vocab_size: usize, bias: bool) -> Self {
        let sharding = vocabulary(params, vocab_size);
        let weight = params.weight("weight", Role::Matrix, [vocab_size, inputs], sharding);
        Self::with(params, weight, vocab_size, bias)
    }

    /// A head that uses the embedding's table; declares `bias` `[vocab_size]` when it has one.
    pub fn tied(params: &mut Params<'_>, embedding: &VocabParallelEmbedding, vocab_size: usize, bias: bool) -> Self {
        Self::with(params, embedding.table, vocab_size, bias)
    }

    fn with(params: &mut Params<'_>, weight: Weight, vocab_size: usize, bias: bool) -> Self {
        let sharding = vocabulary(params, vocab_size);
        let bias = bias.then(|| params.weight("bias", Role::Vector, [vocab_size, 1], sharding));
        VocabParallelHead { weight, bias, vocab_size, size: params.mesh().size(AXIS) }
    }

    /// The logits of the rows of `x`, `[rows, vocab_size]`, equal on every rank.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        let mut logits = ops.head(x, self.weight);
        if let Some(bias) = self.bias {
            logits = ops.bias(logits, bias);
        }
        if self.size > 1 { ops.gather_columns(logits, AXIS, self.vocab_size) } else { logits }
    }
}
