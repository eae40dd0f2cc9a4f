//! Linear layers cut along their outputs or their inputs.
//!
//! Source: Shoeybi et al., "Megatron-LM", arXiv:1909.08053, section 3.

use nxd_collectives::Axis;
use nxd_ops::{Dim, Gated, Ops, Params, Role, ShardLayout, Sharding, Weight};
use std::sync::Arc;

const AXIS: Axis = Axis::Tensor;

/// A linear layer whose outputs are spread over the ranks; no collective follows.
#[derive(Clone, Debug)]
pub struct ColumnParallelLinear {
    weight: Weight,
    bias: Option<Weight>,
}

impl ColumnParallelLinear {
    /// Declares `weight` `[outputs, inputs]`, and `bias` `[outputs]` when the layer has one; `layout` says which outputs each rank holds.
    pub fn new(params: &mut Params<'_>, inputs: usize, layout: &Arc<ShardLayout>, outputs: usize, bias: bool) -> Self {
        let rows = || Sharding::Split { dim: Dim::Rows, axis: AXIS, layout: Arc::clone(layout) };
        ColumnParallelLinear {
            weight: params.weight("weight", Role::Matrix, [outputs, inputs], rows()),
            bias: bias.then(|| params.weight("bias", Role::Vector, [outputs, 1], rows())),
        }
    }

    /// `x` `[T, inputs]` on every rank to this rank's outputs, `[T, local outputs]`.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        let y = ops.linear(x, self.weight);
        self.finish(ops, y)
    }

    /// Several layers on the same input, which a device then prepares once.
    pub fn forward_all<O: Ops, const N: usize>(layers: [&Self; N], ops: &mut O, x: &O::Tensor) -> [O::Tensor; N] {
        let products = ops.linears(x, layers.map(|layer| layer.weight));
        let mut layers = layers.into_iter();
        products.map(|y| match layers.next() {
            Some(layer) => layer.finish(ops, y),
            None => y,
        })
    }

    /// `act(gate(x)) * up(x)` of two layers whose outputs are spread alike.
    pub fn forward_gated<O: Ops>(gate: &Self, up: &Self, ops: &mut O, x: &O::Tensor, activation: Gated) -> O::Tensor {
        if gate.bias.is_none() && up.bias.is_none() {
            return ops.linear_gated(x, gate.weight, up.weight, activation);
        }
        // A bias comes between product and activation.
        let [gate, up] = Self::forward_all([gate, up], ops, x);
        ops.gated(gate, &up, activation)
    }

    fn finish<O: Ops>(&self, ops: &mut O, y: O::Tensor) -> O::Tensor {
        match self.bias {
            Some(bias) => ops.bias(y, bias),
            None => y,
        }
    }
}

/// A matrix of its own for each head, the heads spread over the ranks; no collective follows.
#[derive(Clone, Copy, Debug)]
pub struct HeadParallelLinear {
    weight: Weight,
}

impl HeadParallelLinear {
    /// Declares `weight` `[num_heads * outputs, inputs]`, of which each head has `shape` `[outputs, inputs]`; `layout` says which rows each
    /// rank holds, whole heads.
    pub fn new(params: &mut Params<'_>, layout: &Arc<ShardLayout>, num_heads: usize, shape: [usize; 2]) -> Self {
        let [outputs, inputs] = shape;
        let rows = Sharding::Split { dim: Dim::Rows, axis: AXIS, layout: Arc::clone(layout) };
        let shape = [num_heads * outputs, inputs];
        HeadParallelLinear { weight: params.weight("weight", Role::Heads(outputs), shape, rows) }
    }

    /// The inputs of this rank's heads `[T, local heads * inputs]` to their outputs, `[T, local heads * outputs]`.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        ops.linear_heads(x, self.weight)
    }
}

/// A linear layer whose inputs are spread over the ranks; the products are summed over them.
#[derive(Clone, Debug)]
pub struct RowParallelLinear {
    weight: Weight,
    bias: Option<Weight>,
    size: usize,
}

impl RowParallelLinear {
    /// Declares `weight` `[outputs, inputs]`, and `bias` `[outputs]` when the layer has one; `layout` says which inputs each rank holds.
    pub fn new(params: &mut Params<'_>, layout: &Arc<ShardLayout>, inputs: usize, outputs: usize, bias: bool) -> Self {
        let columns = Sharding::Split { dim: Dim::Columns, axis: AXIS, layout: Arc::clone(layout) };
        RowParallelLinear {
            weight: params.weight("weight", Role::Matrix, [outputs, inputs], columns),
            bias: bias.then(|| params.weight("bias", Role::Vector, [outputs, 1], Sharding::Replicated)),
            size: params.mesh().size(AXIS),
        }
    }

    /// This rank's inputs `[T, local inputs]` to all outputs `[T, outputs]`, equal on every rank.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        let mut y = ops.linear(x, self.weight);
        if self.size > 1 {
            y = ops.all_reduce(y, AXIS);
        }
        match self.bias {
            // After the sum: every rank would add it otherwise.
            Some(bias) => ops.bias(y, bias),
            None => y,
        }
    }
}
