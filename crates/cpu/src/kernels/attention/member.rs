//! One member's part of a call: units as long as there are any, then the merging of partitions that others computed.

use super::Attend;
use super::blocks::Blocks;
use super::partition::{Partial, Source, attend_part};
use super::plan::{PART, Plan, Tile, partial_len};
use super::stored::Stored;
use super::tiled::rows_at_once;
use crate::kernels::exp::exp;
use crate::kernels::lanes::{Kernel, LANES, Lanes};
use crate::kv::Shape;
use crate::team::{Chunks, Disjoint, Member};
use std::marker::PhantomData;

/// What all members share.
pub(super) struct Job<'a, T> {
    pub(super) plan: &'a Plan,
    pub(super) chunks: &'a Chunks,
    pub(super) attend: &'a Attend<'a>,
    pub(super) q: &'a [f32],
    pub(super) out: &'a Disjoint<'a, f32>,
    pub(super) partials: &'a Disjoint<'a, f32>,
    pub(super) stored: PhantomData<T>,
}

/// Values of a member's work space for tiles of up to `rows` rows.
pub(super) fn scratch_len(rows: usize, shape: &Shape) -> usize {
    // Queries, scores, one partition's result, the merged result.
    rows * (shape.dim + PART) + 2 * partial_len(rows, shape.padded)
}

impl<'a, T: Stored> Job<'a, T> {
    /// The part of `member`, or all of it.
    pub(super) fn of(&'a self, member: Option<&'a Member<'a>>, scratch: &'a mut [f32]) -> Part<'a, T> {
        Part { job: self, member, scratch }
    }

    #[inline(always)]
    fn blocks(&self, (tile, part): (usize, usize)) -> Blocks<'a, T> {
        let Attend { cache, place, .. } = self.attend;
        Blocks::find(cache.memory(), cache.shape(), place, &self.plan.tiles[tile], part)
    }

    /// Tile and partition that are likely to be read after `part` of unit `index`: the unit's next partition, or the unit that will be
    /// next in line when the other members have taken one each.
    #[inline(always)]
    fn next(&self, index: usize, part: usize, members: usize) -> Option<(usize, usize)> {
        let unit = &self.plan.units[index];
        if unit.part.is_none() && part + 1 < self.plan.tiles[unit.tile].parts().end {
            return Some((unit.tile, part + 1));
        }
        let unit = self.plan.units.get(index + members)?;
        Some((unit.tile, unit.part.unwrap_or_else(|| self.plan.tiles[unit.tile].parts().start)))
    }
}

/// One member's part.
pub(super) struct Part<'a, T> {
    job: &'a Job<'a, T>,
    member: Option<&'a Member<'a>>,
    scratch: &'a mut [f32],
}

impl<T: Stored> Kernel for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        let Part { job, member, scratch } = self;
        let Attend { cache, spec, .. } = *job.attend;
        let (shape, most) = (cache.shape(), job.plan.most_rows);
        let (q, scratch) = scratch.split_at_mut(most * shape.dim);
        let (s, scratch) = scratch.split_at_mut(most * PART);
        let (own, merged) = scratch.split_at_mut(partial_len(most, shape.padded));
        let members = member.map_or(1, |member| member.threads);
        let mut guess = None;
        while let Some(index) = job.chunks.next() {
            let unit = &job.plan.units[index];
            let tile = &job.plan.tiles[unit.tile];
            let (rows, all) = (tile.rows(), tile.parts());
            let len = partial_len(rows, shape.padded);
            pack::<L>(job.q, tile, spec.num_heads, shape.dim, spec.scale, q);
            let parts = unit.part.map_or(all.clone(), |part| part..part + 1);
            let mut sums = Partial::new(merged, rows, shape.padded);
            for part in parts {
                let memory = match tile.partials {
                    None => &mut own[..len],
                    Some(start) => {
                        let start = start + (part - all.start) * len;
                        // SAFETY: each partition of a tile is one unit, and each unit is taken once.
                        unsafe { job.partials.slice(start..start + len) }
                    }
                };
                let mut result = Partial::new(&mut *memory, rows, shape.padded);
                let (at, next_at) = ((unit.tile, part), job.next(index, part, members));
                let blocks = match guess.take() {
                    Some((guessed, blocks)) if guessed == at => blocks,
                    _ => job.blocks(at),
                };
                guess = next_at.map(|at| (at, job.blocks(at)));
                // Where nothing is next, what was read may be asked for once more.
                let next = guess.as_ref().map_or(&blocks, |(_, next)| next);
                let source = Source { blocks: &blocks, next, softcap: spec.softcap };
                attend_part(zero, &source, tile, part, q, s, &mut result);
                if tile.partials.is_none() {
                    let done = Done { memory, rows, padded: shape.padded };
                    for row in 0..rows {
                        merge(zero, tile, row, part, done, &mut sums, row);
                    }
                }
            }
            if tile.partials.is_none() {
                for row in 0..rows {
                    // SAFETY: each tile without partial results is one unit, and each unit is taken once.
                    unsafe { finish(zero, job, tile, row, &mut sums, row) };
                }
            }
        }
        if job.plan.partials == 0 {
            return;
        }
        if let Some(member) = member {
            member.barrier();
        }
        let split = || job.plan.tiles.iter().filter_map(|tile| tile.partials.map(|start| (tile, start)));
        let all = split().map(|(tile, _)| tile.rows()).sum();
        let share = member.map_or(0..all, |member| member.share(all));
        let mut before = 0;
        for (tile, start) in split() {
            let (rows, parts) = (tile.rows(), tile.parts());
            let len = partial_len(rows, shape.padded);
            // SAFETY: partial results are no longer written.
            let memory = unsafe { job.partials.read(start..start + parts.len() * len) };
            for row in share.start.saturating_sub(before).min(rows)..share.end.saturating_sub(before).min(rows) {
                let mut sums = Partial::new(&mut *merged, 1, shape.padded);
                for (part, memory) in parts.clone().zip(memory.chunks_exact(len)) {
                    merge(zero, tile, row, part, Done { memory, rows, padded: shape.padded }, &mut sums, 0);
                }
                // SAFETY: members' shares of rows do not overlap.
                unsafe { finish(zero, job, tile, row, &mut sums, 0) };
            }
            before += rows;
        }
    }
}

/// The results of a tile's rows over one partition, to read.
#[derive(Clone, Copy)]
struct Done<'a> {
    memory: &'a [f32],
    rows: usize,
    padded: usize,
}

/// Packs the tile's query rows, scaled, in groups of [`rows_at_once`] rows `[D][rows]`.
#[inline(always)]
fn pack<L: Lanes>(q: &[f32], tile: &Tile, num_heads: usize, dim: usize, scale: f32, packed: &mut [f32]) {
    let mut first = 0;
    while first < tile.rows() {
        let n = rows_at_once::<L>(tile.rows() - first);
        for row in first..first + n {
            let head = tile.head * tile.group + row % tile.group;
            let from = &q[((tile.row + row / tile.group) * num_heads + head) * dim..][..dim];
            let to = packed[first * dim..][row - first..].iter_mut().step_by(n);
            for (to, from) in to.zip(from) {
                *to = from * scale;
            }
        }
        first += n;
    }
}

/// Folds what `row` got from partition `part` into `sums[at]`.
#[inline(always)]
fn merge<L: Lanes>(zero: L, tile: &Tile, row: usize, part: usize, new: Done<'_>, sums: &mut Partial<'_>, at: usize) {
    if tile.span(row, part).is_empty() {
        return;
    }
    let (o, ml) = new.memory.split_at(new.rows * new.padded);
    let (o, m, l) = (&o[row * new.padded..][..new.padded], ml[row], ml[new.rows + row]);
    let sum = &mut sums.o[at * new.padded..][..new.padded];
    if part == tile.first_part(row) {
        (sums.m[at], sums.l[at]) = (m, l);
        sum.copy_from_slice(o);
        return;
    }
    let top = sums.m[at].max(m);
    let (old, new) = (exp(zero.splat(sums.m[at] - top)), exp(zero.splat(m - top)));
    sums.m[at] = top;
    sums.l[at] = l.mul_add(new.first(), sums.l[at] * old.first());
    let ((sum, _), (o, _)) = (sum.as_chunks_mut::<LANES>(), o.as_chunks::<LANES>());
    for (sum, o) in sum.iter_mut().zip(o) {
        zero.load(o).mul_add(new, zero.load(sum) * old).store(sum);
    }
}

/// Divides `sums[at]` by its sum of exponentials and writes it as `row`'s output.
///
/// # Safety
/// No other member writes or reads the row of the output.
#[inline(always)]
unsafe fn finish<L: Lanes, T>(zero: L, job: &Job<'_, T>, tile: &Tile, row: usize, sums: &mut Partial<'_>, at: usize) {
    let (shape, heads) = (job.attend.cache.shape(), job.attend.spec.num_heads);
    let sum = &mut sums.o[at * shape.padded..][..shape.padded];
    let head = tile.head * tile.group + row % tile.group;
    let (mut total, mut own) = (sums.l[at], 1.0);
    if let Some(sinks) = job.attend.sinks {
        // As one more partition, the last, of one token without V.
        let top = sums.m[at].max(sinks[head]);
        own = exp(zero.splat(sums.m[at] - top)).first();
        total = total.mul_add(own, exp(zero.splat(sinks[head] - top)).first());
    }
    let inverse = zero.splat(own / total);
    for sum in sum.as_chunks_mut::<LANES>().0 {
        // The added zero makes a positive zero of a negative one.
        zero.load(sum).mul_add(inverse, zero).store(sum);
    }
    let start = ((tile.row + row / tile.group) * heads + head) * shape.dim;
    // SAFETY: the row is this member's, by the caller.
    let out = unsafe { job.out.slice(start..start + shape.dim) };
    out.copy_from_slice(&sum[..shape.dim]);
}
