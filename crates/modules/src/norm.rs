//! Norms.

use crate::spec::NormStyle;
use nxd_ops::{NormSpec, Ops, Params, Role, Sharding, Spread};

/// A norm over groups of `width` columns.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    spec: NormSpec,
}

impl Norm {
    /// Declares `weight` and `bias` `[width]`, as far as the style has them.
    pub fn new(params: &mut Params<'_>, width: usize, style: NormStyle) -> Self {
        Norm::of_columns(params, width, style, width, Sharding::Replicated, None)
    }

    /// Declares weight and bias of `columns` values, cut as `sharding` says, for groups of `width`, which `spread` may spread over ranks.
    pub fn of_columns(
        params: &mut Params<'_>,
        width: usize,
        style: NormStyle,
        columns: usize,
        sharding: Sharding,
        spread: Option<Spread>,
    ) -> Self {
        let NormStyle { centre, eps, weight, offset, bias } = style;
        let mut vector =
            |name, wanted: bool| wanted.then(|| params.weight(name, Role::Vector, [columns, 1], sharding.clone()));
        let (weight, bias) = (vector("weight", weight), vector("bias", bias));
        Norm { spec: NormSpec { centre, weight, bias, width, eps, offset, spread } }
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
