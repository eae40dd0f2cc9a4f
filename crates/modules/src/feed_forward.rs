//! What stands behind a layer's attention.

use crate::mlp::Mlp;
use crate::moe::Moe;
use crate::spec::FeedForwardSpec;
use nxd_ops::{Ops, Params};

/// An MLP, or a mixture of experts.
#[derive(Clone, Debug)]
pub enum FeedForward {
    /// One MLP for every row.
    Dense(Mlp),
    /// Each row's own experts.
    Moe(Moe),
}

impl FeedForward {
    /// Declares the weights of either.
    pub fn new(params: &mut Params<'_>, hidden_size: usize, spec: &FeedForwardSpec) -> Self {
        match spec {
            FeedForwardSpec::Dense(spec) => FeedForward::Dense(Mlp::new(params, hidden_size, spec)),
            FeedForwardSpec::Moe(spec) => FeedForward::Moe(Moe::new(params, hidden_size, spec)),
        }
    }

    /// `[T, E]` to `[T, E]`.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        match self {
            FeedForward::Dense(mlp) => mlp.forward(ops, x),
            FeedForward::Moe(moe) => moe.forward(ops, x),
        }
    }
}
