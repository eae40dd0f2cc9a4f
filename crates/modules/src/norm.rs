//! Norms.

use crate::spec::RmsNormSpec;
use nxd_ops::{NormSpec, Ops, Params, Role, Sharding};

/// A root-mean-square norm over groups of `width` columns.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    spec: NormSpec,
}

impl Norm {
    /// Declares `weight` `[width]`.
    pub fn new(params: &mut Params<'_>, width: usize, spec: RmsNormSpec) -> Self {
        let weight = params.weight("weight", Role::Vector, [width, 1], Sharding::Replicated);
        Norm { spec: NormSpec { weight, width, eps: spec.eps, offset: spec.offset } }
    }

    /// The normalised `x`, of its shape.
    pub fn forward<O: Ops>(&self, ops: &mut O, x: &O::Tensor) -> O::Tensor {
        ops.norm(x, &self.spec)
    }

    /// `(residual + x, norm(residual + x))`.
    pub fn add_forward<O: Ops>(&self, ops: &mut O, residual: O::Tensor, x: &O::Tensor) -> (O::Tensor, O::Tensor) {
        ops.add_norm(residual, x, &self.spec)
    }
}
