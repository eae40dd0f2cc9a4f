//! Asking memory for weights before they are used: how far ahead within a product, and for what while a member waits for the next one.

use super::matrix::PackedMatrix;
use crate::team::Member;
use std::collections::HashMap;
use std::ptr;

/// How far ahead a single tile asks for weights, in bytes. What memory gives in its latency is 3 to 4 KiB a core; one thread reads 13 GB/s
/// of bytes with 1 KiB, 15 with 4 KiB, 17 to 19 with 8 KiB.
pub(super) const AHEAD: usize = 8192;

/// The same for weights of plain floats, of which a step takes the fewer operations the more bytes it has: 8 rows +2.5 %, 1 row +2 %.
pub(super) const FLOATS_AHEAD: usize = 4096;

/// What a single tile asks for while it reads `bytes`: not more than the `left` bytes behind them, as nobody asks for another member's.
pub(super) fn ahead_of(bytes: &[u8], left: usize) -> *const u8 {
    bytes.as_ptr().wrapping_add(AHEAD.min(left))
}

/// Which matrix is read first in a call, and which one in the call that follows: a model's steps read theirs in the same order.
#[derive(Default)]
pub(super) struct Order {
    follows: HashMap<usize, First>,
    last: Option<usize>,
}

/// The matrix that a call reads first.
#[derive(Clone, Copy)]
pub(super) struct First {
    /// Its address: nobody reads through it.
    start: usize,
    panel_bytes: usize,
    panels: usize,
}

impl Order {
    /// Notes that a call begins with `weight`, and says what the call after it began with last time; nothing of a matrix that is not
    /// packed.
    pub(super) fn begin(&mut self, weight: &PackedMatrix) -> Option<First> {
        if weight.data().is_empty() {
            return None;
        }
        let start = weight.data().as_ptr().addr();
        let first = First { start, panel_bytes: weight.panel_bytes(), panels: weight.panels() };
        if let Some(last) = self.last.replace(start) {
            self.follows.insert(last, first);
        }
        self.follows.get(&start).copied()
    }
}

impl First {
    /// The member's share of it.
    pub(super) fn share(&self, member: &Member<'_>) -> *const [u8] {
        let share = member.share(self.panels);
        let start = ptr::without_provenance(self.start.wrapping_add(share.start * self.panel_bytes));
        ptr::slice_from_raw_parts(start, share.len() * self.panel_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::kernels::linear::Activations;
    use crate::team::Team;
    use nxd_ops::{Format, LocalWeight, Role, Sharding, StoredWeight, WeightSpec};

    #[test]
    fn from_the_second_round_on_it_is_known_what_follows() {
        let team = Team::new(1);
        let matrices = [16, 32, 48].map(|rows| {
            let shape = [rows, 4];
            let spec = WeightSpec { name: "w".into(), role: Role::Matrix, shape, sharding: Sharding::Replicated };
            let data = vec![0; rows * 16].into();
            let stored =
                StoredWeight { origin: "test".into(), format: Format::F32, shape, data, order: None, scales: None };
            PackedMatrix::pack(&LocalWeight::new(&spec, stored, 0).unwrap(), Activations::F32, Isa::Scalar, &team)
        });
        let mut order = Order::default();
        assert!(matrices.iter().all(|matrix| order.begin(matrix).is_none()));
        for (i, matrix) in matrices.iter().enumerate() {
            let follows = &matrices[(i + 1) % matrices.len()];
            let first = order.begin(matrix);
            team.run(&|member| {
                let share = first.unwrap().share(member);
                assert_eq!((share.cast(), share.len()), (follows.data().as_ptr(), follows.data().len()));
            });
        }
    }
}
