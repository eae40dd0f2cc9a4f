//! A mixture of experts in the place of an MLP.

use crate::spec::{MoeSpec, SharedExpertSpec};
use nxd_ops::{
    Axis, Expert, ExpertsSpec, Gated, Ops, Params, Projection, Role, RouterSpec, Score, ShardLayout, Sharding,
    TopKRouter, Weighing,
};
use nxd_parallel::{expert, router};
use std::sync::Arc;

/// The weighed sum of what each row's experts make of it, and of a shared expert; all inner columns are spread over the ranks.
#[derive(Clone, Debug)]
pub struct Moe {
    router: Projection,
    choice: RouterSpec,
    experts: ExpertsSpec,
    shared: Option<SharedExpert>,
    size: usize,
}

/// An expert that every row takes.
#[derive(Clone, Debug)]
enum SharedExpert {
    Plain(Expert, Gated),
    /// Weighed by the sigmoid of a product: an expert that is always chosen, by a router of one column.
    Weighed(Projection, ExpertsSpec),
}

impl Moe {
    /// Declares the router `gate`, with its `e_score_correction_bias` where it has one; `experts.0` …; `shared_expert` and
    /// `shared_expert_gate` where the spec has them.
    pub fn new(params: &mut Params<'_>, hidden_size: usize, spec: &MoeSpec) -> Self {
        let size = params.mesh().size(Axis::Tensor);
        let mut gate = params.scope("gate");
        let router = router(&mut gate, hidden_size, spec.num_experts, spec.router_bias);
        let mut choice = spec.router;
        if let (true, RouterSpec::TopK(top_k)) = (spec.correction, &mut choice) {
            let shape = [spec.num_experts, 1];
            top_k.correction = Some(gate.weight("e_score_correction_bias", Role::Vector, shape, Sharding::Replicated));
        }
        let inner = spec.intermediate_size;
        let layout = Arc::new(ShardLayout::even(inner, size));
        let mut scope = params.scope("experts");
        let declare = |i| expert(&mut scope.scope(i), hidden_size, &layout, inner, spec.bias);
        let experts = (0..spec.num_experts).map(declare).collect();
        let experts = ExpertsSpec { experts, activation: spec.activation, weighing: spec.weighing };
        let shared = spec.shared.map(|shared| SharedExpert::new(params, hidden_size, shared, spec.activation));
        Moe { router, choice, experts, shared, size }
    }

    /// The experts that a router chooses from, and how many it takes for a row.
    pub fn choice(&self) -> (&[Expert], usize) {
        (&self.experts.experts, self.choice.chosen())
    }

    /// `[T, E]` to `[T, E]`.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        let logits = small_product(ops, x, &self.router);
        let affinities = ops.route(&logits, &self.choice);
        let mut y = ops.experts(x, &affinities, &self.experts);
        if let Some(shared) = &self.shared {
            let shared = shared.forward(ops, x);
            y = ops.add(y, &shared);
        }
        if self.size > 1 { ops.all_reduce(y, Axis::Tensor) } else { y }
    }
}

impl SharedExpert {
    fn new(params: &mut Params<'_>, hidden_size: usize, spec: SharedExpertSpec, activation: Gated) -> Self {
        let inner = spec.intermediate_size;
        let layout = Arc::new(ShardLayout::even(inner, params.mesh().size(Axis::Tensor)));
        let expert = expert(&mut params.scope("shared_expert"), hidden_size, &layout, inner, false);
        if !spec.weighed {
            return SharedExpert::Plain(expert, activation);
        }
        let gate = router(&mut params.scope("shared_expert_gate"), hidden_size, 1, false);
        SharedExpert::Weighed(gate, ExpertsSpec { experts: vec![expert], activation, weighing: Weighing::Output })
    }

    /// This rank's part of its result.
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        match self {
            SharedExpert::Plain(expert, activation) => {
                let inner = ops.linear_gated(x, expert.gate.weight, expert.up.weight, *activation);
                ops.linear(&inner, expert.down.weight)
            }
            SharedExpert::Weighed(gate, expert) => {
                let logits = small_product(ops, x, gate);
                let weights = ops.route(&logits, &RouterSpec::TopK(TopKRouter::new(Score::Sigmoid, 1)));
                ops.experts(x, &weights, expert)
            }
        }
    }
}

/// The logits of a router, in f32 as those of a head.
fn small_product<O: Ops>(ops: &mut O, x: &O::Tensor, projection: &Projection) -> O::Tensor {
    let logits = ops.head(x, projection.weight);
    match projection.bias {
        Some(bias) => ops.bias(logits, bias),
        None => logits,
    }
}
