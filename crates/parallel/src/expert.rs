//! An expert of a mixture, its inner columns spread over the ranks.

use nxd_collectives::Axis;
use nxd_ops::{Dim, Expert, Params, Projection, Role, Segment, ShardLayout, Sharding, Weight};
use std::sync::Arc;

const AXIS: Axis = Axis::Tensor;

/// Declares `gate_proj`, `up_proj` and `down_proj` of an expert of `hidden_size` columns whose `inner` columns are spread over the ranks as
/// `layout` says, with biases where it has them. The ranks' results are parts of a sum, of which the first rank's alone has the last bias.
pub fn expert(
    params: &mut Params<'_>,
    hidden_size: usize,
    layout: &Arc<ShardLayout>,
    inner: usize,
    bias: bool,
) -> Expert {
    let spread = |dim| Sharding::Split { dim, axis: AXIS, layout: Arc::clone(layout) };
    let once = first_rank_only(params.mesh().size(AXIS), hidden_size);
    let mut projection = |name: &str, shape: [usize; 2], cut: Sharding, bias_cut: Sharding| {
        let mut params = params.scope(name);
        let weight = params.weight("weight", Role::Matrix, shape, cut);
        let bias = bias.then(|| params.weight("bias", Role::Vector, [shape[0], 1], bias_cut));
        Projection { weight, bias }
    };
    Expert {
        gate: projection("gate_proj", [inner, hidden_size], spread(Dim::Rows), spread(Dim::Rows)),
        up: projection("up_proj", [inner, hidden_size], spread(Dim::Rows), spread(Dim::Rows)),
        down: projection("down_proj", [hidden_size, inner], spread(Dim::Columns), once),
    }
}

/// The first of `ranks` ranks holds a vector of `len` values, the others zeros.
fn first_rank_only(ranks: usize, len: usize) -> Sharding {
    let part = |rank| vec![if rank == 0 { Segment::Range { start: 0, len } } else { Segment::Zeros { len } }];
    let layout = Arc::new(ShardLayout::new((0..ranks).map(part).collect()));
    Sharding::Split { dim: Dim::Rows, axis: AXIS, layout }
}

/// Declares `weight`, a router of as many `outputs` that every rank computes, and its `bias` if it has one.
pub fn router(params: &mut Params<'_>, inputs: usize, outputs: usize, bias: bool) -> Projection {
    let mut weight = |name, role, shape| -> Weight { params.weight(name, role, shape, Sharding::Replicated) };
    Projection {
        weight: weight("weight", Role::Router, [outputs, inputs]),
        bias: bias.then(|| weight("bias", Role::Vector, [outputs, 1])),
    }
}
