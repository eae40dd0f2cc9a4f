//! One rank's matrix, packed.

use super::cell::Cell;
use super::float::Element;
use super::{Activations, PANEL};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};
use nxd_ops::weight::InputSpan;
use nxd_ops::{Format, LocalWeight};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

/// A cache line: kernels load halves of it, which must not straddle two.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

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
    lines: Vec<Line>,
    layout: Layout,
    activations: Activations,
    rows: usize,
    cols: usize,
    panel_bytes: usize,
    input: Option<Box<[InputSpan]>>,
    kernel_name: Arc<str>,
}

impl PackedMatrix {
    /// Packs `weight`, the panels shared out among the members of `team`.
    ///
    /// # Panics
    /// When the weight has no columns.
    pub fn pack(weight: &LocalWeight, activations: Activations, isa: Isa, team: &Team) -> Self {
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
        let lines = (panels * panel_bytes).div_ceil(size_of::<Line>());
        let mut matrix = PackedMatrix {
            lines: Vec::with_capacity(lines),
            layout,
            activations,
            rows,
            cols,
            panel_bytes,
            input: weight.input().map(Into::into),
            kernel_name: kernel_name(format, activations, isa),
        };
        let target = Disjoint::new(&mut matrix.lines.spare_capacity_mut()[..lines]);
        team.run(&|member| {
            let mut stored = vec![0; PANEL * weight.row_bytes()];
            let mut reader = weight.reader();
            for panel in member.share(panels) {
                // SAFETY: a panel belongs to one member, and panels do not overlap. The bytes lie within the lines.
                let out = unsafe { zeroed(&target, panel * panel_bytes..(panel + 1) * panel_bytes) };
                for (row, bytes) in (panel * PANEL..).zip(stored.chunks_exact_mut(weight.row_bytes())) {
                    if row < rows { reader.read(row, bytes) } else { bytes.fill(0) }
                }
                match layout {
                    Layout::Cells(cell) => cell.pack_panel(&stored, out),
                    Layout::Float(element) => element.pack_panel(&stored, out),
                }
            }
            if member.id == 0 {
                let end = panels * panel_bytes;
                // SAFETY: what is left of the last line belongs to no panel.
                unsafe { zeroed(&target, end..lines * size_of::<Line>()) };
            }
        });
        // SAFETY: every byte was written: all panels by the members, the rest of the last line by the leader.
        unsafe { matrix.lines.set_len(lines) };
        matrix
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
        self.lines.len() * size_of::<Line>()
    }

    /// Format, numbers of the activations, and instruction set, such as `q4_1 int8 avx2`.
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
        bytemuck::cast_slice(&self.lines)
    }
}

fn float(element: Element, cols: usize) -> (Layout, usize) {
    (Layout::Float(element), cols * PANEL * element.bytes())
}

/// The bytes at `range`, zeroed.
///
/// # Safety
/// Nobody else uses these bytes.
#[allow(clippy::mut_from_ref, reason = "members share `lines`; that their ranges differ is the caller's duty")]
unsafe fn zeroed<'a>(lines: &'a Disjoint<'_, MaybeUninit<Line>>, range: Range<usize>) -> &'a mut [u8] {
    assert!(range.end <= lines.len() * size_of::<Line>(), "bytes {range:?} of {} lines", lines.len());
    // SAFETY: within the lines by the assertion, used by nobody else by the caller's duties, and initialised by the zeroing.
    unsafe {
        let first = lines.as_ptr().cast::<u8>().add(range.start);
        first.write_bytes(0, range.len());
        std::slice::from_raw_parts_mut(first, range.len())
    }
}

/// Format, numbers of the activations where they have a choice, and instruction set.
fn kernel_name(format: Format, activations: Activations, isa: Isa) -> Arc<str> {
    let numbers = match (format, activations) {
        (Format::Blocks(_), Activations::Int8) => " int8",
        (Format::Blocks(_), Activations::F32) => " f32",
        _ => "",
    };
    format!("{}{numbers} {}", format.name().to_lowercase(), isa.name()).into()
}
