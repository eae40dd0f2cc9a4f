//! What a rank takes in memory, found from declarations alone: a model runs on a [`Footprint`] as on an open step, whose tensors here have
//! shapes and no values. So work space is counted for whatever modules do, and no formula of a model is written twice.

use crate::arena::fitting;
use crate::bound::met_by;
use crate::device::CpuOptions;
use crate::floats::whole_lines;
use crate::kernels::attention::Demand;
use crate::kernels::linear::{self, Activations};
use crate::kernels::{experts, route};
use nxd_ops::{
    AttendSpec, Axis, ExpertsSpec, Format, Gated, Input, KvLayer, Manifest, Map, NormSpec, Ops, Output, Role, Rope,
    RouterSpec, Rows, Temperature, Weight, WeightSpec,
};
use std::cell::RefCell;
use std::rc::Rc;

/// Bytes that a weight stored in `format` takes on `rank` once it is packed for `activations`: none for a table, whose rows stay in the
/// file.
pub fn bound_bytes(spec: &WeightSpec, format: Format, activations: Activations, rank: usize) -> usize {
    let (shape, activations) = (spec.local_shape(format, rank), met_by(spec.role, activations));
    match spec.role {
        Role::Vector => shape[0].saturating_mul(size_of::<f32>()),
        Role::Matrix | Role::Router | Role::TiedEmbedding => linear::packed_bytes(format, activations, shape),
        Role::Heads(outputs) => {
            let [rows, cols] = shape;
            (rows / outputs.max(1)).saturating_mul(linear::packed_bytes(format, activations, [outputs, cols]))
        }
        Role::Embedding => 0,
    }
}

/// Bytes of work space that drawing takes for each token of the vocabulary and each thread: adjusted logits, counts, weights, sums and keys
/// of the tokens that are kept, twice where they are sorted.
const SAMPLING_BYTES: usize = 64;

/// The work space of a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workspace {
    fixed_bytes: usize,
    attended: Vec<Demand>,
}

impl Workspace {
    /// Its bytes at most, where requests have up to `context` tokens: attention keeps results for each part of a context.
    pub fn bytes(&self, context: usize) -> usize {
        let attention = self.attended.iter().map(|demand| demand.scratch_bytes(context)).max().unwrap_or(0);
        self.fixed_bytes.saturating_add(attention)
    }
}

/// One rank without weights and cache. Run a model's steps on it, the longest ones, and then ask for its size.
pub struct Footprint<'m> {
    manifest: &'m Manifest,
    /// Rows and columns of each weight on this rank.
    shapes: Vec<[usize; 2]>,
    threads: usize,
    /// Rows of the open step, and those it wants something of.
    rows: usize,
    wanted: usize,
    slots: Slots,
    /// Values of the largest input that products take, and of the most of them in a call.
    prepared: usize,
    near_rows: usize,
    /// Widest rows that a cut weight's input is laid into.
    widened: usize,
    attended: Vec<Demand>,
    /// Values that routers and experts work with at most.
    routed: usize,
    of_experts: usize,
    /// Values that the ranks exchange at most.
    exchanged: usize,
    gathered: usize,
    hidden: usize,
    drawn_from: usize,
}

impl<'m> Footprint<'m> {
    /// The first rank of `manifest`, whose weights are stored in `formats`, with the threads of `options`.
    pub fn new(manifest: &'m Manifest, formats: &[Format], options: &CpuOptions) -> Self {
        let shapes = manifest.weights().iter().zip(formats).map(|(spec, &format)| spec.local_shape(format, 0));
        Footprint {
            manifest,
            shapes: shapes.collect(),
            threads: options.threads.max(1),
            rows: 0,
            wanted: 0,
            slots: Slots::default(),
            prepared: 0,
            near_rows: 0,
            widened: 0,
            attended: Vec::new(),
            routed: 0,
            of_experts: 0,
            exchanged: 0,
            gathered: 0,
            hidden: 0,
            drawn_from: 0,
        }
    }

    /// Opens a step of `rows` rows that wants `wanted` of them.
    pub fn open(&mut self, rows: usize, wanted: usize) -> &mut Self {
        (self.rows, self.wanted) = (rows, wanted);
        self
    }

    /// The work space after the steps that were opened.
    pub fn workspace(&self) -> Workspace {
        let ropes = self.manifest.ropes().iter().map(|rope| rope.rotary_dim).fold(0, usize::saturating_add);
        let tables = ropes.saturating_mul(self.rows_at_most());
        let mixture = self.routed.saturating_add(self.of_experts);
        let floats = [self.slots.values(), tables, mixture, self.exchanged, self.gathered, self.hidden];
        let floats = floats.into_iter().fold(0, usize::saturating_add).saturating_mul(size_of::<f32>());
        let products = linear::scratch_bytes(self.threads, self.prepared, self.near_rows, self.widened);
        let sampling = self.drawn_from.saturating_mul(SAMPLING_BYTES).saturating_mul(self.threads);
        let fixed_bytes = floats.saturating_add(products).saturating_add(sampling);
        Workspace { fixed_bytes, attended: self.attended.clone() }
    }

    fn rows_at_most(&self) -> usize {
        self.attended.iter().map(|demand| demand.tokens).max().unwrap_or(0)
    }

    fn shape(&self, weight: Weight) -> [usize; 2] {
        self.shapes.get(weight.0 as usize).copied().unwrap_or_default()
    }

    fn take(&self, rows: usize, cols: usize) -> Outline {
        self.slots.take(rows, cols)
    }

    /// `x` for writing: a copy where somebody else has it too.
    fn own(&self, x: Outline) -> Outline {
        if x.is_shared() { self.take(x.rows, x.cols) } else { x }
    }

    /// Notes what products of `[rows, width]` with `weights` prepare: at worst an input of its own for each.
    fn prepare(&mut self, rows: usize, width: usize, weights: &[Weight]) {
        let copies = if rows == 1 { self.threads } else { 1 };
        let (mut values, mut widths) = (0_usize, Vec::new());
        for &weight in weights {
            let [_, cols] = self.shape(weight);
            if !widths.contains(&cols) {
                widths.push(cols);
                values = values.saturating_add(rows.saturating_mul(cols).saturating_mul(copies));
            }
            if cols != width {
                self.widened = self.widened.max(cols);
            }
        }
        self.prepared = self.prepared.max(values);
    }
}

impl Ops for Footprint<'_> {
    type Tensor = Outline;

    fn embed(&mut self, table: Weight) -> Outline {
        let cols = self.manifest.spec(table).shape[1];
        self.take(self.rows, cols)
    }

    fn embed_positions(&mut self, table: Weight) -> Outline {
        self.embed(table)
    }

    fn input(&mut self, input: Input) -> Outline {
        let Input::Hidden = input;
        self.take(self.wanted, self.hidden.checked_div(self.wanted).unwrap_or(0))
    }

    fn emit(&mut self, output: Output, x: &Outline) {
        if output == Output::Hidden {
            self.hidden = self.hidden.max(x.values());
        }
    }

    fn select_rows(&mut self, x: &Outline, rows: Rows) -> Outline {
        let Rows::Wanted = rows;
        self.take(self.wanted, x.cols)
    }

    fn add(&mut self, x: Outline, _: &Outline) -> Outline {
        self.own(x)
    }

    fn bias(&mut self, x: Outline, _: Weight) -> Outline {
        self.own(x)
    }

    fn scale(&mut self, x: Outline, _: f32) -> Outline {
        self.own(x)
    }

    fn map(&mut self, x: Outline, _: Map) -> Outline {
        self.own(x)
    }

    fn temper(&mut self, x: Outline, _: &Temperature) -> Outline {
        self.own(x)
    }

    fn gated(&mut self, gate: Outline, _: &Outline, _: Gated) -> Outline {
        self.own(gate)
    }

    fn norm(&mut self, x: &Outline, spec: &NormSpec) -> Outline {
        if spec.spread.is_some() {
            self.exchanged = self.exchanged.max(x.rows);
        }
        self.take(x.rows, x.cols)
    }

    fn linear(&mut self, x: &Outline, weight: Weight) -> Outline {
        let [y] = self.linears(x, [weight]);
        y
    }

    fn linears<const N: usize>(&mut self, x: &Outline, weights: [Weight; N]) -> [Outline; N] {
        self.prepare(x.rows, x.cols, &weights);
        weights.map(|weight| self.take(x.rows, self.shape(weight)[0]))
    }

    fn linear_gated(&mut self, x: &Outline, gate: Weight, up: Weight, _: Gated) -> Outline {
        self.prepare(x.rows, x.cols, &[gate, up]);
        self.near_rows = self.near_rows.max(x.rows);
        self.take(x.rows, self.shape(gate)[0])
    }

    fn linear_heads(&mut self, x: &Outline, weight: Weight) -> Outline {
        let [rows, cols] = self.shape(weight);
        // Each head's input is prepared, and its columns are laid out for it.
        let copies = if x.rows == 1 { self.threads } else { 1 };
        self.prepared = self.prepared.max(x.values().saturating_mul(copies));
        self.widened = self.widened.max(cols);
        self.take(x.rows, rows)
    }

    fn concat_heads(&mut self, x: &Outline, y: &Outline, _: usize) -> Outline {
        self.take(x.rows, x.cols.saturating_add(y.cols))
    }

    fn route(&mut self, logits: &Outline, _: &RouterSpec) -> Outline {
        self.routed = self.routed.max(logits.values().saturating_mul(route::WORK_ROWS));
        self.take(logits.rows, logits.cols)
    }

    fn experts(&mut self, x: &Outline, _: &Outline, spec: &ExpertsSpec) -> Outline {
        let out = self.take(x.rows, x.cols);
        // At worst every row chooses the same expert.
        for expert in &spec.experts {
            let inner = self.shape(expert.gate.weight)[0];
            self.of_experts = self.of_experts.max(experts::scratch_values(x.rows, x.cols, inner));
            self.near_rows = self.near_rows.max(x.rows);
            self.prepare(x.rows, x.cols, &[expert.gate.weight, expert.up.weight]);
            self.prepare(x.rows, inner, &[expert.down.weight]);
        }
        out
    }

    fn rope(&mut self, x: Outline, _: Rope) -> Outline {
        self.own(x)
    }

    fn kv_write(&mut self, _: KvLayer, _: &Outline, _: Option<&Outline>) {}

    fn attend(&mut self, q: &Outline, layer: KvLayer, spec: &AttendSpec) -> Outline {
        let mut cols = q.cols;
        if let Some(&kv) = self.manifest.kv_layers().get(layer.0 as usize) {
            cols = spec.num_heads.saturating_mul(kv.value_dim());
            let demand = Demand { tokens: q.rows, num_heads: spec.num_heads, kv, threads: self.threads };
            if !self.attended.contains(&demand) {
                self.attended.push(demand);
            }
        }
        self.take(q.rows, cols)
    }

    fn all_reduce(&mut self, x: Outline, _: Axis) -> Outline {
        self.exchanged = self.exchanged.max(x.values());
        self.own(x)
    }

    fn gather_columns(&mut self, x: Outline, axis: Axis, columns: usize) -> Outline {
        self.exchanged = self.exchanged.max(x.values());
        self.gathered = self.gathered.max(x.values().saturating_mul(self.manifest.mesh().size(axis)));
        self.take(x.rows, columns)
    }

    fn draw(&mut self, logits: &Outline) {
        self.drawn_from = self.drawn_from.max(logits.cols);
    }
}

/// A tensor's shape, and the slot that holds it as long as it lives.
pub struct Outline {
    slots: Slots,
    slot: usize,
    rows: usize,
    cols: usize,
}

/// The arena's slots, of which each has a size and a count of the tensors in it.
#[derive(Clone, Default)]
struct Slots(Rc<RefCell<Vec<Slot>>>);

#[derive(Clone, Copy, Default)]
struct Slot {
    values: usize,
    references: usize,
}

impl Slots {
    fn take(&self, rows: usize, cols: usize) -> Outline {
        let len = rows.saturating_mul(cols);
        let mut slots = self.0.borrow_mut();
        let free = slots.iter().map(|slot| (slot.references == 0).then_some(slot.values));
        let slot = fitting(free, len).unwrap_or(slots.len());
        if slot == slots.len() {
            slots.push(Slot::default());
        }
        if let Some(slot) = slots.get_mut(slot) {
            *slot = Slot { values: slot.values.max(whole_lines(len)), references: 1 };
        }
        Outline { slots: self.clone(), slot, rows, cols }
    }

    /// Values of all slots.
    fn values(&self) -> usize {
        self.0.borrow().iter().map(|slot| slot.values).fold(0, usize::saturating_add)
    }
}

impl Outline {
    fn values(&self) -> usize {
        self.rows.saturating_mul(self.cols)
    }

    fn is_shared(&self) -> bool {
        self.slots.0.borrow().get(self.slot).is_some_and(|slot| slot.references > 1)
    }
}

impl Clone for Outline {
    fn clone(&self) -> Self {
        if let Some(slot) = self.slots.0.borrow_mut().get_mut(self.slot) {
            slot.references += 1;
        }
        Outline { slots: self.slots.clone(), slot: self.slot, rows: self.rows, cols: self.cols }
    }
}

impl Drop for Outline {
    fn drop(&mut self) {
        if let Some(slot) = self.slots.0.borrow_mut().get_mut(self.slot) {
            slot.references -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_as_in_the_arena() {
        let slots = Slots::default();
        let (first, second) = (slots.take(2, 16), slots.take(1, 4));
        assert_eq!(slots.values(), 32 + 16);
        let shared = second.clone();
        drop((first, second));
        assert!(!shared.is_shared());
        // The free slot of 32 grows to 48; the shared one is still taken.
        let third = slots.take(3, 16);
        assert_eq!((slots.values(), third.slot), (48 + 16, 0));
        assert_eq!(slots.take(usize::MAX, 2).values(), usize::MAX);
    }
}
