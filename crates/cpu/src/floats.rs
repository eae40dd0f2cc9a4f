//! Memory for floats that begins with a cache line.

use bytemuck::{Pod, Zeroable};

/// Values of a cache line.
const VALUES: usize = 16;

/// A cache line of values.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [f32; VALUES]);

/// Floats that begin with a cache line. An allocator puts them 16 bytes behind one, where each vector of 64 bytes, and every other one of 32,
/// lies across two: products with AMX, which write such vectors, take 1.05 to 1.4 times as long there.
#[derive(Debug, Default)]
pub(crate) struct Floats(Vec<Line>);

impl Floats {
    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len() * VALUES
    }

    /// The first `len` values, of which new ones are zero.
    pub(crate) fn grown(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(VALUES);
        if self.0.len() < lines {
            self.0.resize(lines, Line::default());
        }
        self.first_mut(len)
    }

    /// The first `len` values.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn first(&self, len: usize) -> &[f32] {
        &bytemuck::cast_slice(&self.0)[..len]
    }

    /// The first `len` values.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn first_mut(&mut self, len: usize) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}

/// Values that [`Floats`] have which grew to `len`.
pub(crate) fn whole_lines(len: usize) -> usize {
    len.div_ceil(VALUES).saturating_mul(VALUES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_with_a_line_and_stay_while_they_grow() {
        let mut floats = Floats::default();
        for len in [1, 16, 17, 100_000] {
            let values = floats.grown(len);
            assert!(values.as_ptr().addr().is_multiple_of(64) && values.len() == len);
            assert_eq!(values[len - 1].to_bits(), 0);
            values[len - 1] = len as f32;
            assert_eq!(floats.len(), whole_lines(len));
        }
        assert_eq!([0, 15, 16, 17].map(|i| floats.first(18)[i] as usize), [1, 16, 17, 0]);
    }
}
