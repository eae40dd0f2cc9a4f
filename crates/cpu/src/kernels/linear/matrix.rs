//! One rank's matrix, packed, or to be packed when it is used again.

use super::Activations;
use super::int8;
use super::memory::{PackedMemory, Span};
use super::panels::{Layout, Numbers, Panels};
use crate::isa::Isa;
use crate::team::Team;
use nxd_ops::weight::InputSpan;
use nxd_ops::{Format, LocalWeight};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// One rank's matrix `[N, K]` in panels of 16 outputs.
pub struct PackedMatrix {
    packed: OnceLock<Span>,
    /// What is packed later.
    unpacked: Mutex<Option<Arc<Unpacked>>>,
    panels: Panels,
    activations: Activations,
    input: Option<Box<[InputSpan]>>,
    /// Where each run of K ends that has scales of its own.
    runs: Box<[usize]>,
    kernel_name: Arc<str>,
}

/// A matrix whose panels are not packed yet.
pub(super) struct Unpacked {
    pub(super) weight: LocalWeight,
    memory: Arc<Mutex<PackedMemory>>,
    /// Whether a product has read it.
    served: AtomicBool,
}

impl PackedMatrix {
    /// Packs `weight` into memory of its own.
    ///
    /// # Panics
    /// When the weight has no columns.
    pub fn pack(weight: &LocalWeight, activations: Activations, isa: Isa, team: &Team) -> Self {
        let mut matrix = Self::bare(weight, activations, isa);
        matrix.packed = matrix.panels.pack(weight, &mut PackedMemory::default(), team).into();
        matrix
    }

    /// Leaves `weight` where it lies. The first product with few rows packs panel after panel in the cache and forgets it, so that a first
    /// token waits for no memory; the second one, or one with many rows, packs all of it into `memory` before it begins.
    ///
    /// # Panics
    /// When the weight has no columns.
    pub fn pack_later(
        memory: &Arc<Mutex<PackedMemory>>,
        weight: LocalWeight,
        activations: Activations,
        isa: Isa,
    ) -> Self {
        let mut matrix = Self::bare(&weight, activations, isa);
        let unpacked = Unpacked { weight, memory: Arc::clone(memory), served: AtomicBool::new(false) };
        matrix.unpacked = Mutex::new(Some(Arc::new(unpacked)));
        matrix
    }

    /// The same, whose input begins at column `start` of what products are given: a head's matrix.
    #[must_use]
    pub fn reading_from(self, start: usize) -> Self {
        let whole = || [InputSpan { from: 0, to: 0, len: self.panels.cols }].into();
        let mut input = self.input.unwrap_or_else(whole);
        input.iter_mut().for_each(|span| span.from += start);
        PackedMatrix { input: Some(input), ..self }
    }

    /// Neither packed nor with anything to pack.
    fn bare(weight: &LocalWeight, activations: Activations, isa: Isa) -> Self {
        let (cols, panels) = (weight.cols(), Panels::new(weight, activations));
        assert!(cols > 0, "{} has no columns", weight.origin());
        let filled_up = (panels.cols > cols).then(|| [InputSpan { from: 0, to: 0, len: cols }].into());
        let ends = weight.scale_runs().iter().scan(0, |end, run| {
            *end += run.len;
            Some(*end)
        });
        PackedMatrix {
            packed: OnceLock::new(),
            unpacked: Mutex::new(None),
            panels,
            activations,
            input: weight.input().map(Into::into).or(filled_up),
            runs: ends.collect(),
            kernel_name: kernel_name(weight.format(), activations, isa),
        }
    }

    /// What the product that begins reads panels from instead of packed ones, if it is the first one and `in_place` allows it. Otherwise
    /// packs what is not packed.
    pub(super) fn begin(&self, team: &Team, in_place: bool) -> Option<Arc<Unpacked>> {
        if self.packed.get().is_some() {
            return None;
        }
        let mut held = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        let unpacked = held.as_ref()?;
        if in_place && !unpacked.served.swap(true, Ordering::Relaxed) {
            return Some(Arc::clone(unpacked));
        }
        let mut memory = unpacked.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let packed = self.panels.pack(&unpacked.weight, &mut memory, team);
        drop(memory);
        self.packed.get_or_init(|| packed);
        *held = None;
        None
    }

    /// Outputs, without the rows that fill up the last panel.
    pub fn rows(&self) -> usize {
        self.panels.rows
    }

    /// Width of the (widened) input.
    pub fn cols(&self) -> usize {
        self.panels.cols
    }

    /// Size in memory, once packed.
    pub fn bytes(&self) -> usize {
        self.panels.count() * self.panels.bytes
    }

    /// What serves it: see [`kernel_name`].
    pub fn kernel_name(&self) -> &Arc<str> {
        &self.kernel_name
    }

    pub(super) fn layout(&self) -> Layout {
        self.panels.layout
    }

    /// What its input is prepared as.
    pub(super) fn numbers(&self) -> Numbers {
        self.panels.layout.numbers(self.activations)
    }

    /// Whether kernels take its panels whole, so that they may be packed one at a time.
    pub(super) fn is_served_in_place(&self) -> bool {
        !matches!((self.panels.layout, self.activations), (Layout::Cells(_), Activations::F32))
    }

    /// Whether tiles of AMX take it as it is packed.
    pub(super) fn is_tiled_as_it_is(&self) -> bool {
        matches!((self.layout(), self.numbers()), (Layout::Cells(cell), Numbers::Int8) if int8::are_tiles(cell))
    }

    /// Where each run of K ends that has scales of its own.
    pub(super) fn runs(&self) -> &[usize] {
        &self.runs
    }

    /// The input spans of a weight that is cut along K, or whose K is filled up.
    pub(super) fn input(&self) -> Option<&[InputSpan]> {
        self.input.as_deref()
    }

    /// Whether an input of `width` columns fits.
    pub(super) fn takes(&self, width: usize) -> bool {
        // Padded columns of the input meet no weight, so the spans may end before the input does.
        self.input().map_or(width == self.panels.cols, |spans| spans.iter().all(|span| span.from + span.len <= width))
    }

    pub(super) fn panels(&self) -> usize {
        self.panels.count()
    }

    /// How it is cut.
    pub(super) fn form(&self) -> Panels {
        self.panels
    }

    pub(super) fn panel_bytes(&self) -> usize {
        self.panels.bytes
    }

    /// All packed bytes, panel after panel; none while it is not packed.
    pub(super) fn data(&self) -> &[u8] {
        self.packed.get().map_or(&[], Span::bytes)
    }
}

/// What serves matrices that are stored in `format`: format, numbers of the activations where they have a choice, and instruction set,
/// such as `q4_1 int8 avx2`.
pub fn kernel_name(format: Format, activations: Activations, isa: Isa) -> Arc<str> {
    let numbers = |activations| Layout::of(format, activations).numbers(activations);
    let (name, isa) = match numbers(activations) {
        Numbers::Int8 => (" int8", isa),
        Numbers::Int16 => (" int16", isa.vectors()),
        Numbers::F32 => (" f32", isa.vectors()),
    };
    let has_choice = numbers(Activations::Int8) != numbers(Activations::F32);
    format!("{}{} {}", format.name().to_lowercase(), if has_choice { name } else { "" }, isa.name()).into()
}
