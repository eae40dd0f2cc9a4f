//! Asking memory for weights before they are used: how far ahead within a product, and for what while a member waits for the next one.

use super::matrix::PackedMatrix;
use crate::prefetch::{Cache, LINE, ask};
use crate::team::Member;
use std::collections::HashMap;
use std::ptr;

/// How far ahead a single tile asks for weights, in bytes, if its kernel knows no better. What memory gives in its latency is 3 to 4 KiB a
/// core; one thread reads 13 GB/s of bytes with 1 KiB, 15 with 4 KiB, 17 to 19 with 8 KiB.
pub(super) const AHEAD: usize = 8192;

/// The same for weights of plain floats, of which a step takes the fewer operations the more bytes it has: 8 rows +2.5 %, 1 row +2 %.
pub(super) const FLOATS_AHEAD: usize = 4096;

/// The same for integers of 16 bits: 8 rows +4 % over the distance of floats.
pub(super) const WORDS_AHEAD: usize = 12_288;

/// What a tile asks memory for while it reads weights: some bytes for each step that it does.
///
/// Of several tiles each asks for its part of what all of them read next: the first one alone would wait for memory, which then were idle
/// beside the others. Nobody reads through the addresses.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    at: *const u8,
    /// Bytes of a step.
    each: usize,
    /// From what one tile asks for to what the next one does.
    tile: usize,
    to: Cache,
}

impl Ahead {
    /// Nothing but the `bytes` that are read anyway.
    pub(super) fn nothing(bytes: &[u8]) -> Self {
        Ahead { at: bytes.as_ptr(), each: 0, tile: 0, to: Cache::Second }
    }

    /// What lies `distance` behind the `bytes` that a single tile reads, `step` of them at a time.
    pub(super) fn of_one(bytes: &[u8], distance: usize, step: usize) -> Self {
        Ahead { at: bytes.as_ptr().wrapping_add(distance), each: step, tile: 0, to: Cache::preferred() }
    }

    /// The first of `tiles` parts of what lies `distance` behind the `bytes` that each tile reads in `steps` steps of `step` bytes.
    pub(super) fn of_many(bytes: &[u8], distance: usize, step: usize, steps: usize, tiles: usize) -> Self {
        let each = step.div_ceil(tiles);
        Ahead { at: bytes.as_ptr().wrapping_add(distance), each, tile: steps * each, to: Cache::preferred() }
    }

    /// What the tile asks for that comes so many tiles later.
    pub(super) fn after(self, tiles: usize) -> Self {
        Ahead { at: self.at.wrapping_add(tiles * self.tile), ..self }
    }

    /// Whether each of several tiles asks for a part.
    pub(super) fn is_shared(self) -> bool {
        self.tile > 0
    }

    /// What lies `bytes` behind it.
    pub(super) fn behind(self, bytes: usize) -> Self {
        Ahead { at: self.at.wrapping_add(bytes), ..self }
    }

    /// What is asked for from step `step` on.
    pub(super) fn from(self, step: usize) -> Self {
        Ahead { at: self.at.wrapping_add(step * self.each), ..self }
    }

    /// The same while `bytes` are read instead of `before`, but no farther behind them than `most` bytes.
    pub(super) fn instead(self, before: &[u8], bytes: &[u8], most: usize) -> Self {
        let distance = self.at.addr().wrapping_sub(before.as_ptr().addr());
        Ahead { at: bytes.as_ptr().wrapping_add(distance.min(most)), ..self }
    }

    /// Asks for a step of at most a line, and goes on to the next one.
    #[inline(always)]
    pub(super) fn ask_line(&mut self) {
        ask(self.at, self.to);
        self.at = self.at.wrapping_add(self.each);
    }

    /// Asks for step `step`, of `whole` bytes unless tiles share them. With a constant, it is an instruction a line.
    #[inline(always)]
    pub(super) fn ask_for(&self, step: usize, whole: usize) {
        if self.is_shared() {
            return self.ask_share(step, 1);
        }
        if self.each == 0 {
            return;
        }
        let at = self.at.wrapping_add(step * self.each);
        let ask_all = |to: Cache| (0..whole.div_ceil(LINE)).for_each(|line| ask(at.wrapping_add(line * LINE), to));
        // Asked outside the loop.
        match self.to {
            Cache::First => ask_all(Cache::First),
            Cache::Second => ask_all(Cache::Second),
        }
    }

    /// Asks for `steps` steps from step `first` on, of which tiles share lines: each one is asked for where it begins.
    #[inline(always)]
    pub(super) fn ask_share(&self, first: usize, steps: usize) {
        self.from(first).by_lines().ask(steps);
    }

    /// The same by lines: where shares are less than a line a step, each one is asked for once.
    #[inline(always)]
    pub(super) fn by_lines(self) -> Lines {
        let next = self.at.map_addr(|at| at.next_multiple_of(LINE));
        Lines { next, until: self.at.addr(), each: self.each, to: self.to }
    }
}

/// The lines that [`Ahead`] asks for, step by step.
pub(super) struct Lines {
    next: *const u8,
    until: usize,
    /// Bytes of a step.
    each: usize,
    to: Cache,
}

impl Lines {
    /// Asks for those that begin within the next `steps` steps.
    #[inline(always)]
    pub(super) fn ask(&mut self, steps: usize) {
        self.until += steps * self.each;
        while self.next.addr() < self.until {
            ask(self.next, self.to);
            self.next = self.next.wrapping_add(LINE);
        }
    }
}

/// Which matrix is read first in a call, and which one in the call that follows: a model's steps read theirs in the same order.
#[derive(Default)]
pub(super) struct Order {
    /// Each matrix that a call began with, and the place of the one that the call after it began with last time.
    all: Vec<(First, Option<usize>)>,
    /// Places by addresses.
    places: HashMap<usize, usize>,
    /// The place of the last call's.
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
        let expected = self.last.and_then(|last| self.all[last].1);
        let place = match expected.filter(|&place| self.all[place].0.start == start) {
            Some(place) => place,
            None => *self.places.entry(start).or_insert_with(|| {
                self.all.push((first, None));
                self.all.len() - 1
            }),
        };
        self.all[place].0 = first;
        if let Some(last) = self.last.replace(place) {
            self.all[last].1 = Some(place);
        }
        self.all[place].1.map(|next| self.all[next].0)
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
    fn tiles_together_ask_for_all_that_is_read_next() {
        let bytes = [0; 4];
        for (step, steps) in [(64, 18), (16, 100), (288, 5), (64, 1)] {
            for tiles in 1..40 {
                let all = Ahead::of_many(&bytes, 1000, step, steps, tiles);
                let start = bytes.as_ptr().addr() + 1000;
                let parts = (0..tiles).map(|tile| all.after(tile));
                // Each begins where the one before ended, and the last one ends behind the last step.
                assert!(parts.clone().zip(parts.skip(1)).all(|(a, b)| a.from(steps).at == b.at));
                let end = all.after(tiles).at.addr();
                assert!(all.at.addr() == start && (step * steps..(step + tiles) * steps).contains(&(end - start)));
            }
        }
    }

    #[test]
    fn every_line_begins_within_one_step() {
        let bytes = [0; 4];
        for each in [0, 1, 18, 64, 100, 288] {
            let ahead = Ahead { at: bytes.as_ptr().wrapping_add(17), each, tile: 0, to: Cache::Second };
            let mut lines = ahead.by_lines();
            let mut asked = 0;
            for steps in [2, 1, 5, 11] {
                let before = lines.next.addr();
                lines.ask(steps);
                asked += (lines.next.addr() - before) / LINE;
            }
            assert_eq!(asked, ((each * 19 + ahead.at.addr() % LINE).div_ceil(LINE).max(1) - 1));
        }
    }

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
