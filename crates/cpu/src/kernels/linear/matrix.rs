//! One rank's matrix, packed.

use super::cell::Cell;
use super::float::Element;
use super::memory::{PackedMemory, Span};
use super::{Activations, PANEL};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};
use nxd_ops::weight::InputSpan;
use nxd_ops::{Format, LocalWeight};
use std::sync::Arc;

/// How panels are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[n/16][k][16]`.
    Float(Element),
    /// `[n/16][k/32]` cells.
    Cells(Cell),
}

/// One rank's matrix `[N, K]`, packed in panels of 16 outputs; the last panel is filled up with rows of zeros.
pub struct PackedMatrix {
    packed: Span,
    layout: Layout,
    activations: Activations,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    input: Option<Box<[InputSpan]>>,
    kernel_name: Arc<str>,
}

impl PackedMatrix {
    /// Packs `weight` into memory of its own; see [`PackedMatrix::pack_into`].
    ///
    /// # Panics
    /// When the weight has no columns.
    pub fn pack(weight: &LocalWeight, activations: Activations, isa: Isa, team: &Team) -> Self {
        Self::pack_into(&mut PackedMemory::default(), weight, activations, isa, team)
    }

    /// Packs `weight` into `memory`, the panels shared out among the members of `team` as products of it will be, where they can.
    ///
    /// # Panics
    /// When the weight has no columns.
    pub fn pack_into(
        memory: &mut PackedMemory,
        weight: &LocalWeight,
        activations: Activations,
        isa: Isa,
        team: &Team,
    ) -> Self {
        let (rows, cols, format) = (weight.rows(), weight.cols(), weight.format());
        assert!(cols > 0, "{} has no columns", weight.origin());
        let (layout, panel_bytes) = match format {
            Format::F32 => float(Element::F32, cols),
            Format::F16 => float(Element::F16, cols),
            Format::BF16 => float(Element::BF16, cols),
            Format::Blocks(block) => {
                let cell = Cell::of(block);
                (Layout::Cells(cell), cols / super::cell::CELL * cell.bytes())
            }
        };
        let panels = rows.div_ceil(PANEL);
        let mut packed = memory.take(panels * panel_bytes);
        let target = Disjoint::new(packed.bytes_mut());
        team.run(&|member| {
            let mut copied = vec![0; PANEL * weight.row_bytes()];
            let mut reader = weight.reader();
            for panel in member.share(panels) {
                // SAFETY: a panel belongs to one member, and panels do not overlap.
                let out = unsafe { target.slice(panel * panel_bytes..(panel + 1) * panel_bytes) };
                let stored = reader.read(panel * PANEL..(panel + 1) * PANEL, &mut copied);
                match layout {
                    Layout::Cells(cell) => cell.pack_panel(stored, out),
                    Layout::Float(element) => element.pack_panel(stored, out),
                }
            }
        });
        PackedMatrix {
            packed,
            layout,
            activations,
            rows,
            cols,
            panel_bytes,
            input: weight.input().map(Into::into),
            kernel_name: kernel_name(format, activations, isa),
        }
    }

    /// Outputs, without the rows that fill up the last panel.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Width of the (widened) input.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Size in memory.
    pub fn bytes(&self) -> usize {
        self.packed.bytes().len()
    }

    /// What serves it: see [`kernel_name`].
    pub fn kernel_name(&self) -> &Arc<str> {
        &self.kernel_name
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// How the activations enter the kernel.
    pub(super) fn activations(&self) -> Activations {
        match self.layout {
            Layout::Float(_) => Activations::F32,
            Layout::Cells(_) => self.activations,
        }
    }

    /// The input spans of a weight that is cut along K.
    pub(super) fn input(&self) -> Option<&[InputSpan]> {
        self.input.as_deref()
    }

    /// Whether an input of `width` columns fits.
    pub(super) fn takes(&self, width: usize) -> bool {
        // Padded columns of the input meet no weight, so the spans may end before the input does.
        self.input().map_or(width == self.cols, |spans| spans.iter().all(|span| span.from + span.len <= width))
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    /// All packed bytes, panel after panel.
    pub(super) fn data(&self) -> &[u8] {
        self.packed.bytes()
    }
}

fn float(element: Element, cols: usize) -> (Layout, usize) {
    (Layout::Float(element), cols * PANEL * element.bytes())
}

/// What serves matrices that are stored in `format`: format, numbers of the activations where they have a choice, and instruction set,
/// such as `q4_1 int8 avx2`.
pub fn kernel_name(format: Format, activations: Activations, isa: Isa) -> Arc<str> {
    let numbers = match (format, activations) {
        (Format::Blocks(_), Activations::Int8) => " int8",
        (Format::Blocks(_), Activations::F32) => " f32",
        _ => "",
    };
    format!("{}{numbers} {}", format.name().to_lowercase(), isa.name()).into()
}
