//! What a step's attention is cut into, and in which order members take it.

use crate::floats::whole_lines;
use crate::kernels::lanes::LANES;
use crate::kv::Shape;
use nxd_ops::Batch;
use std::cmp::Reverse;
use std::ops::Range;

/// Tokens of a partition. Partitions are anchored at position 0: softmax inside each, merged in order.
pub(super) const PART: usize = 256;

/// Query rows of a tile at most: K and V of a partition are read once for them.
const QUERIES: usize = 16;
/// Rows (queries times heads of a group) at which a tile has enough of them.
const ROWS: usize = 64;

/// Neighbouring queries of a request with all query heads of one KV head. Row `i` of a tile is query `i / group`, head `i % group`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub(super) request: usize,
    pub(super) head: usize,
    /// Row of the first query in the batch.
    pub(super) row: usize,
    pub(super) queries: usize,
    /// Position of the first query.
    pub(super) position: usize,
    /// Query heads of a KV head.
    pub(super) group: usize,
    /// [`inverse_of`] that.
    pub(super) inverse: u64,
    pub(super) window: Option<usize>,
    pub(super) chunk: Option<usize>,
    /// Where partial results of its partitions lie, if other members may compute them.
    pub(super) partials: Option<usize>,
}

impl Tile {
    pub(super) fn rows(&self) -> usize {
        self.queries * self.group
    }

    /// The query of row `row`: the quotient by the group. No division, of which there would be hundreds a partition, 3 % of a prompt's
    /// attention.
    #[inline(always)]
    fn query_of(&self, row: usize) -> usize {
        ((row as u64 * self.inverse) >> 40) as usize
    }

    /// The row behind the last one of row `row`'s query.
    #[inline(always)]
    pub(super) fn end_of_query(&self, row: usize) -> usize {
        (self.query_of(row) + 1) * self.group
    }

    /// The positions that row `row` sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> Range<usize> {
        let end = self.position + self.query_of(row) + 1;
        let in_window = self.window.map_or(0, |window| end.saturating_sub(window));
        let in_chunk = self.chunk.map_or(0, |chunk| (end - 1) / chunk * chunk);
        in_window.max(in_chunk)..end
    }

    /// The tokens of partition `part` that row `row` sees, counted from the partition's start.
    #[inline(always)]
    pub(super) fn span(&self, row: usize, part: usize) -> Range<usize> {
        let (seen, start) = (self.visible(row), part * PART);
        seen.start.saturating_sub(start).min(PART)..seen.end.saturating_sub(start).min(PART)
    }

    /// The partitions that its rows see.
    pub(super) fn parts(&self) -> Range<usize> {
        let (start, end) = (self.visible(0).start, self.visible(self.rows() - 1).end);
        start / PART..end.div_ceil(PART)
    }

    /// The tokens of `part` that some row sees, counted from the partition's start.
    #[inline(always)]
    pub(super) fn seen(&self, part: usize) -> Range<usize> {
        self.span(0, part).start..self.span(self.rows() - 1, part).end
    }
}

/// What one member computes at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) tile: usize,
    /// One partition, to be merged with the tile's others after all are done; `None` for all of them in order.
    pub(super) part: Option<usize>,
    cost: usize,
}

/// What a plan is for, beside the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlanKey {
    pub(super) shape: Shape,
    /// Query heads of a KV head.
    pub(super) group: usize,
    pub(super) window: Option<usize>,
    pub(super) chunk: Option<usize>,
    /// Threads that share the work.
    pub(super) members: usize,
}

/// The plans of the last step: one for each kind of attention layer, as layers of a kind cut the same rows in the same way.
#[derive(Debug, Default)]
pub(super) struct Plans {
    plans: Vec<Plan>,
}

/// More kinds than a model has: behind them is rather a model that is no longer used.
const MOST_PLANS: usize = 8;

impl Plans {
    /// The plan for the rows of `batch`.
    pub(super) fn get(&mut self, key: &PlanKey, batch: &Batch) -> &Plan {
        let found = self.plans.iter().position(|plan| plan.key == *key);
        let index = found.unwrap_or_else(|| {
            if self.plans.len() == MOST_PLANS {
                self.plans.clear();
            }
            self.plans.push(Plan::new(*key));
            self.plans.len() - 1
        });
        let plan = &mut self.plans[index];
        // Within a request positions follow each other: the first stands for all.
        let positions = || (0..batch.num_requests()).map(|r| batch.positions.get(batch.rows(r).start).copied());
        if plan.query_starts != batch.query_starts || !plan.first_positions.iter().copied().eq(positions()) {
            plan.query_starts.clone_from(&batch.query_starts);
            plan.first_positions.clear();
            plan.first_positions.extend(positions());
            plan.make(batch);
        }
        plan
    }
}

/// The units of one call, the longest first.
#[derive(Debug)]
pub(super) struct Plan {
    key: PlanKey,
    /// The rows that it was made for.
    query_starts: Vec<u32>,
    first_positions: Vec<Option<u32>>,
    pub(super) tiles: Vec<Tile>,
    pub(super) units: Vec<Unit>,
    /// Rows of the largest tile.
    pub(super) most_rows: usize,
    /// Values of all partial results.
    pub(super) partials: usize,
    /// Pairs of a row and a token.
    pub(super) cost: usize,
}

/// Values of the result of `rows` rows over one partition: weighted V, and in whole vectors largest scores and sums; in whole cache lines.
pub(super) fn partial_len(rows: usize, padded: usize) -> usize {
    whole_lines(rows * padded + 2 * rows.next_multiple_of(LANES))
}

/// Queries of a tile at most, where `group` query heads share a KV head.
pub(super) fn most_queries(group: usize) -> usize {
    (ROWS / group).clamp(1, QUERIES)
}

/// What a row of a tile, times 2^-40, is multiplied with to find its query: exact while a row times the group is below 2^40.
fn inverse_of(group: usize) -> u64 {
    (1 << 40) / group as u64 + 1
}

/// A tile is split among `members` where this many of its size would be more than all of the work: so fewer than this many are.
pub(super) fn most_split(members: usize) -> usize {
    members.saturating_mul(4)
}

impl Plan {
    fn new(key: PlanKey) -> Self {
        let (query_starts, first_positions, tiles, units) = Default::default();
        Plan { key, query_starts, first_positions, tiles, units, most_rows: 0, partials: 0, cost: 0 }
    }

    /// Plans anew, in the memory of the last plan.
    fn make(&mut self, batch: &Batch) {
        let PlanKey { shape, group, window, chunk, members } = self.key;
        self.tiles.clear();
        self.units.clear();
        (self.most_rows, self.partials, self.cost) = (0, 0, 0);
        let (most, inverse) = (most_queries(group), inverse_of(group));
        for request in 0..batch.num_requests() {
            let rows = batch.rows(request);
            for row in rows.clone().step_by(most) {
                let (queries, position) = (most.min(rows.end - row), batch.positions[row] as usize);
                let partials = None;
                let tile = Tile { request, head: 0, row, queries, position, group, inverse, window, chunk, partials };
                self.most_rows = self.most_rows.max(tile.rows());
                self.cost += shape.heads * tile.parts().map(|part| tile.rows() * tile.seen(part).len()).sum::<usize>();
                self.tiles.extend((0..shape.heads).map(|head| Tile { head, ..tile }));
            }
        }
        for (index, tile) in self.tiles.iter_mut().enumerate() {
            let (rows, parts) = (tile.rows(), tile.parts());
            let cost = |part| rows * tile.seen(part).len();
            let whole: usize = parts.clone().map(cost).sum();
            // A tile that alone could keep the others waiting is done by several members. Bits do not depend on it.
            if members > 1 && parts.len() > 1 && whole * most_split(members) > self.cost {
                self.units.extend(parts.clone().map(|part| Unit { tile: index, part: Some(part), cost: cost(part) }));
                tile.partials = Some(self.partials);
                self.partials += parts.len() * partial_len(rows, shape.padded);
            } else {
                self.units.push(Unit { tile: index, part: None, cost: whole });
            }
        }
        // Where the cost is the same, in the order of addresses.
        self.units.sort_unstable_by_key(|unit| (Reverse(unit.cost), unit.tile, unit.part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rows_query_is_its_quotient_by_the_group() {
        for group in (1..=300).chain([1000, 65_535, 65_536, (1 << 20) - 1]) {
            let (queries, position, window, chunk, partials) = (most_queries(group), 0, None, None, None);
            let inverse = inverse_of(group);
            let tile = Tile { request: 0, head: 0, row: 0, queries, position, group, inverse, window, chunk, partials };
            for row in 0..tile.rows() {
                assert_eq!((tile.query_of(row), tile.end_of_query(row)), (row / group, (row / group + 1) * group));
            }
        }
    }
}
