//! One open step: the eager [`Ops`].

use crate::arena::{Arena, Buffer, Tensor};
use crate::device::CpuDevice;
use crate::error::CpuError;
use crate::kernels::attention::{self, Attend};
use crate::kernels::experts::{self, Mixture};
use crate::kernels::linear::{GatedPair, PackedMatrix};
use crate::kernels::norm::{self, Affine};
use crate::kernels::route::{self, Router};
use crate::kernels::{elementwise, gated, heads, linear, map, rope};
use crate::kv::Place;
use crate::sampling::draw_row;
use crate::team::Lead;
use nxd_collectives::{CollectiveError, ProcessGroup};
use nxd_ops::{
    AttendSpec, Axis, Batch, Capture, Centre, Drawn, ExpertsSpec, Gated, Input, KvLayer, Map, NormSpec, Ops, Output,
    Rope, RouterSpec, Rows, SamplingBatch, Spread, Temperature, TopKRouter, Weight,
};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

/// What a step was opened for.
#[derive(Clone, Copy)]
enum Purpose<'d> {
    /// A batch of tokens.
    Forward(&'d Batch),
    /// Rows given from outside, and how each is to draw where they are to.
    Rows { values: &'d [f32], count: usize, sampling: Option<&'d SamplingBatch> },
}

/// One open step of one rank. Ops compute at once; after the first error they do nothing, and [`CpuStep::close`] returns it.
pub struct CpuStep<'d> {
    device: &'d mut CpuDevice,
    /// Keeps this thread in the team's place while the step is open.
    _lead: Lead,
    arena: Rc<Arena>,
    purpose: Purpose<'d>,
    outputs: Outputs,
    error: Option<CpuError>,
    /// The layer that runs, for errors.
    layer: usize,
}

/// What a step emitted.
#[derive(Debug, Default)]
pub struct Outputs {
    /// The wanted rows after the final norm, `[W, E]`.
    pub hidden: Vec<f32>,
    /// The logits, `[W, V]`.
    pub logits: Vec<f32>,
    /// Embedding and layer outputs, each `[T, E]`, where the batch captures them.
    pub layers: Vec<(Output, Vec<f32>)>,
    /// What each row drew; empty on ranks other than the first.
    pub drawn: Vec<Drawn>,
}

impl<'d> CpuStep<'d> {
    pub(crate) fn forward(device: &'d mut CpuDevice, lead: Lead, batch: &'d Batch) -> Self {
        Self::open(device, lead, Purpose::Forward(batch))
    }

    pub(crate) fn rows(
        device: &'d mut CpuDevice,
        values: &'d [f32],
        count: usize,
        sampling: Option<&'d SamplingBatch>,
    ) -> Self {
        let lead = device.team.lead();
        Self::open(device, lead, Purpose::Rows { values, count, sampling })
    }

    fn open(device: &'d mut CpuDevice, lead: Lead, purpose: Purpose<'d>) -> Self {
        let arena = device.take_arena();
        CpuStep { device, _lead: lead, arena, purpose, outputs: Outputs::default(), error: None, layer: 0 }
    }

    /// Ends the step.
    ///
    /// # Errors
    /// The first error of its ops.
    pub fn close(self) -> Result<Outputs, CpuError> {
        self.device.slots = self.arena.into_slots();
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.outputs),
        }
    }

    /// The batch of a forward step.
    fn batch(&self) -> &'d Batch {
        match self.purpose {
            Purpose::Forward(batch) => batch,
            Purpose::Rows { .. } => unreachable!("a step on given rows has no tokens, positions or caches"),
        }
    }

    /// The rows `ids` of a table.
    fn look_up(&mut self, table: Weight, ids: &[u32]) -> Tensor {
        let cols = self.device.bound.table_columns(table);
        let mut out = self.take(ids.len(), cols);
        for (&id, row) in ids.iter().zip(out.values().chunks_exact_mut(cols)) {
            self.device.bound.look_up(table, id, &mut self.device.work.row_bytes, row);
        }
        out.finish()
    }

    /// Norms rows whose columns are spread over ranks, which each add the squares of theirs.
    fn norm_spread(&mut self, x: &Tensor, spec: &NormSpec, spread: Spread) -> Tensor {
        debug_assert_eq!((spec.centre, spec.bias), (Centre::Zero, None), "no model has another such norm");
        let (rows, cols) = (x.rows(), x.cols());
        let mut sums = self.take(rows, 1);
        norm::squares_of_rows(self.device.options.isa, &x.values(), cols, sums.values());
        self.collective("norm", |group| group.all_reduce_sum(sums.values()));
        let count = (spec.width * spread.copies) as f32;
        sums.values().iter_mut().for_each(|sum| *sum /= count);
        let mut out = self.take(rows, cols);
        let weight = spec.weight.map(|weight| self.device.bound.vector(weight));
        norm::scaled_rows(&x.values(), cols, sums.values(), weight, spec, out.values());
        out.finish()
    }

    /// Whether adapters add something to products of the step's tokens with `weights`.
    fn adapts(&self, weights: &[Weight]) -> bool {
        matches!(self.purpose, Purpose::Forward(_)) && self.device.adapters.touch(weights)
    }

    fn affine(&self, spec: &NormSpec) -> Affine<'_> {
        let vector = |weight| self.device.bound.vector(weight);
        Affine { weight: spec.weight.map(vector), bias: spec.bias.map(vector) }
    }

    fn take(&self, rows: usize, cols: usize) -> Buffer {
        self.arena.take(rows, cols)
    }

    /// Runs a collective unless an earlier op failed, and keeps its error.
    fn collective(&mut self, op: &'static str, f: impl FnOnce(&ProcessGroup) -> Result<(), CollectiveError>) {
        let Some(group) = &self.device.group else { return };
        if self.error.is_some() {
            return;
        }
        if let Err(source) = f(group) {
            let layer = match self.purpose {
                Purpose::Forward(_) => self.layer.to_string(),
                Purpose::Rows { .. } => "head".to_owned(),
            };
            self.error = Some(CpuError::Collective { op, layer, source });
        }
    }
}

impl Ops for CpuStep<'_> {
    type Tensor = Tensor;

    fn embed(&mut self, table: Weight) -> Tensor {
        self.look_up(table, &self.batch().token_ids)
    }

    fn embed_positions(&mut self, table: Weight) -> Tensor {
        self.look_up(table, &self.batch().positions)
    }

    fn input(&mut self, input: Input) -> Tensor {
        match (input, self.purpose) {
            (Input::Hidden, Purpose::Rows { values, count, .. }) => {
                let mut out = self.take(count, values.len() / count.max(1));
                out.values().copy_from_slice(values);
                out.finish()
            }
            (Input::Hidden, Purpose::Forward(_)) => {
                unreachable!("a forward step makes hidden rows, it does not take them")
            }
        }
    }

    fn emit(&mut self, output: Output, x: &Tensor) {
        match output {
            Output::Embedding | Output::Layer(_) => {
                if let Output::Layer(layer) = output {
                    self.layer = layer + 1;
                }
                if self.batch().capture == Capture::Layers {
                    self.outputs.layers.push((output, x.values().to_vec()));
                }
            }
            Output::Hidden => self.outputs.hidden = x.values().to_vec(),
            Output::Logits => {
                // Only the first rank answers, and logits are large.
                if let Purpose::Rows { sampling: Some(sampling), .. } = self.purpose
                    && sampling.keep_logits
                    && self.device.rank == 0
                {
                    self.outputs.logits = x.values().to_vec();
                }
            }
        }
    }

    fn select_rows(&mut self, x: &Tensor, rows: Rows) -> Tensor {
        let Rows::Wanted = rows;
        let wanted = &self.batch().wanted;
        // Ascending, so that as many are all.
        if wanted.len() == x.rows() {
            return x.clone();
        }
        let cols = x.cols();
        let mut out = self.take(wanted.len(), cols);
        let values = x.values();
        for (&row, out) in wanted.iter().zip(out.values().chunks_exact_mut(cols)) {
            out.copy_from_slice(&values[row as usize * cols..][..cols]);
        }
        drop(values); // the arena takes the result only while nobody reads from it
        out.finish()
    }

    fn add(&mut self, x: Tensor, y: &Tensor) -> Tensor {
        let mut x = x.into_buffer();
        elementwise::add(&self.device.team, self.device.options.isa, x.values(), &y.values());
        x.finish()
    }

    fn bias(&mut self, x: Tensor, bias: Weight) -> Tensor {
        let mut x = x.into_buffer();
        elementwise::bias(&self.device.team, self.device.options.isa, x.values(), self.device.bound.vector(bias));
        x.finish()
    }

    fn scale(&mut self, x: Tensor, factor: f32) -> Tensor {
        let mut x = x.into_buffer();
        elementwise::scale(&self.device.team, self.device.options.isa, x.values(), factor);
        x.finish()
    }

    fn map(&mut self, x: Tensor, f: Map) -> Tensor {
        let mut x = x.into_buffer();
        map::map(&self.device.team, self.device.options.isa, f, x.values());
        x.finish()
    }

    fn temper(&mut self, x: Tensor, temperature: &Temperature) -> Tensor {
        let cols = x.cols();
        let mut x = x.into_buffer();
        for (row, &position) in x.values().chunks_exact_mut(cols.max(1)).zip(&self.batch().positions) {
            let factor = temperature.at(position);
            row.iter_mut().for_each(|value| *value *= factor);
        }
        x.finish()
    }

    fn gated(&mut self, gate: Tensor, up: &Tensor, activation: Gated) -> Tensor {
        let mut gate = gate.into_buffer();
        gated::gated(&self.device.team, self.device.options.isa, activation, gate.values(), &up.values());
        gate.finish()
    }

    fn norm(&mut self, x: &Tensor, spec: &NormSpec) -> Tensor {
        if let Some(spread) = spec.spread.filter(|_| self.device.group.is_some()) {
            return self.norm_spread(x, spec, spread);
        }
        let mut out = self.take(x.rows(), x.cols());
        norm::norm(&self.device.team, self.device.options.isa, &x.values(), self.affine(spec), spec, out.values());
        out.finish()
    }

    fn add_norm(&mut self, residual: Tensor, x: &Tensor, spec: &NormSpec) -> (Tensor, Tensor) {
        if spec.spread.is_some() {
            let sum = self.add(residual, x);
            let normed = self.norm(&sum, spec);
            return (sum, normed);
        }
        let mut sum = residual.into_buffer();
        let mut out = self.take(x.rows(), x.cols());
        let (team, isa) = (&self.device.team, self.device.options.isa);
        norm::add_norm(team, isa, sum.values(), &x.values(), self.affine(spec), spec, out.values());
        (sum.finish(), out.finish())
    }

    fn linear(&mut self, x: &Tensor, weight: Weight) -> Tensor {
        let [y] = self.linears(x, [weight]);
        y
    }

    fn linears<const N: usize>(&mut self, x: &Tensor, weights: [Weight; N]) -> [Tensor; N] {
        let device = &mut *self.device;
        let matrices = weights.map(|w| device.bound.matrix(w));
        let mut outs = matrices.map(|m| self.arena.take(x.rows(), m.rows()));
        {
            let mut slices = outs.each_mut().map(Buffer::values);
            let (team, isa) = (&device.team, device.options.isa);
            linear::linears(team, isa, &x.values(), x.rows(), &matrices, &mut slices, &mut device.work.linear);
        }
        if self.adapts(&weights) {
            for (weight, out) in weights.into_iter().zip(&mut outs) {
                let device = &mut *self.device;
                let (team, scratch) = ((&device.team, device.options.isa), &mut device.work.linear);
                device.adapters.add(team, weight, (&x.values(), out.values()), x.rows(), scratch);
            }
        }
        outs.map(Buffer::finish)
    }

    fn linear_gated(&mut self, x: &Tensor, gate: Weight, up: Weight, activation: Gated) -> Tensor {
        // What adapters add comes between the products and the activation.
        if self.adapts(&[gate, up]) {
            let [gate, up] = self.linears(x, [gate, up]);
            return self.gated(gate, &up, activation);
        }
        let device = &mut *self.device;
        let [gate, up] = [gate, up].map(|w| device.bound.matrix(w));
        let mut out = self.arena.take(x.rows(), gate.rows());
        {
            let (team, isa, scratch) = (&device.team, device.options.isa, &mut device.work.linear);
            let pair = GatedPair { gate, up, activation };
            linear::linear_gated(team, isa, &x.values(), x.rows(), pair, out.values(), scratch);
        }
        out.finish()
    }

    fn linear_heads(&mut self, x: &Tensor, weight: Weight) -> Tensor {
        let device = &mut *self.device;
        let matrices = device.bound.heads(weight);
        let mut out = self.arena.take(x.rows(), matrices.iter().map(PackedMatrix::rows).sum());
        let (team, isa, scratch) = (&device.team, device.options.isa, &mut device.work.linear);
        linear::linear_heads(team, isa, &x.values(), x.rows(), matrices, out.values(), scratch);
        out.finish()
    }

    fn concat_heads(&mut self, x: &Tensor, y: &Tensor, heads: usize) -> Tensor {
        let mut out = self.take(x.rows(), x.cols() + y.cols());
        let widths = [x.cols() / heads, y.cols() / heads];
        heads::concat(&self.device.team, &x.values(), &y.values(), widths, out.values());
        out.finish()
    }

    fn route(&mut self, logits: &Tensor, spec: &RouterSpec) -> Tensor {
        let mut out = self.take(logits.rows(), logits.cols());
        let device = &mut *self.device;
        let correction = match spec {
            RouterSpec::TopK(TopKRouter { correction: Some(weight), .. }) => Some(device.bound.vector(*weight)),
            _ => None,
        };
        let router = Router { spec, correction, num_experts: logits.cols() };
        let needed = route::WORK_ROWS * logits.rows() * logits.cols();
        if device.work.route.len() < needed {
            device.work.route.resize(needed, 0.0);
        }
        let work = &mut device.work.route[..needed];
        route::route(&device.team, device.options.isa, &logits.values(), router, out.values(), work);
        out.finish()
    }

    fn experts(&mut self, x: &Tensor, affinities: &Tensor, spec: &ExpertsSpec) -> Tensor {
        let mut out = self.take(x.rows(), x.cols());
        let device = &mut *self.device;
        let bound = &device.bound;
        let all = spec.experts.iter().map(|expert| bound.expert(expert));
        let mixture = Mixture { activation: spec.activation, weighing: spec.weighing };
        let (team, isa, work) = (&device.team, device.options.isa, &mut device.work);
        let scratch = (&mut work.experts, &mut work.linear);
        experts::experts(team, isa, [&x.values(), &affinities.values()], (mixture, all), out.values(), scratch);
        out.finish()
    }

    fn rope(&mut self, x: Tensor, rope: Rope) -> Tensor {
        let mut x = x.into_buffer();
        let (cos, sin, spec) = self.device.ropes.get(rope);
        rope::rope(&self.device.team, self.device.options.isa, x.values(), cos, sin, spec.head_dim, spec.rotary_dim);
        x.finish()
    }

    fn kv_write(&mut self, layer: KvLayer, k: &Tensor, v: Option<&Tensor>) {
        let batch = self.batch();
        let (group, layer) = self.device.kv_place(layer);
        let place = Place { layer, batch, tables: &batch.groups[group] };
        let (team, isa) = (&self.device.team, self.device.options.isa);
        let v = v.map(Tensor::values);
        self.device.caches[group].write(team, isa, &place, &k.values(), v.as_deref());
    }

    fn attend(&mut self, q: &Tensor, layer: KvLayer, spec: &AttendSpec) -> Tensor {
        let batch = self.batch();
        let (group, layer) = self.device.kv_place(layer);
        let mut out = self.take(q.rows(), spec.num_heads * self.device.caches[group].spec().value_dim());
        let device = &mut *self.device;
        let place = Place { layer, batch, tables: &batch.groups[group] };
        let sinks = spec.sinks.map(|sinks| device.bound.vector(sinks));
        let attend = Attend { cache: &device.caches[group], place, spec, sinks };
        let (team, isa) = (&device.team, device.options.isa);
        attention::attend(team, isa, &q.values(), &attend, out.values(), &mut device.work.attend);
        out.finish()
    }

    fn all_reduce(&mut self, x: Tensor, axis: Axis) -> Tensor {
        debug_assert_eq!(axis, Axis::Tensor);
        let mut x = x.into_buffer();
        self.collective("all_reduce", |group| group.all_reduce_sum(x.values()));
        x.finish()
    }

    fn gather_columns(&mut self, x: Tensor, axis: Axis, columns: usize) -> Tensor {
        debug_assert_eq!(axis, Axis::Tensor);
        let (rows, local, ranks) = (x.rows(), x.cols(), self.device.ranks());
        let mut gathered = std::mem::take(&mut self.device.work.gathered);
        gathered.resize(ranks * rows * local, 0.0);
        self.collective("gather_columns", |group| group.all_gather(&x.values(), &mut gathered));
        let mut out = self.take(rows, columns);
        for (row, out) in out.values().chunks_exact_mut(columns.max(1)).enumerate() {
            for (rank, out) in out.chunks_mut(local).enumerate() {
                out.copy_from_slice(&gathered[(rank * rows + row) * local..][..out.len()]);
            }
        }
        self.device.work.gathered = gathered;
        out.finish()
    }

    fn draw(&mut self, logits: &Tensor) {
        let Purpose::Rows { sampling: Some(batch), .. } = self.purpose else { return };
        // Every rank has the logits; one draw is enough.
        if self.device.rank != 0 || self.error.is_some() {
            return;
        }
        let values = logits.values();
        let values: &[f32] = &values;
        let vocab = logits.cols();
        let scratch = &self.device.work.sampling;
        let draw = |row: usize, member: usize| {
            let mut scratch = scratch[member].lock().unwrap_or_else(PoisonError::into_inner);
            draw_row(&values[row * vocab..][..vocab], &batch.rows[row], &mut scratch)
        };
        if batch.rows.len() < 2 {
            self.outputs.drawn = (0..batch.rows.len()).map(|row| draw(row, 0)).collect();
            return;
        }
        let drawn: Vec<Mutex<Drawn>> = batch.rows.iter().map(|_| Mutex::new(Drawn::NotFinite)).collect();
        self.device.team.run(&|member| {
            for row in member.share(drawn.len()) {
                *drawn[row].lock().unwrap_or_else(PoisonError::into_inner) = draw(row, member.id);
            }
        });
        self.outputs.drawn =
            drawn.into_iter().map(|d| d.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    }
}
