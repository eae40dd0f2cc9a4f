//! The product itself: who does which panels, in which order.

use super::ahead::{FLOATS_AHEAD, First, ahead_of};
use super::cell::{CELL, Cell};
use super::dequantise::dequantise;
use super::float::{self, Element, Runs, Weights};
use super::int8::{self, Cells, Opened};
use super::matrix::{PackedMatrix, Unpacked};
use super::panels::{Layout, Packer, SCALES};
use super::quantise::Quantised;
use super::scratch::{Job, PanelRow, Prepared, Scratch, Turns, same_input};
use super::tile::Target;
use super::{Activations, PANEL};
use crate::isa::Isa;
use crate::kernels::gated::gated_part;
use crate::prefetch::ask;
use crate::team::{Member, Team, share_of};
use nxd_ops::Gated;
use std::ops::Range;

/// Rows whose tiles pass over a panel before the next panel: their part of the input stays in the second-level cache.
const PASS: usize = 240;

/// Panel rows that a member works with: a dequantised chunk of a panel (or an opened one, which [`Product::chunk`] keeps as small), and
/// the results of a panel that is not full. Behind them is a panel that is not packed yet, where there is one.
const AREA: usize = float::CHUNK + PASS;

/// Panel rows of a gate, and of what it meets, that are computed before they meet: they stay in the second-level cache.
const NEAR: usize = 512;

/// How many rows ahead memory is asked for the lines of what comes of them.
const ROWS_AHEAD: usize = 8;

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
    let outs = outs.iter_mut().map(|out| out.as_mut_ptr());
    let Some(call) = Call::new(team, isa, x, rows, weights, outs, scratch) else { return };
    team.run(&|member| {
        // SAFETY: each member prepares once, and takes panels of its own.
        unsafe {
            let area = call.prepare(member);
            let share = |id, i: usize| call.plan.share(id, member.threads, weights[i], &call.scratch.jobs[i]);
            call.hand_out(member, weights.len(), share, |i, part| {
                let product = call.product(i, member);
                product.run(&(0..rows), &part, product.place(), area);
            });
            call.look_ahead(member);
        }
    });
}

/// What [`linear_gated`] multiplies with.
#[derive(Clone, Copy)]
pub struct GatedPair<'a> {
    /// `[N, K]`
    pub gate: &'a PackedMatrix,
    /// `[N, K]`
    pub up: &'a PackedMatrix,
    /// What becomes of the gate before it multiplies.
    pub activation: Gated,
}

/// `act(x · gateᵀ) * (x · upᵀ)` in one job of the team: a member's results meet while they are near, and only what comes of them is
/// written. Equals [`linears`] and then [`gated`](crate::kernels::gated::gated) in every bit.
///
/// # Shapes
/// `x` is `[rows, K]`, `out` is `[rows, N]`.
///
/// # Panics
/// As [`linears`], and when the weights have different shapes.
pub fn linear_gated(
    team: &Team,
    isa: Isa,
    x: &[f32],
    rows: usize,
    pair: GatedPair<'_>,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let GatedPair { gate, up, activation } = pair;
    assert_eq!(gate.rows(), up.rows(), "gate and up have the same outputs");
    assert_eq!(out.len(), rows * gate.rows(), "an output of {rows} rows of {}", gate.rows());
    let (weights, out) = ([gate, up], out.as_mut_ptr());
    let near = NEAR.max(rows);
    scratch.near.reserve(team.threads() * 2 * near);
    let Some(call) = Call::new(team, isa, x, rows, &weights, [out; 2].into_iter(), scratch) else { return };
    team.run(&|member| {
        // SAFETY: each member prepares once, and takes panels of its own, the same ones of both weights.
        unsafe {
            let area = call.prepare(member);
            let own = call.scratch.near.write(member.id * 2 * near..(member.id + 1) * 2 * near);
            let (gates, ups) = own.split_at_mut(near);
            let [gate, up] = [0, 1].map(|i| call.product(i, member));
            let share = |id, _| share_of(id, member.threads, gate.weight.panels());
            call.hand_out(member, 1, share, |_, part| {
                for rows in together(&gate, &up) {
                    meet(&gate, &up, activation, rows, &part, [&mut *gates, &mut *ups], area);
                }
            });
            call.look_ahead(member);
        }
    });
}

/// A checked call: its arguments, plan and work space.
struct Call<'a> {
    isa: Isa,
    x: &'a [f32],
    weights: &'a [&'a PackedMatrix],
    plan: Plan,
    scratch: &'a Scratch,
}

impl<'a> Call<'a> {
    /// `None` where there is nothing to do.
    fn new(
        team: &Team,
        isa: Isa,
        x: &'a [f32],
        rows: usize,
        weights: &'a [&'a PackedMatrix],
        outs: impl Iterator<Item = *mut f32>,
        scratch: &'a mut Scratch,
    ) -> Option<Self> {
        assert!(isa.is_available(), "this CPU does not have {isa}");
        if rows == 0 || weights.is_empty() {
            return None;
        }
        let width = x.len() / rows;
        assert_eq!(x.len(), width * rows, "an input of {rows} rows");
        for weight in weights {
            assert!(weight.takes(width), "an input of {width} columns times a weight of {}", weight.cols());
        }
        let plan = Plan::new(team, isa, rows, weights, outs, scratch);
        Some(Call { isa, x, weights, plan, scratch })
    }

    /// Prepares this member's part of the inputs, and waits until all have done so where members share them; the member's work area.
    ///
    /// # Safety
    /// Every member calls it once.
    #[allow(clippy::mut_from_ref, reason = "members share `self`; each gets the area of its number")]
    unsafe fn prepare(&self, member: &Member<'_>) -> &mut [PanelRow] {
        let scratch = self.scratch;
        // SAFETY: each member has its own part of both.
        let (wide, area) = unsafe {
            let own = |len| member.id * len..(member.id + 1) * len;
            (scratch.wide.write(own(self.plan.wide)), scratch.areas.write(own(self.plan.area())))
        };
        for (i, (weight, job)) in self.weights.iter().zip(&scratch.jobs).enumerate() {
            if job.is_first(&scratch.jobs[..i]) {
                // SAFETY: once for each input; `isa` was checked by `new`.
                unsafe { scratch.inputs[job.input].fill(member, self.isa, self.x, weight.input(), wide) };
            }
        }
        if self.plan.rows > 1 {
            member.barrier();
        }
        area
    }

    /// Calls `f` with parts of this member's `share` of each of `jobs`, and then with parts of what others have left of theirs. Who is late
    /// for a moment, as the system or memory had it, is not waited for.
    fn hand_out(
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
            while let Some(taken) = turns.take(len) {
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

    /// Says what the member reads in the call that followed this one last time.
    fn look_ahead(&self, member: &Member<'_>) {
        if let Some(next) = self.plan.next {
            member.reads_next(next.share(member));
        }
    }

    /// The product with weight `i`, as `member` computes it.
    ///
    /// # Safety
    /// The member has prepared the inputs.
    unsafe fn product(&self, i: usize, member: &Member<'_>) -> Product<'a> {
        let job = &self.scratch.jobs[i];
        let (input, copy) = (&self.scratch.inputs[job.input], self.plan.copy(member));
        let unpacked = job.unpacked.as_deref();
        // SAFETY: by the caller's duties.
        let quantised = unsafe { input.quantised(copy) };
        Product { isa: self.isa, weight: self.weights[i], input, quantised, out: job.out, copy, unpacked }
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
    fn new(
        team: &Team,
        isa: Isa,
        rows: usize,
        weights: &[&PackedMatrix],
        outs: impl Iterator<Item = *mut f32>,
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
            next: scratch.order.begin(weights[0]),
        };
        let mut inputs = 0;
        scratch.jobs.clear();
        for (i, (weight, out)) in weights.iter().zip(outs).enumerate() {
            let earlier = weights[..i].iter().position(|other| same_input(other, weight));
            let input = earlier.map_or(inputs, |earlier| scratch.jobs[earlier].input);
            if earlier.is_none() {
                inputs += 1;
                if scratch.inputs.len() < inputs {
                    scratch.inputs.push(Prepared::default());
                }
                scratch.inputs[input].reserve(isa, weight, rows, copies);
            }
            if scratch.inputs[input].opened_for(isa, weight) == Some(Opened::Words) {
                scratch.inputs[input].reserve_words();
            }
            let tiles = scratch.inputs[input].tiles().count();
            let unpacked = weight.begin(team, tiles < int8::MANY_TILES && weight.is_served_in_place());
            if unpacked.is_some() {
                plan.panel = plan.panel.max(weight.panel_bytes().div_ceil(size_of::<PanelRow>()));
            }
            scratch.jobs.push(Job { out, input, before: plan.cost, unpacked });
            plan.cost += weight.panels() * plan.panel_cost(weight);
            if weight.input().is_some() {
                plan.wide = plan.wide.max(weight.cols() * scratch.inputs[input].tiles().rows(0).len());
            }
        }
        let longest = weights.iter().map(|weight| weight.panels().div_ceil(team.threads()) * plan.panel_cost(weight));
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

/// Rows that two products of one input do in the same passes.
fn together(gate: &Product<'_>, up: &Product<'_>) -> impl Iterator<Item = Range<usize>> {
    let same = gate.input.tiles() == up.input.tiles();
    let passes = same.then(|| gate.passes().map(|pass| gate.rows(&pass)));
    let all = (!same).then_some(0..gate.input.rows());
    passes.into_iter().flatten().chain(all)
}

/// Writes `act(gate) * up` at `rows` of `part`, a few panels at a time, whose results meet in `near`.
///
/// # Safety
/// The duties of [`Product::pass`] for the gate's own output, which nobody else uses at these rows of `part`; `near` is as long as `rows`.
unsafe fn meet(
    gate: &Product<'_>,
    up: &Product<'_>,
    activation: Gated,
    rows: Range<usize>,
    part: &Part,
    near: [&mut [PanelRow]; 2],
    area: &mut [PanelRow],
) {
    let (n, at_once) = (gate.weight.rows(), near[0].len() / rows.len());
    let [gates, ups]: [&mut [f32]; 2] = near.map(bytemuck::cast_slice_mut);
    for start in part.panels.clone().step_by(at_once) {
        let panels = start..part.panels.end.min(start + at_once);
        let stride = panels.len() * PANEL;
        let place = |near: &mut [f32]| Place {
            start: near.as_mut_ptr(),
            stride,
            row: rows.start,
            panel: start,
            full: gate.weight.panels(),
        };
        let columns = stride.min(n - start * PANEL);
        let few = Part { panels, last: part.last };
        // SAFETY: by the caller's duties; what is near has these rows of so many panels.
        unsafe {
            gate.run(&rows, &few, place(gates), area);
            up.run(&rows, &few, place(ups), area);
        }
        for (row, (gates, ups)) in rows.clone().zip(gates.chunks_mut(stride).zip(ups.chunks(stride))) {
            let out = gate.out.wrapping_add(row * n + start * PANEL);
            for line in (0..stride).step_by(PANEL) {
                ask(out.wrapping_add(ROWS_AHEAD * n + line).cast());
            }
            let gates = &mut gates[..columns];
            gated_part(gate.isa, activation, gates, &ups[..columns]);
            // SAFETY: the caller's columns of a row.
            unsafe { out.copy_from_nonoverlapping(gates.as_ptr(), columns) };
        }
    }
}

/// Where results go: those of row `row` and panel `panel` are at `start`, a row's `stride` values from the next one's.
#[derive(Clone, Copy)]
struct Place {
    start: *mut f32,
    stride: usize,
    row: usize,
    panel: usize,
    /// Panels before this one have room for all their outputs.
    full: usize,
}

impl Place {
    /// # Safety
    /// The place has this row and panel.
    unsafe fn at(&self, row: usize, panel: usize) -> *mut f32 {
        // SAFETY: by the caller's duties.
        unsafe { self.start.add((row - self.row) * self.stride + (panel - self.panel) * PANEL) }
    }
}

/// Neighbouring panels, of a share that ends before `last`.
struct Part {
    panels: Range<usize>,
    last: usize,
}

/// One member's part of one product.
struct Product<'a> {
    isa: Isa,
    weight: &'a PackedMatrix,
    input: &'a Prepared,
    quantised: Option<Quantised<'a>>,
    /// The whole output, `[rows, N]`.
    out: *mut f32,
    copy: usize,
    /// Where panels come from that are not packed.
    unpacked: Option<&'a Unpacked>,
}

/// `len` values of K from `start` on, of `count` neighbouring panels; the share's last panel is before `last`.
struct Piece {
    panel: usize,
    count: usize,
    last: usize,
    start: usize,
    len: usize,
}

/// The weights of a piece as a kernel takes them.
#[derive(Clone, Copy)]
enum Taken<'a> {
    Floats(Weights<'a>),
    Runs(Weights<'a>, Runs<'a>),
    Cells(Cells<'a>),
}

impl Taken<'_> {
    /// The same for further tiles, which ask for nothing ahead.
    fn near(self) -> Self {
        match self {
            Taken::Floats(weights) => Taken::Floats(Weights { ahead: 0, ..weights }),
            Taken::Runs(weights, runs) => Taken::Runs(Weights { ahead: 0, ..weights }, runs),
            Taken::Cells(cells) => Taken::Cells(Cells { ahead: std::ptr::null(), ..cells }),
        }
    }
}

impl Product<'_> {
    /// The passes that begin in `rows`, of `part`.
    ///
    /// # Safety
    /// As [`Product::pass`].
    unsafe fn run(&self, rows: &Range<usize>, part: &Part, place: Place, area: &mut [PanelRow]) {
        for pass in self.passes().filter(|pass| rows.contains(&self.rows(pass).start)) {
            // SAFETY: by the caller's duties.
            unsafe { self.pass(&pass, part, place, area) };
        }
    }

    /// Its output, where results go unless they meet others first.
    fn place(&self) -> Place {
        let n = self.weight.rows();
        Place { start: self.out, stride: n, row: 0, panel: 0, full: n / PANEL }
    }

    /// The tiles, in groups whose part of the input stays in the second-level cache.
    fn passes(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        self.input.tiles().passes(PASS)
    }

    /// The rows of the tiles `pass`.
    fn rows(&self, pass: &Range<usize>) -> Range<usize> {
        let tiles = self.input.tiles();
        tiles.rows(pass.start).start..tiles.rows(pass.end - 1).end
    }

    /// The rows of the tiles `pass`, of `part`.
    ///
    /// # Safety
    /// `place` has these rows of `part` and nobody else uses them; the input is filled; the CPU has the instructions of `isa`.
    unsafe fn pass(&self, pass: &Range<usize>, part: &Part, place: Place, area: &mut [PanelRow]) {
        let panels = &part.panels;
        let (opened, area) = area.split_at_mut(float::CHUNK);
        let (ragged, passing) = area.split_at_mut(PASS);
        let mut packer = self.unpacked.map(|unpacked| Packer::new(self.weight.form(), &unpacked.weight));
        let (tiles, k) = (self.input.tiles(), self.weight.cols());
        let chunk = self.chunk();
        let of_full = panels.end.min(place.full);
        let first_row = tiles.rows(pass.start).start;
        let mut start = 0;
        while start < k {
            let len = self.chunk_end(start, chunk) - start;
            let mut panel = panels.start;
            while panel < panels.end {
                let count = self.panels_at_once(of_full.saturating_sub(panel));
                let piece = Piece { panel, count, last: part.last, start, len };
                let bytes = count * self.weight.panel_bytes();
                let packed = match &mut packer {
                    None => &self.weight.data()[panel * self.weight.panel_bytes()..][..bytes],
                    Some(packer) => {
                        let passing = &mut bytemuck::cast_slice_mut(passing)[..bytes];
                        packer.pack(panel, passing);
                        passing
                    }
                };
                // SAFETY: the instructions by the caller's duties.
                let mut taken = unsafe { self.take(&piece, packed, opened) };
                // SAFETY: the columns are this member's, and results of a panel that is not full go to its own area.
                let mut target = |rows: &Range<usize>| unsafe {
                    if panel < place.full {
                        Target::new(place.at(rows.start, panel), place.stride)
                    } else {
                        Target::new(ragged[rows.start - first_row..].as_mut_ptr().cast(), PANEL)
                    }
                };
                for tile in pass.clone() {
                    let rows = tiles.rows(tile);
                    if tile + 1 < pass.end {
                        let next = tiles.rows(tile + 1);
                        target(&next).ask(next.len(), count);
                    }
                    // SAFETY: by the caller's duties, and those of the target.
                    unsafe { self.multiply(&piece, taken, &rows, target(&rows)) };
                    taken = taken.near();
                }
                panel += count;
            }
            start += len;
        }
        if panels.contains(&place.full) {
            for (row, sums) in self.rows(pass).zip(&*ragged) {
                let real = self.weight.rows() % PANEL;
                // SAFETY: the real columns of the last panel, which is this member's.
                unsafe { place.at(row, place.full).copy_from_nonoverlapping(sums.0.as_ptr(), real) };
            }
        }
    }

    /// Steps of K between two panels: what is read of a panel for all tiles of a pass stays in the first-level cache.
    fn chunk(&self) -> usize {
        if self.unpacked.is_some() {
            // A panel is packed once.
            return self.weight.cols();
        }
        let alone = self.input.tiles().count() == 1;
        match (self.weight.layout(), self.weight.activations()) {
            (Layout::Cells(cell), Activations::F32) => float::CHUNK / (cell.block * CELL) * (cell.block * CELL),
            _ if alone => self.weight.cols(),
            (Layout::Float(element), _) => {
                self.weight.cols().div_ceil(self.weight.cols().div_ceil(float::chunk(self.isa, element)))
            }
            (Layout::Cells(cell), _) => {
                let (cells, most) = (self.weight.cols() / CELL, int8::chunk(self.isa, cell) / CELL);
                let each = cells.div_ceil(cells.div_ceil(most));
                each.next_multiple_of(cell.block) * CELL
            }
        }
    }

    /// Where the chunk of K that begins at `start` ends.
    fn chunk_end(&self, start: usize, chunk: usize) -> usize {
        let most = chunk.min(self.weight.cols() - start);
        match self.weight.layout() {
            Layout::Float(element) if element.is_scaled() => float::end_of_runs(self.weight.runs(), start, most),
            _ => start + most,
        }
    }

    /// How many panels a tile meets in one call, where `left` full ones are left.
    fn panels_at_once(&self, left: usize) -> usize {
        match (self.weight.layout(), self.weight.activations()) {
            _ if self.unpacked.is_some() => 1,
            (Layout::Float(_), _) => match float::panels_at_once(self.isa, self.input.rows()) {
                some if some <= left => some,
                _ => 1,
            },
            (Layout::Cells(_), Activations::Int8) if self.input.tiles().count() == 1 => left.max(1),
            (Layout::Cells(_), _) => 1,
        }
    }

    /// The weights of a piece of which the panels are `packed`.
    ///
    /// # Safety
    /// The CPU has the instructions of `isa`.
    unsafe fn take<'t>(&'t self, piece: &Piece, panels: &'t [u8], opened: &'t mut [PanelRow]) -> Taken<'t> {
        let panel_bytes = self.weight.panel_bytes();
        let (scales, numbers) = (panels, &panels[self.weight.form().scale_bytes..]);
        // Several panels are taken whole.
        let cells = |cell: Cell| {
            let before = (piece.count - 1) * panel_bytes;
            &numbers[piece.start / CELL * cell.bytes()..][..before + piece.len / CELL * cell.bytes()]
        };
        // The first tile of several asks for the next panel; the others meet this one in the cache. Nobody asks for another member's.
        let left = match self.unpacked {
            None => (piece.last - piece.panel).saturating_sub(piece.count) * panel_bytes,
            Some(_) => 0,
        };
        let alone = self.input.tiles().count() == 1;
        match (self.weight.layout(), self.weight.activations()) {
            (Layout::Float(element), _) => {
                let bytes = &numbers[piece.start * PANEL * element.bytes()..];
                let ahead = if alone { FLOATS_AHEAD.min(left) } else { panel_bytes };
                let weights =
                    Weights { bytes, element, panel_bytes, panels: piece.count, ahead, scales: None, sums: false };
                if element.is_scaled() {
                    Taken::Runs(weights, Runs { ends: self.weight.runs(), start: piece.start, scales })
                } else {
                    Taken::Floats(weights)
                }
            }
            (Layout::Cells(cell), Activations::Int8) => {
                let packed = cells(cell);
                let ahead = if alone {
                    ahead_of(packed, left + (piece.count - 1) * panel_bytes)
                } else {
                    packed.as_ptr().wrapping_add(panel_bytes)
                };
                let opened_for = self.input.opened_for(self.isa, self.weight);
                let bytes = match opened_for {
                    None => packed,
                    // SAFETY: by the caller's duties.
                    Some(_) => unsafe { int8::open(self.isa, cell, packed, bytemuck::cast_slice_mut(opened)) },
                };
                let last = piece.start + piece.len == self.weight.cols();
                Taken::Cells(Cells {
                    cell,
                    bytes,
                    blocks: piece.len / (CELL * cell.block),
                    panels: piece.count,
                    panel_bytes,
                    scales: (last && !cell.has_factors()).then_some(scales),
                    left,
                    opened: opened_for,
                    ahead,
                })
            }
            (Layout::Cells(cell), Activations::F32) => {
                let values = &mut opened[..piece.len];
                let scales = if cell.has_factors() { &[0.0; PANEL] } else { bytemuck::from_bytes(&scales[..SCALES]) };
                // SAFETY: by the caller's duties.
                unsafe { dequantise(self.isa, cell, scales, cells(cell), bytemuck::cast_slice_mut(values)) };
                let (bytes, element) = (bytemuck::cast_slice(values), Element::F32);
                Taken::Floats(Weights {
                    bytes,
                    element,
                    panel_bytes: bytes.len(),
                    panels: 1,
                    ahead: 0,
                    scales: None,
                    sums: false,
                })
            }
        }
    }

    /// # Safety
    /// `out` has as many rows and panels as the tile and the piece; the input is filled; the CPU has the instructions of `isa`.
    unsafe fn multiply(&self, piece: &Piece, taken: Taken<'_>, rows: &Range<usize>, out: Target) {
        let (first, steps) = (piece.start == 0, piece.start * rows.len()..(piece.start + piece.len) * rows.len());
        // SAFETY: by the caller's duties.
        unsafe {
            match taken {
                Taken::Floats(weights) => {
                    let x = &self.input.floats(self.copy, rows)[steps];
                    float::multiply(self.isa, weights, x, rows.len(), out, first);
                }
                Taken::Runs(weights, runs) => {
                    let x = &self.input.floats(self.copy, rows)[steps];
                    float::multiply_runs(self.isa, weights, runs, x, rows.len(), out);
                }
                Taken::Cells(cells) => {
                    let quantised = self.quantised.as_ref().expect("cells are multiplied with a quantised input");
                    let tile = quantised.tile(rows, piece.start / CELL, piece.len / CELL);
                    int8::multiply(self.isa, cells, tile, out, first);
                }
            }
        }
    }
}
