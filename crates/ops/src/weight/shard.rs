//! How a weight is spread over ranks.

use nxd_collectives::Axis;
use std::sync::Arc;

/// A dimension of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Outputs of a linear layer, tokens of an embedding, values of a vector.
    Rows,
    /// Inputs of a linear layer.
    Columns,
}

/// A piece of one rank's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// `len` neighbours from `start` on.
    Range {
        /// First index.
        start: usize,
        /// How many.
        len: usize,
    },
    /// `len` zeros: padding that makes all ranks alike.
    Zeros {
        /// How many.
        len: usize,
    },
}

impl Segment {
    /// Indices or zeros that the piece covers.
    pub const fn len(self) -> usize {
        match self {
            Segment::Range { len, .. } | Segment::Zeros { len } => len,
        }
    }

    /// Whether the piece covers nothing.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Which part of a dimension each rank holds. Every rank's part has the same length; parts may overlap (replicated KV heads).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShardLayout {
    parts: Vec<Vec<Segment>>,
    len: usize,
}

impl ShardLayout {
    /// A layout from each rank's segments.
    ///
    /// # Panics
    /// When there is no rank, or the parts differ in length.
    pub fn new(parts: Vec<Vec<Segment>>) -> Self {
        let total = |part: &Vec<Segment>| part.iter().map(|s| s.len()).sum::<usize>();
        let len = total(parts.first().expect("a layout has at least one rank"));
        assert!(parts.iter().all(|part| total(part) == len), "the parts of a layout have one length");
        ShardLayout { parts, len }
    }

    /// `size` neighbouring parts of `len / size` each, rounded up; the last ranks are padded with zeros.
    pub fn even(len: usize, size: usize) -> Self {
        let each = len.div_ceil(size);
        let part = |rank: usize| {
            let start = (rank * each).min(len);
            let real = each.min(len - start);
            let segments = [Segment::Range { start, len: real }, Segment::Zeros { len: each - real }];
            segments.into_iter().filter(|s| !s.is_empty()).collect()
        };
        Self::new((0..size).map(part).collect())
    }

    /// Whole units (heads) of `unit` values: for each rank the index of each of its units, `None` for a padded one.
    pub fn units(unit: usize, of_rank: &[Vec<Option<usize>>]) -> Self {
        let segment = |index: &Option<usize>| match index {
            Some(index) => Segment::Range { start: index * unit, len: unit },
            None => Segment::Zeros { len: unit },
        };
        Self::new(of_rank.iter().map(|units| units.iter().map(segment).collect()).collect())
    }

    /// All `len` values on every one of `ranks` ranks.
    pub fn replicated(len: usize, ranks: usize) -> Self {
        Self::new(vec![vec![Segment::Range { start: 0, len }]; ranks])
    }

    /// The segments of `rank`.
    pub fn part(&self, rank: usize) -> &[Segment] {
        &self.parts[rank]
    }

    /// Values each rank holds, padding included.
    pub fn local_len(&self) -> usize {
        self.len
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.parts.len()
    }
}

/// A weight's place on the mesh, declared once, where the weight is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sharding {
    /// Every rank holds all of it.
    Replicated,
    /// One dimension is cut along an axis.
    Split {
        /// The dimension.
        dim: Dim,
        /// The axis.
        axis: Axis,
        /// Each rank's part.
        layout: Arc<ShardLayout>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uneven_lengths_are_padded_at_the_end() {
        let layout = ShardLayout::even(10, 4);
        assert_eq!(layout.local_len(), 3);
        assert_eq!(layout.part(2), [Segment::Range { start: 6, len: 3 }]);
        assert_eq!(layout.part(3), [Segment::Range { start: 9, len: 1 }, Segment::Zeros { len: 2 }]);
    }

    #[test]
    fn ranks_beyond_the_length_hold_zeros_only() {
        let layout = ShardLayout::even(2, 4);
        assert_eq!(layout.part(3), [Segment::Zeros { len: 1 }]);
    }
}
