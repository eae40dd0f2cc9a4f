//! Products of one input in one job of the team: who does which panels, in which order.

use super::ahead::First;
use super::int8;
use super::matrix::PackedMatrix;
use super::product::{AREA, PASS, Part, Product};
use super::scratch::{Job, PanelRow, Prepared, Scratch, Turns, same_input};
use crate::isa::Isa;
use crate::team::{Member, Team, share_of};
use std::borrow::Borrow;
use std::ops::Range;

/// Several products of the same input, `x · weightᵀ` each, in one job of the team: the input is prepared once for all of them.
///
/// # Shapes
/// `x` is `[rows, K]`, `outs[i]` is `[rows, weights[i].rows()]`. A weight that is cut along K takes the rank's own columns as `x`.
///
/// # Panics
/// When lengths do not fit these shapes, or this CPU does not have the instructions of `isa`.
pub fn linears(
    team: &Team,
    isa: Isa,
    x: &[f32],
    rows: usize,
    weights: &[&PackedMatrix],
    outs: &mut [&mut [f32]],
    scratch: &mut Scratch,
) {
    assert_eq!(weights.len(), outs.len(), "one output a weight");
    for (weight, out) in weights.iter().zip(&*outs) {
        assert_eq!(out.len(), rows * weight.rows(), "an output of {rows} rows of {}", weight.rows());
    }
    let outs = outs.iter_mut().zip(weights).map(|(out, weight)| (out.as_mut_ptr(), weight.rows()));
    let Some(call) = Call::new(team, isa, x, rows, weights, outs, scratch) else { return };
    call.run(team);
}

/// The products of several heads, each of its own columns of `x` ([`PackedMatrix::reading_from`]), in one job of the team.
///
/// # Shapes
/// `x` is `[rows, heads * K]`, `out` is `[rows, heads * N]`.
///
/// # Panics
/// As [`linears`].
pub fn linear_heads(
    team: &Team,
    isa: Isa,
    x: &[f32],
    rows: usize,
    heads: &[PackedMatrix],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let outputs = heads.first().map_or(0, PackedMatrix::rows);
    assert!(heads.iter().all(|head| head.rows() == outputs), "heads with as many outputs each");
    let stride = heads.len() * outputs;
    assert_eq!(out.len(), rows * stride, "an output of {rows} rows of {stride}");
    let base = out.as_mut_ptr();
    let outs = (0..heads.len()).map(|head| (base.wrapping_add(head * outputs), stride));
    let Some(call) = Call::new(team, isa, x, rows, heads, outs, scratch) else { return };
    call.run(team);
}

/// A checked call: its arguments, plan and work space.
pub(super) struct Call<'a, W> {
    isa: Isa,
    x: &'a [f32],
    weights: &'a [W],
    plan: Plan,
    pub(super) scratch: &'a Scratch,
}

impl<'a, W: Borrow<PackedMatrix> + Sync> Call<'a, W> {
    /// `None` where there is nothing to do. `outs` says where each product's results begin, and how far apart its rows are.
    pub(super) fn new(
        team: &Team,
        isa: Isa,
        x: &'a [f32],
        rows: usize,
        weights: &'a [W],
        outs: impl Iterator<Item = (*mut f32, usize)>,
        scratch: &'a mut Scratch,
    ) -> Option<Self> {
        assert!(isa.is_available(), "this CPU does not have {isa}");
        if rows == 0 || weights.is_empty() {
            return None;
        }
        let width = x.len() / rows;
        assert_eq!(x.len(), width * rows, "an input of {rows} rows");
        for weight in weights.iter().map(Borrow::borrow) {
            assert!(weight.takes(width), "an input of {width} columns times a weight of {}", weight.cols());
        }
        let isa = int8::isa_of(isa, rows, weights.iter().all(|weight| weight.borrow().is_tiled_as_it_is()));
        let plan = Plan::new(team, isa, rows, weights, outs, scratch);
        Some(Call { isa, x, weights, plan, scratch })
    }

    /// All of it, in one job of the team.
    fn run(&self, team: &Team) {
        team.run(&|member| {
            // SAFETY: each member prepares once, and takes panels of its own.
            unsafe {
                let area = self.prepare(member);
                let share =
                    |id, i: usize| self.plan.share(id, member.threads, self.weights[i].borrow(), &self.scratch.jobs[i]);
                self.hand_out(member, self.weights.len(), share, |i, part| {
                    let product = self.product(i, member);
                    product.run(&(0..self.plan.rows), &part, product.place(), area);
                });
                self.finish(member);
            }
        });
    }

    /// Prepares this member's part of the inputs, and waits until all have done so where members share them; the member's work area.
    ///
    /// # Safety
    /// Every member calls it once.
    #[allow(clippy::mut_from_ref, reason = "members share `self`; each gets the area of its number")]
    pub(super) unsafe fn prepare(&self, member: &Member<'_>) -> &mut [PanelRow] {
        let scratch = self.scratch;
        // SAFETY: each member has its own part of both.
        let (wide, area) = unsafe {
            let own = |len| member.id * len..(member.id + 1) * len;
            (scratch.wide.write(own(self.plan.wide)), scratch.areas.write(own(self.plan.area())))
        };
        for (i, (weight, job)) in self.weights.iter().zip(&scratch.jobs).enumerate() {
            if job.is_first(&scratch.jobs[..i]) {
                // SAFETY: once for each input; `isa` was checked by `new`.
                unsafe { scratch.inputs[job.input].fill(member, self.isa, self.x, weight.borrow().input(), wide) };
            }
        }
        if self.plan.rows > 1 {
            member.barrier();
        }
        area
    }

    /// Calls `f` with parts of this member's `share` of each of `jobs`, and then with parts of what others have left of theirs. Who is late
    /// for a moment, as the system or memory had it, is not waited for.
    pub(super) fn hand_out(
        &self,
        member: &Member<'_>,
        jobs: usize,
        share: impl Fn(usize, usize) -> Range<usize>,
        mut f: impl FnMut(usize, Part),
    ) {
        let all = |share: Range<usize>| Part { last: share.end, panels: share };
        if !self.plan.in_parts {
            return (0..jobs).for_each(|job| f(job, all(share(member.id, job))));
        }
        for owner in (member.id..member.threads).chain(0..member.id) {
            let len = (0..jobs).map(|job| share(owner, job).len()).sum();
            let turns = &self.scratch.turns[owner];
            while let Some(taken) = turns.take(len, self.plan.quarters()) {
                let mut before = 0;
                for job in 0..jobs {
                    let share = share(owner, job);
                    let (from, to) = (taken.start.max(before), taken.end.min(before + share.len()));
                    if from < to {
                        let panels = share.start + from - before..share.start + to - before;
                        f(job, Part { panels, last: share.end });
                    }
                    before += share.len();
                }
            }
        }
    }

    /// Puts away what the member's part needed, and says what it reads in the call that followed this one last time.
    pub(super) fn finish(&self, member: &Member<'_>) {
        // SAFETY: `isa` was checked by `new`.
        unsafe { int8::put_away(self.isa) };
        if let Some(next) = self.plan.next {
            member.reads_next(next.share(member));
        }
    }

    /// The product with weight `i`, as `member` computes it.
    ///
    /// # Safety
    /// The member has prepared the inputs.
    pub(super) unsafe fn product(&self, i: usize, member: &Member<'_>) -> Product<'a> {
        let job = &self.scratch.jobs[i];
        let (input, copy) = (&self.scratch.inputs[job.input], self.plan.copy(member));
        let unpacked = job.unpacked.as_deref();
        // SAFETY: by the caller's duties.
        let quantised = unsafe { input.quantised(copy) };
        let (weight, out, stride) = (self.weights[i].borrow(), job.out, job.stride);
        Product { isa: self.isa, weight, input, quantised, out, stride, copy, unpacked }
    }
}

/// What all members know of a call.
struct Plan {
    rows: usize,
    /// Cost of all panels of all weights.
    cost: usize,
    /// Length of a tile's widened rows; zero where no weight needs them.
    wide: usize,
    /// Panel rows of the largest panel that is not packed.
    panel: usize,
    /// Whether members take their shares part by part. Many rows are read again for each part, so that there it would cost more.
    in_parts: bool,
    /// Whether each weight is cut as it was packed, so that members read what they wrote: memory of their own NUMA node.
    as_packed: bool,
    /// What the next call reads first.
    next: Option<First>,
}

impl Plan {
    /// Makes room for everything, and notes for each weight which input it takes.
    fn new<W: Borrow<PackedMatrix>>(
        team: &Team,
        isa: Isa,
        rows: usize,
        weights: &[W],
        outs: impl Iterator<Item = (*mut f32, usize)>,
        scratch: &mut Scratch,
    ) -> Self {
        let copies = if rows == 1 { team.threads() } else { 1 };
        let mut plan = Plan {
            rows,
            cost: 0,
            wide: 0,
            panel: 0,
            in_parts: rows <= PASS && team.threads() > 1,
            as_packed: false,
            next: scratch.order.begin(weights[0].borrow()),
        };
        let mut inputs = 0;
        scratch.jobs.clear();
        for (i, (weight, (out, stride))) in weights.iter().map(Borrow::borrow).zip(outs).enumerate() {
            let earlier = weights[..i].iter().position(|other| same_input(other.borrow(), weight));
            let input = earlier.map_or(inputs, |earlier| scratch.jobs[earlier].input);
            if earlier.is_none() {
                inputs += 1;
                if scratch.inputs.len() < inputs {
                    scratch.inputs.push(Prepared::default());
                }
                scratch.inputs[input].reserve(isa, weight, rows, copies);
            }
            scratch.inputs[input].serve(isa, weight);
            let few = rows < int8::MANY_TILES * int8::most_rows(isa.vectors());
            let unpacked = weight.begin(team, few && weight.is_served_in_place());
            if unpacked.is_some() {
                plan.panel = plan.panel.max(weight.panel_bytes().div_ceil(size_of::<PanelRow>()));
            }
            scratch.jobs.push(Job { out, stride, input, before: plan.cost, unpacked });
            plan.cost += weight.panels() * plan.panel_cost(weight);
            if weight.input().is_some() {
                plan.wide = plan.wide.max(weight.cols() * scratch.inputs[input].tiles().rows(0).len());
            }
        }
        let all = weights.iter().map(Borrow::borrow);
        let longest =
            all.map(|weight: &PackedMatrix| weight.panels().div_ceil(team.threads()) * plan.panel_cost(weight));
        // Unless some members would have more to do than others, by more than a sixteenth.
        plan.as_packed = weights.len() == 1 || longest.sum::<usize>() * team.threads() <= plan.cost + plan.cost / 16;
        scratch.turns.resize_with(team.threads(), Default::default);
        scratch.turns.iter_mut().for_each(Turns::restart);
        scratch.wide.reserve(team.threads() * plan.wide);
        scratch.areas.reserve(team.threads() * plan.area());
        plan
    }

    /// Panel rows of a member's work area.
    fn area(&self) -> usize {
        AREA + self.panel
    }

    /// How much of what is left a member takes at a time: the more, the longer a single row reads its streams (x1.02 to x1.08 for Q4_0 on a
    /// Zen 3); many rows end the more evenly the less it is.
    fn quarters(&self) -> usize {
        if self.rows == 1 { 3 } else { 2 }
    }

    /// One row waits for memory, several for arithmetic.
    fn panel_cost(&self, weight: &PackedMatrix) -> usize {
        if self.rows == 1 { weight.panel_bytes() } else { weight.cols() }
    }

    /// The panels of `weight` that member `id` of `threads` packed, or that begin in its part of the whole cost.
    fn share(&self, id: usize, threads: usize, weight: &PackedMatrix, job: &Job) -> Range<usize> {
        if self.as_packed {
            return share_of(id, threads, weight.panels());
        }
        let each = self.panel_cost(weight).max(1);
        let bound =
            |id: usize| (self.cost * id / threads).saturating_sub(job.before).div_ceil(each).min(weight.panels());
        bound(id)..bound(id + 1)
    }

    /// Which copy of the inputs is the member's.
    fn copy(&self, member: &Member<'_>) -> usize {
        if self.rows == 1 { member.id } else { 0 }
    }
}
