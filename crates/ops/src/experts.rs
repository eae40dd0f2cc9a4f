//! The specs of a mixture of experts: how rows choose experts, and what the experts compute.

use crate::spec::Gated;
use crate::weight::Weight;

/// How a row's router logits become affinities: what each chosen expert's result is multiplied with, 0 for the others.
///
/// All of it is f32. Of equal experts the first is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RouterSpec {
    /// The best `top_k` experts.
    TopK(TopKRouter),
    /// Two experts, one after the other: each is the best of those that are left, and its affinity a softmax over these without the ones
    /// that are clearly worse, by more than `2 · jitter` of the larger of their size and the best logit.
    ///
    /// Source: Liu et al., arXiv:2409.12136; `sparsemixer` of transformers' `modeling_phimoe.py`, as it runs outside of training.
    Sparsemixer {
        /// Half the share by which an expert may be worse.
        jitter: f32,
    },
}

impl RouterSpec {
    /// How many experts a row takes.
    pub fn chosen(&self) -> usize {
        match self {
            RouterSpec::TopK(router) => router.top_k,
            RouterSpec::Sparsemixer { .. } => 2,
        }
    }
}

/// A router that chooses the best experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopKRouter {
    /// Experts a row; at most as many as there are.
    pub top_k: usize,
    /// What logits become.
    pub score: Score,
    /// A vector that is added to the scores for the choice only.
    ///
    /// Source: Wang et al., arXiv:2408.15664.
    pub correction: Option<Weight>,
    /// Groups that are chosen first; experts outside of them are not chosen.
    pub groups: Option<RouterGroups>,
    /// Whether the chosen affinities are divided by their sum. A softmax of the chosen logits alone is a softmax of all that is divided
    /// like this.
    pub normalise: bool,
    /// Multiplies the affinities.
    pub scale: f32,
}

impl TopKRouter {
    /// The best `top_k` by `score`, from all experts, their affinities as they are.
    pub const fn new(score: Score, top_k: usize) -> Self {
        TopKRouter { top_k, score, correction: None, groups: None, normalise: false, scale: 1.0 }
    }
}

/// What router logits become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Shares of one, over all experts.
    Softmax,
    /// A number between 0 and 1 for each expert on its own.
    Sigmoid,
}

/// Neighbouring experts that are chosen together.
///
/// Source: DeepSeek-AI, arXiv:2405.04434 and arXiv:2412.19437.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterGroups {
    /// How many there are; divides the number of experts.
    pub count: usize,
    /// How many of them are chosen.
    pub top: usize,
    /// What a group is worth.
    pub worth: GroupWorth,
}

/// What a group of experts is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupWorth {
    /// Its best expert's score.
    Best,
    /// The sum of its two best.
    BestTwo,
}

/// The experts of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsSpec {
    /// Each expert, in the order of the router's columns.
    pub experts: Vec<Expert>,
    /// The activation of their gates.
    pub activation: Gated,
    /// What affinities multiply.
    pub weighing: Weighing,
}

/// One expert: `down(act(gate(x)) * up(x))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expert {
    /// `[F, E]`
    pub gate: Projection,
    /// `[F, E]`
    pub up: Projection,
    /// `[E, F]`. Where `F` is spread over ranks, whose results are summed, one rank alone holds the bias, and the others zeros.
    pub down: Projection,
}

/// `x · weightᵀ + bias`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// The matrix.
    pub weight: Weight,
    /// A vector of as many values as the matrix has rows.
    pub bias: Option<Weight>,
}

/// What an affinity multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighing {
    /// The expert's result.
    Output,
    /// The expert's input, before its projections.
    Input,
}
