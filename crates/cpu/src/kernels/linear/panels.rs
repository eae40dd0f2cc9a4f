//! How a matrix is cut into panels, and how a panel is packed from rows as a file has them.

use super::PANEL;
use super::across::Next;
use super::cell::{CELL, Cell};
use super::float::Element;
use super::memory::{PackedMemory, Span};
use crate::team::{Disjoint, Team};
use nxd_ops::weight::RowReader;
use nxd_ops::{Format, LocalWeight};

/// What a panel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[k][16]`.
    Float(Element),
    /// `[k/32]` cells.
    Cells(Cell),
}

/// Bytes of the scales of a panel's outputs for a run of K.
pub(super) const SCALES: usize = 4 * PANEL;

/// A matrix `[N, K]` in panels of 16 outputs; the last panel is filled up with rows of zeros. A panel begins with the scales of its
/// outputs, `[runs][16]`, where they are not part of its cells or floats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panels {
    pub(super) layout: Layout,
    pub(super) rows: usize,
    /// Values of K; those of int8 are filled up with zeros to whole cells.
    pub(super) cols: usize,
    /// Bytes of a panel.
    pub(super) bytes: usize,
    /// Bytes of its scales.
    pub(super) scale_bytes: usize,
}

impl Panels {
    pub(super) fn new(weight: &LocalWeight) -> Self {
        Panels::of(weight.format(), [weight.rows(), weight.cols()], weight.scale_runs().len())
    }

    /// Those of `shape`, rows and columns, stored in `format`, with `runs` of columns that share a scale.
    fn of(format: Format, [rows, cols]: [usize; 2], runs: usize) -> Self {
        let layout = match format {
            Format::F32 => Layout::Float(Element::F32),
            Format::F16 => Layout::Float(Element::F16),
            Format::BF16 => Layout::Float(Element::BF16),
            Format::E4M3 => Layout::Float(Element::E4M3),
            Format::E5M2 => Layout::Float(Element::E5M2),
            Format::I8 => Layout::Cells(Cell::I8),
            Format::Blocks(block) => Layout::Cells(Cell::of(block)),
        };
        let runs = if format.takes_scales() { runs } else { 0 };
        let (cols, bytes) = match layout {
            Layout::Float(element) => (cols, cols * PANEL * element.bytes()),
            Layout::Cells(cell) => (cols.next_multiple_of(CELL), cols.div_ceil(CELL) * cell.bytes()),
        };
        Panels { layout, rows, cols, bytes: runs * SCALES + bytes, scale_bytes: runs * SCALES }
    }

    pub(super) fn count(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Packs all of `weight` into `memory`, the panels shared out among the members of `team` as products of it will be, where they can.
    pub(super) fn pack(&self, weight: &LocalWeight, memory: &mut PackedMemory, team: &Team) -> Span {
        let mut packed = memory.take(self.count() * self.bytes);
        let target = Disjoint::new(packed.bytes_mut());
        team.run(&|member| {
            let mut packer = Packer::new(*self, weight);
            for panel in member.share(self.count()) {
                // SAFETY: a panel belongs to one member, and panels do not overlap.
                packer.pack(panel, unsafe { target.slice(panel * self.bytes..(panel + 1) * self.bytes) });
            }
        });
        packed
    }
}

/// Bytes that a matrix of `shape`, rows and columns, stored in `format` takes once it is packed, where each row has one scale at most.
pub fn packed_bytes(format: Format, shape: [usize; 2]) -> usize {
    let panels = Panels::of(format, shape, 1);
    panels.count().saturating_mul(panels.bytes)
}

/// Packs panels of a weight, one after the other.
pub(super) struct Packer<'w> {
    panels: Panels,
    weight: &'w LocalWeight,
    reader: RowReader<'w>,
    row_bytes: usize,
    /// Rows that do not lie in the file as they are wanted.
    copied: Vec<u8>,
}

impl<'w> Packer<'w> {
    pub(super) fn new(panels: Panels, weight: &'w LocalWeight) -> Self {
        Packer { panels, weight, reader: weight.reader(), row_bytes: weight.row_bytes(), copied: Vec::new() }
    }

    /// Packs panel `panel` into `out`, [`Panels::bytes`] long.
    pub(super) fn pack(&mut self, panel: usize, out: &mut [u8]) {
        self.copied.resize(PANEL * self.row_bytes, 0);
        let stored = self.reader.read(panel * PANEL..(panel + 1) * PANEL, &mut self.copied);
        let (scales, out) = out.split_at_mut(self.panels.scale_bytes);
        let next = Next::behind(stored);
        match self.panels.layout {
            Layout::Cells(cell) => cell.pack_panel(stored, out, next),
            Layout::Float(element) => element.pack_panel(stored, out, next),
        }
        if scales.is_empty() {
            return;
        }
        // Rows that fill up the panel are zeros under any scale.
        scales.fill(0);
        let rows = panel * PANEL..self.weight.rows().min((panel + 1) * PANEL);
        for ((j, row), mut stored) in rows.enumerate().zip(stored.chunks_exact(self.row_bytes)) {
            for ((run, scale), out) in
                self.weight.scale_runs().iter().zip(self.weight.scales(row)).zip(scales.chunks_exact_mut(SCALES))
            {
                let of_run;
                (of_run, stored) = stored.split_at(run.len);
                let scale = match self.panels.layout {
                    Layout::Cells(_) => scale,
                    Layout::Float(element) => element.scale(scale, of_run),
                };
                out[j * 4..][..4].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
}
