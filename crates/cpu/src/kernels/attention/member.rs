//! One member's part of a call: units as long as there are any, then the merging of partitions that others computed.

use super::Attend;
use super::blocks::Blocks;
use super::floats::floats_len;
use super::partition::{Partial, Rows, Source, attend_part};
use super::plan::{PART, Plan, Tile, partial_len};
use super::queries;
use super::stored::Stored;
use crate::kernels::exp::exp;
use crate::kernels::lanes::{Kernel, LANES, Lanes};
use crate::team::{Chunks, Disjoint, Member};
use std::marker::PhantomData;
use std::ops::Range;

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
pub(super) fn scratch_len(rows: usize, dim: usize, padded: usize) -> usize {
    // Queries, scores, floats, one partition's result, the merged result.
    rows * (queries::row_len(dim) + PART) + floats_len(dim) + 2 * partial_len(rows, padded)
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
        let (q, scratch) = scratch.split_at_mut(most * queries::row_len(shape.dim));
        let (s, scratch) = scratch.split_at_mut(most * PART);
        let (floats, scratch) = scratch.split_at_mut(floats_len(shape.dim));
        let (own, merged) = scratch.split_at_mut(partial_len(most, shape.padded));
        let members = member.map_or(1, |member| member.threads);
        let mut guess = None;
        while let Some(index) = job.chunks.next() {
            let unit = &job.plan.units[index];
            let tile = &job.plan.tiles[unit.tile];
            let (rows, all) = (tile.rows(), tile.parts());
            let len = partial_len(rows, shape.padded);
            queries::lay_out(zero, job.q, tile, spec.num_heads, shape.dim, spec.scale, q);
            let parts = unit.part.map_or(all.clone(), |part| part..part + 1);
            for part in parts.clone() {
                let memory = match tile.partials {
                    // The first partition is what others are merged into.
                    None if part == parts.start => &mut merged[..len],
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
                attend_part(zero, &source, &Rows { tile, part, q }, s, floats, &mut result);
                if tile.partials.is_none() && part != parts.start {
                    merge(zero, 0..rows, &own[..len], &mut Partial::new(&mut merged[..len], rows, shape.padded));
                }
            }
            if tile.partials.is_none() {
                // SAFETY: each tile without partial results is one unit, and each unit is taken once.
                unsafe { finish(zero, job, tile, 0..rows, &Partial::new(&mut merged[..len], rows, shape.padded)) };
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
            let mine = share.start.saturating_sub(before).min(rows)..share.end.saturating_sub(before).min(rows);
            if !mine.is_empty() {
                let (first, others) = memory.split_at(len);
                merged[..len].copy_from_slice(first);
                let mut sums = Partial::new(&mut merged[..len], rows, shape.padded);
                for other in others.chunks_exact(len) {
                    merge(zero, mine.clone(), other, &mut sums);
                }
                // SAFETY: members' shares of rows do not overlap.
                unsafe { finish(zero, job, tile, mine, &sums) };
            }
            before += rows;
        }
    }
}

/// Folds what `rows` got from a partition into `sums`, where they got something from one before or have a sum of 0. Of the tile's other
/// rows sums may become anything.
#[inline(always)]
fn merge<L: Lanes>(zero: L, rows: Range<usize>, new: &[f32], sums: &mut Partial<'_>) {
    let (o, ml) = new.split_at(sums.o.len());
    let (m, l) = ml.as_chunks::<LANES>().0.split_at(sums.m.len());
    let padded = sums.o.len() / sums.rows;
    for vector in rows.start / LANES..rows.end.div_ceil(LANES) {
        let (m, old_m) = (zero.load(&m[vector]), zero.load(&sums.m[vector]));
        let top = old_m.max(m);
        let (old, new) = (exp(old_m - top), exp(m - top));
        top.store(&mut sums.m[vector]);
        zero.load(&l[vector]).mul_add(new, zero.load(&sums.l[vector]) * old).store(&mut sums.l[vector]);
        let mut factors = [[0.0; LANES]; 2];
        old.store(&mut factors[0]);
        new.store(&mut factors[1]);
        for row in rows.start.max(vector * LANES)..rows.end.min((vector + 1) * LANES) {
            let [old, new] = factors.map(|factors| factors[row % LANES]);
            let (old, new) = (zero.splat(old), zero.splat(new));
            let (sum, o) = (&mut sums.o[row * padded..][..padded], &o[row * padded..][..padded]);
            for (sum, o) in sum.as_chunks_mut::<LANES>().0.iter_mut().zip(o.as_chunks::<LANES>().0) {
                zero.load(o).mul_add(new, zero.load(sum) * old).store(sum);
            }
        }
    }
}

/// Divides the sums of `rows` by their sums of exponentials and writes the output.
///
/// # Safety
/// No other member writes or reads the rows of the output.
#[inline(always)]
unsafe fn finish<L: Lanes, T>(zero: L, job: &Job<'_, T>, tile: &Tile, rows: Range<usize>, sums: &Partial<'_>) {
    let (shape, heads) = (job.attend.cache.shape(), job.attend.spec.num_heads);
    let head_of = |row| tile.head * tile.group + row % tile.group;
    for vector in rows.start / LANES..rows.end.div_ceil(LANES) {
        let (mut total, mut own) = (zero.load(&sums.l[vector]), zero.splat(1.0));
        if let Some(all) = job.attend.sinks {
            // As one more partition, the last, of one token without V.
            let (m, mut sinks) = (zero.load(&sums.m[vector]), [0.0; LANES]);
            for (lane, sink) in sinks.iter_mut().enumerate() {
                *sink = all[head_of(vector * LANES + lane)];
            }
            let sinks = zero.load(&sinks);
            let top = m.max(sinks);
            own = exp(m - top);
            total = total.mul_add(own, exp(sinks - top));
        }
        let mut inverse = [0.0; LANES];
        (own / total).store(&mut inverse);
        for row in rows.start.max(vector * LANES)..rows.end.min((vector + 1) * LANES) {
            let inverse = zero.splat(inverse[row % LANES]);
            let start = ((tile.row + row / tile.group) * heads + head_of(row)) * shape.value_dim;
            // SAFETY: the row is this member's, by the caller.
            let out = unsafe { job.out.slice(start..start + shape.value_dim) };
            let (sums, (out, last)) = (&sums.o[row * shape.padded..][..shape.padded], out.as_chunks_mut::<LANES>());
            let (sums, _) = sums.as_chunks::<LANES>();
            // The added zero makes a positive zero of a negative one.
            for (out, sum) in out.iter_mut().zip(sums) {
                zero.load(sum).mul_add(inverse, zero).store(out);
            }
            if !last.is_empty() {
                zero.load(&sums[out.len()]).mul_add(inverse, zero).store_part(last);
            }
        }
    }
}
