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

/// A matrix `[N, K]` in panels of 16 outputs; the last panel is filled up with rows of zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panels {
    pub(super) layout: Layout,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Bytes of a panel.
    pub(super) bytes: usize,
}

impl Panels {
    pub(super) fn new(format: Format, rows: usize, cols: usize) -> Self {
        let float = |element: Element| (Layout::Float(element), cols * PANEL * element.bytes());
        let (layout, bytes) = match format {
            Format::F32 => float(Element::F32),
            Format::F16 => float(Element::F16),
            Format::BF16 => float(Element::BF16),
            Format::Blocks(block) => {
                let cell = Cell::of(block);
                (Layout::Cells(cell), cols / CELL * cell.bytes())
            }
        };
        Panels { layout, rows, cols, bytes }
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

/// Packs panels of a weight, one after the other.
pub(super) struct Packer<'w> {
    panels: Panels,
    reader: RowReader<'w>,
    row_bytes: usize,
    /// Rows that do not lie in the file as they are wanted.
    copied: Vec<u8>,
}

impl<'w> Packer<'w> {
    pub(super) fn new(panels: Panels, weight: &'w LocalWeight) -> Self {
        Packer { panels, reader: weight.reader(), row_bytes: weight.row_bytes(), copied: Vec::new() }
    }

    /// Packs panel `panel` into `out`, [`Panels::bytes`] long.
    pub(super) fn pack(&mut self, panel: usize, out: &mut [u8]) {
        self.copied.resize(PANEL * self.row_bytes, 0);
        let stored = self.reader.read(panel * PANEL..(panel + 1) * PANEL, &mut self.copied);
        let next = Next::behind(stored);
        match self.panels.layout {
            Layout::Cells(cell) => cell.pack_panel(stored, out, next),
            Layout::Float(element) => element.pack_panel(stored, out, next),
        }
    }
}
