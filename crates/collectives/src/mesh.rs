//! How many ranks there are along each axis of parallelism.

use std::fmt;

/// A way to spread one model over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Axis {
    /// Weights of one layer are split; each rank holds some heads and columns.
    Tensor,
    /// Ranks hold the same weights and take different requests (attention DP).
    Data,
    /// A rank holds a range of layers.
    Pipeline,
    /// A rank holds some experts of a mixture.
    Expert,
    /// A long prompt is cut into pieces that attend to each other.
    Context,
}

impl Axis {
    /// Every axis, in the order in which [`Mesh`] keeps them.
    pub const ALL: [Self; 5] = [Self::Tensor, Self::Data, Self::Pipeline, Self::Expert, Self::Context];
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tensor => "tp",
            Self::Data => "dp",
            Self::Pipeline => "pp",
            Self::Expert => "ep",
            Self::Context => "cp",
        })
    }
}

/// The sizes of a parallel layout. Plain data that a model may be declared against: it names no rank, so one declaration
/// serves every rank.
///
/// ```
/// use nxd_collectives::{Axis, Mesh};
///
/// let mesh = Mesh::tensor(4);
/// assert_eq!((mesh.size(Axis::Tensor), mesh.size(Axis::Data), mesh.ranks()), (4, 1, 4));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mesh {
    /// Indexed by the discriminant of [`Axis`].
    sizes: [usize; Axis::ALL.len()],
}

impl Mesh {
    /// One rank: nothing is split.
    pub const fn single() -> Self {
        Self { sizes: [1; Axis::ALL.len()] }
    }

    /// `size` ranks of tensor parallelism and nothing else.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn tensor(size: usize) -> Self {
        Self::single().with(Axis::Tensor, size)
    }

    /// The same mesh with `size` ranks along `axis`.
    ///
    /// # Panics
    /// If `size` is 0: an axis that is not used has one rank.
    #[must_use]
    pub fn with(mut self, axis: Axis, size: usize) -> Self {
        assert!(size > 0, "a mesh has at least one rank along `{axis}`");
        self.sizes[axis as usize] = size;
        self
    }

    /// How many ranks there are along `axis`; 1 where the axis is not used.
    pub const fn size(&self, axis: Axis) -> usize {
        self.sizes[axis as usize]
    }

    /// How many ranks there are in all: the product of the sizes, [`usize::MAX`] if it is larger than that.
    pub fn ranks(&self) -> usize {
        self.sizes.iter().fold(1, |product, &size| product.saturating_mul(size))
    }
}

/// The axes that are in use, as in `tp 4 × pp 2`; `1 rank` for a single one.
impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut used = Axis::ALL.into_iter().filter(|&axis| self.size(axis) > 1);
        let Some(first) = used.next() else { return f.write_str("1 rank") };
        write!(f, "{first} {}", self.size(first))?;
        used.try_for_each(|axis| write!(f, " × {axis} {}", self.size(axis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_keep_their_own_sizes() {
        let mesh = Mesh::tensor(4).with(Axis::Pipeline, 2);
        let sizes = Axis::ALL.map(|axis| mesh.size(axis));
        assert_eq!(sizes, [4, 1, 2, 1, 1]);
        assert_eq!(mesh.ranks(), 8);
        assert_ne!(mesh, Mesh::tensor(8));
        assert_eq!(Mesh::tensor(1), Mesh::single());
    }

    #[test]
    fn a_mesh_prints_the_axes_in_use() {
        assert_eq!(Mesh::single().to_string(), "1 rank");
        assert_eq!(Mesh::tensor(4).with(Axis::Pipeline, 2).to_string(), "tp 4 × pp 2");
        assert_eq!(Axis::ALL.map(|axis| axis.to_string()), ["tp", "dp", "pp", "ep", "cp"]);
    }

    #[test]
    #[should_panic(expected = "at least one rank along `tp`")]
    fn an_axis_of_no_ranks_is_refused() {
        let _ = Mesh::tensor(0);
    }
}
