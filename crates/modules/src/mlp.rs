//! The MLP.

use crate::spec::MlpSpec;
use nxd_ops::Axis;
use nxd_ops::{Gated, Map, Ops, Params, ShardLayout};
use nxd_parallel::{ColumnParallelLinear, RowParallelLinear};
use std::sync::Arc;

/// `down(act(gate(x)) * up(x))`, or `down(act(up(x)))`, its inner columns spread over the ranks.
#[derive(Clone, Debug)]
pub struct Mlp {
    gate: Option<ColumnParallelLinear>,
    up: ColumnParallelLinear,
    down: RowParallelLinear,
    activation: Gated,
}

impl Mlp {
    /// Declares `gate_proj` if there is one, `up_proj` and `down_proj`.
    pub fn new(params: &mut Params<'_>, hidden_size: usize, spec: &MlpSpec) -> Self {
        let inner = spec.intermediate_size;
        let layout = Arc::new(ShardLayout::even(inner, params.mesh().size(Axis::Tensor)));
        let mut column =
            |name| ColumnParallelLinear::new(&mut params.scope(name), hidden_size, &layout, inner, spec.bias);
        Mlp {
            gate: spec.gated.then(|| column("gate_proj")),
            up: column("up_proj"),
            down: RowParallelLinear::new(&mut params.scope("down_proj"), &layout, inner, hidden_size, spec.bias),
            activation: spec.activation,
        }
    }

    /// `[T, E]` to `[T, E]`.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        let inner = match &self.gate {
            Some(gate) => ColumnParallelLinear::forward_gated(gate, &self.up, ops, x, self.activation),
            None => {
                let inner = self.up.forward(ops, x);
                ops.map(inner, Map::Activation(self.activation))
            }
        };
        self.down.forward(ops, &inner)
    }
}
