//! Low-rank adapters: what a device adds to the products of some requests' rows.
//!
//! Source: Hu et al., "LoRA", arXiv:2106.09685; Chen et al., "Punica", arXiv:2310.18547, for several of them in one batch.

use crate::weight::{Dim, Role, Sharding, StoredWeight, WeightSpec};

/// Names an adapter that an executor has taken. No two adapters of one executor ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub u32);

/// What an adapter adds to the products `x · weightᵀ` of one matrix `[N, K]`: `scale · ((x · downᵀ) · upᵀ)`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// The matrix's declared name.
    pub weight: String,
    /// `[rank, K]`
    pub down: StoredWeight,
    /// `[N, rank]`
    pub up: StoredWeight,
    /// What the sum is multiplied with.
    pub scale: f32,
}

impl LowRank {
    /// How [`LowRank::down`] and [`LowRank::up`] are declared beside the matrix of `base`: whichever of them shares its cut dimension is cut
    /// alike, the other one is on every rank. So each rank adds to the products that it has, and whatever sums them sums these.
    pub fn specs(&self, base: &WeightSpec) -> [WeightSpec; 2] {
        let ([outputs, inputs], rank) = (base.shape, self.down.shape[0]);
        let cut = |dim| match &base.sharding {
            Sharding::Split { dim: cut, .. } if *cut == dim => base.sharding.clone(),
            _ => Sharding::Replicated,
        };
        let spec = |name, shape, sharding| WeightSpec {
            name: format!("{}.{name}", base.name),
            role: Role::Matrix,
            shape,
            sharding,
        };
        [spec("lora_A", [rank, inputs], cut(Dim::Columns)), spec("lora_B", [outputs, rank], cut(Dim::Rows))]
    }

    /// Bytes of both matrices, as they are stored.
    pub fn bytes(&self) -> usize {
        let bytes = |stored: &StoredWeight| {
            let [rows, cols] = stored.shape;
            stored.format.row_bytes(cols).unwrap_or(0).saturating_mul(rows)
        };
        bytes(&self.down).saturating_add(bytes(&self.up))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;
    use crate::weight::ShardLayout;
    use nxd_collectives::Axis;
    use std::sync::Arc;

    #[test]
    fn the_side_that_shares_the_cut_dimension_is_cut() {
        let stored = |shape: [usize; 2]| StoredWeight {
            origin: String::new(),
            format: Format::F32,
            shape,
            data: vec![0; 4 * shape[0] * shape[1]].into(),
            order: None,
            scales: None,
        };
        let part = LowRank { weight: "w".into(), down: stored([2, 8]), up: stored([6, 2]), scale: 1.0 };
        assert_eq!(part.bytes(), 4 * (16 + 12));
        for (dim, layout) in [(Dim::Rows, ShardLayout::even(6, 2)), (Dim::Columns, ShardLayout::even(8, 2))] {
            let sharding = Sharding::Split { dim, axis: Axis::Tensor, layout: Arc::new(layout) };
            let base = WeightSpec { name: "w".into(), role: Role::Matrix, shape: [6, 8], sharding: sharding.clone() };
            let [down, up] = part.specs(&base);
            assert_eq!((down.shape, up.shape), ([2, 8], [6, 2]));
            let whole = Sharding::Replicated;
            let expected = if dim == Dim::Rows { [&whole, &sharding] } else { [&sharding, &whole] };
            assert_eq!([&down.sharding, &up.sharding], expected);
        }
    }
}
