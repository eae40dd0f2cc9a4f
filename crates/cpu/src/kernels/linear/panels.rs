//! How a matrix is cut into panels, and how a panel is packed from rows as a file has them.

use super::across::Next;
use super::cell::{CELL, Cell};
use super::float::Element;
use super::memory::{PackedMemory, Span};
use super::{Activations, PANEL, int16};
use crate::team::{Disjoint, Team};
use nxd_ops::weight::RowReader;
use nxd_ops::{Format, LocalWeight};
use std::ops::Range;

/// What a panel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[k][16]`.
    Float(Element),
    /// `[k/32]` cells.
    Cells(Cell),
    /// Integers of 16 bits that were such floats, `[k/2][16][2]`.
    Words(Element),
}

/// What an input is prepared as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Numbers {
    #[default]
    F32,
    Int8,
    /// Integers in 16 bits.
    Int16,
}

impl Layout {
    /// That of weights stored in `format`.
    pub(super) fn of(format: Format, activations: Activations) -> Self {
        match (format, activations) {
            (Format::F16, Activations::Int8) => Layout::Words(Element::F16),
            (Format::BF16, Activations::Int8) => Layout::Words(Element::BF16),
            (Format::F32, _) => Layout::Float(Element::F32),
            (Format::F16, _) => Layout::Float(Element::F16),
            (Format::BF16, _) => Layout::Float(Element::BF16),
            (Format::E4M3, _) => Layout::Float(Element::E4M3),
            (Format::E5M2, _) => Layout::Float(Element::E5M2),
            (Format::I8, _) => Layout::Cells(Cell::I8),
            (Format::Blocks(block), _) => Layout::Cells(Cell::of(block)),
        }
    }

    /// What weights of this layout multiply.
    pub(super) fn numbers(self, activations: Activations) -> Numbers {
        match (self, activations) {
            (Layout::Words(_), _) => Numbers::Int16,
            (Layout::Cells(_), Activations::Int8) => Numbers::Int8,
            (Layout::Cells(_), Activations::F32) | (Layout::Float(_), _) => Numbers::F32,
        }
    }
}

/// Bytes of the scales of a panel's outputs for a run of K.
pub(super) const SCALES: usize = 4 * PANEL;

/// A matrix `[N, K]` in panels of 16 outputs; the last panel is filled up with rows of zeros. A panel begins with the scales of its
/// outputs, `[runs][16]`, where they are not part of its cells or floats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panels {
    pub(super) layout: Layout,
    pub(super) rows: usize,
    /// Values of K; integers are filled up with zeros to whole cells.
    pub(super) cols: usize,
    /// Bytes of a panel.
    pub(super) bytes: usize,
    /// Bytes of its scales.
    pub(super) scale_bytes: usize,
}

impl Panels {
    pub(super) fn new(weight: &LocalWeight, activations: Activations) -> Self {
        Panels::of(weight.format(), activations, [weight.rows(), weight.cols()], weight.scale_runs().len())
    }

    /// Those of `shape`, rows and columns, stored in `format`, with `runs` of columns that share a scale.
    fn of(format: Format, activations: Activations, [rows, cols]: [usize; 2], runs: usize) -> Self {
        let layout = Layout::of(format, activations);
        let has_scales = format.takes_scales() || matches!(layout, Layout::Words(_));
        let runs = if has_scales { runs } else { 0 };
        let (cols, bytes) = match layout {
            Layout::Float(element) => (cols, cols * PANEL * element.bytes()),
            Layout::Cells(cell) => (cols.next_multiple_of(CELL), cols.div_ceil(CELL) * cell.bytes()),
            Layout::Words(element) => {
                let cols = cols.next_multiple_of(CELL);
                (cols, cols * PANEL * element.bytes())
            }
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
            let share = member.share(self.count());
            let mut packer = Packer::new(*self, weight, &share);
            for panel in share {
                // SAFETY: a panel belongs to one member, and panels do not overlap.
                packer.pack(panel, unsafe { target.slice(panel * self.bytes..(panel + 1) * self.bytes) });
            }
        });
        packed
    }
}

/// Bytes that a matrix of `shape`, rows and columns, stored in `format` takes once it is packed for `activations`, where each row has one
/// scale at most.
pub fn packed_bytes(format: Format, activations: Activations, shape: [usize; 2]) -> usize {
    let panels = Panels::of(format, activations, shape, 1);
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
    /// For the panels `share`, in this order.
    pub(super) fn new(panels: Panels, weight: &'w LocalWeight, share: &Range<usize>) -> Self {
        let reader = weight.reader(share.start * PANEL..share.end * PANEL);
        Packer { panels, weight, reader, row_bytes: weight.row_bytes(), copied: Vec::new() }
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
            Layout::Words(element) => return int16::pack_panel(element, stored, [scales, out], next),
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
                    Layout::Cells(_) | Layout::Words(_) => scale,
                    Layout::Float(element) => element.scale(scale, of_run),
                };
                out[j * 4..][..4].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }
}
