//! The product itself: who does which panels, in which order.

use super::cell::{CELL, Cell};
use super::dequantise::dequantise;
use super::float::{self, Element, Weights};
use super::int8::{self, Cells, Opened};
use super::matrix::{Layout, PackedMatrix};
use super::scratch::{Job, PanelRow, Prepared, Scratch, same_input};
use super::tile::Target;
use super::{Activations, PANEL};
use crate::isa::Isa;
use crate::team::{Member, Team};
use std::ops::Range;

/// Rows whose tiles pass over a panel before the next panel: their part of the input stays in the second-level cache.
const PASS: usize = 240;

/// Panel rows that a member works with: a dequantised chunk of a panel (or an opened one, which [`Product::chunk`] keeps as small), and
/// the results of a panel that is not full.
const AREA: usize = float::CHUNK + PASS;

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
    assert!(isa.is_available(), "this CPU does not have {isa}");
    assert_eq!(weights.len(), outs.len(), "one output a weight");
    if rows == 0 || weights.is_empty() {
        return;
    }
    let width = x.len() / rows;
    assert_eq!(x.len(), width * rows, "an input of {rows} rows");
    for (weight, out) in weights.iter().zip(outs.iter()) {
        assert!(weight.takes(width), "an input of {width} columns times a weight of {}", weight.cols());
        assert_eq!(out.len(), rows * weight.rows(), "an output of {rows} rows of {}", weight.rows());
    }
    let plan = Plan::new(team, isa, rows, weights, outs, scratch);
    let scratch = &*scratch;
    team.run(&|member| {
        // SAFETY: each member has its own part of both.
        let (wide, area) = unsafe {
            let own = |len| member.id * len..(member.id + 1) * len;
            (scratch.wide.write(own(plan.wide)), scratch.areas.write(own(AREA)))
        };
        for (i, (weight, job)) in weights.iter().zip(&scratch.jobs).enumerate() {
            if job.is_first(&scratch.jobs[..i]) {
                // SAFETY: once for each input; `isa` was checked above.
                unsafe { scratch.inputs[job.input].fill(member, isa, x, weight.input(), wide) };
            }
        }
        if rows > 1 {
            member.barrier();
        }
        for (weight, job) in weights.iter().zip(&scratch.jobs) {
            let product =
                Product { isa, weight, input: &scratch.inputs[job.input], out: job.out, copy: plan.copy(member) };
            // SAFETY: the panels are this member's; all inputs were filled before the barrier, or by this member.
            unsafe { product.run(plan.share(member, weight, job), area) };
        }
    });
}

/// What all members know of a call.
struct Plan {
    rows: usize,
    /// Cost of all panels of all weights.
    cost: usize,
    /// Length of a widened row; zero where no weight needs one.
    wide: usize,
}

impl Plan {
    /// Makes room for everything, and notes for each weight which input it takes.
    fn new(
        team: &Team,
        isa: Isa,
        rows: usize,
        weights: &[&PackedMatrix],
        outs: &mut [&mut [f32]],
        scratch: &mut Scratch,
    ) -> Self {
        let copies = if rows == 1 { team.threads() } else { 1 };
        let mut plan = Plan { rows, cost: 0, wide: 0 };
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
            scratch.jobs.push(Job { out: out.as_mut_ptr(), input, before: plan.cost });
            plan.cost += weight.panels() * plan.panel_cost(weight);
            if weight.input().is_some() {
                plan.wide = plan.wide.max(weight.cols());
            }
        }
        scratch.wide.reserve(team.threads() * plan.wide);
        scratch.areas.reserve(team.threads() * AREA);
        plan
    }

    /// One row waits for memory, several for arithmetic.
    fn panel_cost(&self, weight: &PackedMatrix) -> usize {
        if self.rows == 1 { weight.panel_bytes() } else { weight.cols() }
    }

    /// The panels of `weight` that begin in this member's part of the whole cost.
    fn share(&self, member: &Member<'_>, weight: &PackedMatrix, job: &Job) -> Range<usize> {
        let each = self.panel_cost(weight).max(1);
        let bound = |id: usize| {
            (self.cost * id / member.threads).saturating_sub(job.before).div_ceil(each).min(weight.panels())
        };
        bound(member.id)..bound(member.id + 1)
    }

    /// Which copy of the inputs is the member's.
    fn copy(&self, member: &Member<'_>) -> usize {
        if self.rows == 1 { member.id } else { 0 }
    }
}

/// One member's part of one product.
struct Product<'a> {
    isa: Isa,
    weight: &'a PackedMatrix,
    input: &'a Prepared,
    out: *mut f32,
    copy: usize,
}

/// `len` values of K from `start` on, of `count` neighbouring panels.
struct Piece {
    panel: usize,
    count: usize,
    start: usize,
    len: usize,
}

/// The weights of a piece as a kernel takes them.
#[derive(Clone, Copy)]
enum Taken<'a> {
    Floats(Weights<'a>),
    Cells(Cells<'a>),
}

impl Taken<'_> {
    /// The same for further tiles, which ask for nothing ahead.
    fn near(self) -> Self {
        match self {
            Taken::Floats(weights) => Taken::Floats(Weights { ahead: 0, ..weights }),
            Taken::Cells(cells) => Taken::Cells(Cells { ahead: std::ptr::null(), ..cells }),
        }
    }
}

impl Product<'_> {
    /// # Safety
    /// `out` has the shape of the product and nobody else uses the columns of `panels`; the input is filled; the CPU has the
    /// instructions of `isa`.
    unsafe fn run(&self, panels: Range<usize>, area: &mut [PanelRow]) {
        let (opened, ragged) = area.split_at_mut(float::CHUNK);
        let (tiles, k, n) = (self.input.tiles(), self.weight.cols(), self.weight.rows());
        let (chunk, full) = (self.chunk(), n / PANEL);
        let quads = if self.takes_four() { panels.end.min(full) } else { 0 };
        for pass in tiles.passes(PASS) {
            let first_row = tiles.rows(pass.start).start;
            for start in (0..k).step_by(chunk) {
                let mut panel = panels.start;
                while panel < panels.end {
                    let count = if panel + 4 <= quads { 4 } else { 1 };
                    let piece = Piece { panel, count, start, len: chunk.min(k - start) };
                    // SAFETY: the instructions by the caller's duties.
                    let mut taken = unsafe { self.take(&piece, opened) };
                    for rows in pass.clone().map(|tile| tiles.rows(tile)) {
                        // SAFETY: the columns are this member's, and results of a panel that is not full go to its own area.
                        unsafe {
                            let out = if panel < full {
                                Target::new(self.out.add(rows.start * n + panel * PANEL), n)
                            } else {
                                Target::new(ragged[rows.start - first_row..].as_mut_ptr().cast(), PANEL)
                            };
                            self.multiply(&piece, taken, &rows, out);
                        }
                        taken = taken.near();
                    }
                    panel += count;
                }
            }
            if panels.contains(&full) {
                let rows = first_row..tiles.rows(pass.end - 1).end;
                for (row, sums) in rows.zip(&*ragged) {
                    let (at, real) = (row * n + full * PANEL, n % PANEL);
                    // SAFETY: the real columns of the last panel, which is this member's.
                    unsafe { self.out.add(at).copy_from_nonoverlapping(sums.0.as_ptr(), real) };
                }
            }
        }
    }

    /// Steps of K between two panels: what is read of a panel for all tiles of a pass stays in the first-level cache.
    fn chunk(&self) -> usize {
        let alone = self.input.tiles().count() == 1;
        match (self.weight.layout(), self.weight.activations()) {
            (Layout::Cells(cell), Activations::F32) => float::CHUNK / (cell.block * CELL) * (cell.block * CELL),
            _ if alone => self.weight.cols(),
            (Layout::Float(_), _) => self.weight.cols().div_ceil(self.weight.cols().div_ceil(float::CHUNK)),
            (Layout::Cells(cell), _) => {
                let (cells, most) = (self.weight.cols() / CELL, int8::chunk(self.isa, cell) / CELL);
                let each = cells.div_ceil(cells.div_ceil(most));
                each.next_multiple_of(cell.block) * CELL
            }
        }
    }

    /// Whether four panels at a time meet a single row.
    fn takes_four(&self) -> bool {
        matches!(self.weight.layout(), Layout::Float(_)) && self.input.is_one_row()
    }

    /// # Safety
    /// The CPU has the instructions of `isa`.
    unsafe fn take<'a>(&'a self, piece: &Piece, opened: &'a mut [PanelRow]) -> Taken<'a> {
        let panel_bytes = self.weight.panel_bytes();
        let panels = &self.weight.data()[piece.panel * panel_bytes..][..piece.count * panel_bytes];
        let cells = |cell: Cell| &panels[piece.start / CELL * cell.bytes()..][..piece.len / CELL * cell.bytes()];
        // The first tile of several asks for the next panel; the others meet this one in the cache.
        let alone = self.input.tiles().count() == 1;
        match (self.weight.layout(), self.weight.activations()) {
            (Layout::Float(element), _) => {
                let bytes = &panels[piece.start * PANEL * element.bytes()..];
                let ahead = if alone { float::AHEAD } else { panel_bytes };
                Taken::Floats(Weights { bytes, element, panel_bytes, panels: piece.count, ahead })
            }
            (Layout::Cells(cell), Activations::Int8) => {
                let packed = cells(cell);
                let ahead = packed.as_ptr().wrapping_add(if alone { int8::ahead(self.isa) } else { panel_bytes });
                let opened_for = self.input.opened_for(self.isa, self.weight);
                let bytes = match opened_for {
                    None => packed,
                    // SAFETY: by the caller's duties.
                    Some(_) => unsafe { int8::open(self.isa, cell, packed, bytemuck::cast_slice_mut(opened)) },
                };
                Taken::Cells(Cells { cell, bytes, opened: opened_for, ahead })
            }
            (Layout::Cells(cell), Activations::F32) => {
                let values = &mut opened[..piece.len];
                // SAFETY: by the caller's duties.
                unsafe { dequantise(self.isa, cell, cells(cell), bytemuck::cast_slice_mut(values)) };
                let bytes = bytemuck::cast_slice(values);
                Taken::Floats(Weights { bytes, element: Element::F32, panel_bytes: bytes.len(), panels: 1, ahead: 0 })
            }
        }
    }

    /// # Safety
    /// `out` has as many rows and panels as the tile and the piece; the input is filled; the CPU has the instructions of `isa`.
    unsafe fn multiply(&self, piece: &Piece, taken: Taken<'_>, rows: &Range<usize>, out: Target) {
        let first = piece.start == 0;
        // SAFETY: by the caller's duties.
        unsafe {
            match taken {
                Taken::Floats(weights) => {
                    let x = &self.input.floats(self.copy, rows)[piece.start * rows.len()..][..piece.len * rows.len()];
                    float::multiply(self.isa, weights, x, rows.len(), out, first);
                }
                Taken::Cells(cells) => {
                    let tile = self.input.quantised(self.copy, rows);
                    let part = tile.part(piece.start / CELL, piece.len / CELL);
                    int8::multiply(self.isa, cells, part, out, first);
                }
            }
        }
    }
}
