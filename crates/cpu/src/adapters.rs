//! Bound adapters, and what they add to the rows of the requests that have one.

use crate::error::CpuError;
use crate::floats::Floats;
use crate::isa::Isa;
use crate::kernels::elementwise;
use crate::kernels::linear::{self, Activations, PackedMatrix, linears};
use crate::team::Team;
use nxd_ops::{AdapterId, Batch, LocalWeight, LowRank, Manifest, Weight};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// The adapters of one rank.
#[derive(Default)]
pub(crate) struct Adapters {
    bound: BTreeMap<AdapterId, HashMap<Weight, BoundLowRank>>,
    /// Rows of the open step.
    rows: usize,
    /// Those that share an adapter, as far as they are neighbours.
    runs: Runs,
    /// The same of the wanted rows alone.
    wanted_runs: Runs,
    /// What the first and the second matrix give.
    inner: Floats,
    sum: Floats,
}

/// Neighbouring rows, and their adapter.
type Runs = Vec<(Range<usize>, AdapterId)>;

struct BoundLowRank {
    down: PackedMatrix,
    up: PackedMatrix,
    scale: f32,
}

impl Adapters {
    /// Takes an adapter's matrices, cut for `rank` as the weights of `manifest` that they belong to.
    pub(crate) fn bind(
        &mut self,
        (id, parts): (AdapterId, &[LowRank]),
        (manifest, rank): (&Manifest, usize),
        isa: Isa,
    ) -> Result<(), CpuError> {
        let memory = Arc::default();
        let mut bound = HashMap::with_capacity(parts.len());
        for part in parts {
            let (weight, base) = manifest.find(&part.weight).ok_or_else(|| CpuError::Adapter(part.weight.clone()))?;
            let pack = |spec, stored: &nxd_ops::StoredWeight| -> Result<PackedMatrix, CpuError> {
                let local = LocalWeight::new(&spec, stored.clone(), rank)?;
                Ok(PackedMatrix::pack_later(&memory, local, Activations::F32, isa))
            };
            let [of_down, of_up] = part.specs(base);
            let (down, up) = (pack(of_down, &part.down)?, pack(of_up, &part.up)?);
            bound.insert(weight, BoundLowRank { down, up, scale: part.scale });
        }
        self.bound.insert(id, bound);
        Ok(())
    }

    /// Gives an adapter's memory back.
    pub(crate) fn drop(&mut self, id: AdapterId) {
        self.bound.remove(&id);
    }

    /// Notes which rows of a step have which adapter.
    pub(crate) fn open(&mut self, batch: &Batch) {
        self.rows = batch.num_tokens();
        self.runs.clear();
        self.wanted_runs.clear();
        for (request, id) in batch.adapters.iter().enumerate().filter_map(|(r, id)| Some((r, (*id)?))) {
            let rows = batch.rows(request);
            let place = |row| batch.wanted.partition_point(|&wanted| (wanted as usize) < row);
            let wanted = place(rows.start)..place(rows.end);
            for (runs, rows) in [(&mut self.runs, rows), (&mut self.wanted_runs, wanted)] {
                match runs.last_mut() {
                    Some((run, same)) if *same == id && run.end == rows.start => run.end = rows.end,
                    _ => runs.push((rows, id)),
                }
            }
        }
    }

    /// Whether something is added to the products of one of `weights` in the open step.
    pub(crate) fn touch(&self, weights: &[Weight]) -> bool {
        self.runs.iter().any(|(_, id)| self.bound.get(id).is_some_and(|of| weights.iter().any(|w| of.contains_key(w))))
    }

    /// Adds to `y`, the products of the rows `x` with `weight`: of all rows of the step, or of those that are wanted. A row's sum depends on
    /// no other row.
    pub(crate) fn add(
        &mut self,
        (team, isa): (&Team, Isa),
        weight: Weight,
        (x, y): (&[f32], &mut [f32]),
        rows: usize,
        scratch: &mut linear::Scratch,
    ) {
        let (inputs, outputs) = (x.len() / rows.max(1), y.len() / rows.max(1));
        // Where they are as many, they are the same.
        let runs = if rows == self.rows { &self.runs } else { &self.wanted_runs };
        for (run, id) in runs {
            let Some(part) = self.bound.get(id).and_then(|of| of.get(&weight)) else { continue };
            let (x, y) = (&x[run.start * inputs..run.end * inputs], &mut y[run.start * outputs..run.end * outputs]);
            let inner = self.inner.grown(run.len() * part.down.rows());
            linears(team, isa, x, run.len(), &[&part.down], &mut [&mut *inner], scratch);
            elementwise::scale(team, isa, inner, part.scale);
            let sum = self.sum.grown(y.len());
            linears(team, isa, inner, run.len(), &[&part.up], &mut [&mut *sum], scratch);
            elementwise::add(team, isa, y, sum);
        }
    }
}
