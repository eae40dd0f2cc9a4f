//! The device of one rank: bound weights, KV cache, threads and work space.

use crate::adapters::Adapters;
use crate::arena::{Arena, Slot};
use crate::bound::Bound;
use crate::error::CpuError;
use crate::isa::Isa;
use crate::kernels::attention::AttendScratch;
use crate::kernels::experts::ExpertScratch;
use crate::kernels::linear::{Activations, Scratch};
use crate::kv::{KvCache, KvDtype};
use crate::rope::RopeTables;
use crate::sampling::SamplingScratch;
use crate::step::CpuStep;
use crate::team::{Team, affinity};
use crate::topology::{self, Binding, Topology, format_list, placement};
use nxd_collectives::ProcessGroup;
use nxd_ops::{AdapterId, Axis, Batch, Expert, KvLayer, KvSpec, LowRank, Manifest, SamplingBatch, WeightSource};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// How a rank computes.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads of this rank's team.
    pub threads: usize,
    /// Numeric mode of quantised weights.
    pub activations: Activations,
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// Whether each member of the team is bound to a processor of its own. Where there are several NUMA nodes, members are bound to the
    /// processors of a node in any case, so that weights stay where they were packed.
    pub pin_threads: bool,
}

impl Default for CpuOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        CpuOptions { threads, activations: Activations::default(), isa: Isa::detect(), pin_threads: false }
    }
}

impl CpuOptions {
    /// The team of `rank` among `ranks` ranks, which are threads of this process, with as many threads each.
    pub fn team(&self, rank: usize, ranks: usize) -> Team {
        let binding = if self.pin_threads { Binding::Processor } else { Binding::Node };
        let topology = Topology::read(Path::new(topology::SYSTEM));
        let usable = affinity::usable().unwrap_or_default();
        let placement = placement(&topology, &usable, ranks, self.threads.max(1), binding);
        if self.pin_threads && placement.is_none() {
            tracing::warn!("threads are not pinned: the system does not say which processors this process may use");
        }
        let Some(places) = placement.as_ref().and_then(|ranks| ranks.get(rank)) else {
            return Team::new(self.threads).shedding();
        };
        for (member, processors) in places.iter().enumerate() {
            tracing::debug!(rank, member, processors = format_list(processors), "bound");
        }
        Team::placed(places).shedding()
    }
}

/// The device of one rank.
pub struct CpuDevice {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) options: CpuOptions,
    pub(crate) rank: usize,
    pub(crate) group: Option<ProcessGroup>,
    pub(crate) team: Team,
    pub(crate) bound: Bound,
    pub(crate) adapters: Adapters,
    pub(crate) caches: Vec<KvCache>,
    /// KV group and index within it of each KV layer.
    pub(crate) kv_places: Vec<(usize, usize)>,
    pub(crate) block_size: usize,
    pub(crate) ropes: RopeTables,
    pub(crate) work: Work,
    pub(crate) slots: Vec<Slot>,
}

/// Buffers that grow to what steps need and stay.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) linear: Scratch,
    pub(crate) attend: AttendScratch,
    pub(crate) experts: ExpertScratch,
    pub(crate) route: Vec<f32>,
    pub(crate) row_bytes: Vec<u8>,
    pub(crate) gathered: Vec<f32>,
    pub(crate) sampling: Vec<Mutex<SamplingScratch>>,
}

impl CpuDevice {
    /// Binds `manifest` to the weights of `source`, cut for `rank`; `group` joins the ranks of the tensor axis where there are several.
    ///
    /// # Errors
    /// When a weight is missing or does not fit its declaration.
    pub fn bind(
        manifest: Arc<Manifest>,
        source: &dyn WeightSource,
        rank: usize,
        group: Option<ProcessGroup>,
        options: CpuOptions,
    ) -> Result<Self, CpuError> {
        let team = options.team(rank, manifest.mesh().size(Axis::Tensor));
        let bound = Bound::new(&manifest, source, rank, options.activations, options.isa)?;
        let groups = manifest.kv_groups();
        let mut layers_of = vec![0; groups.len()];
        let place = |spec: &KvSpec| {
            let group = groups.iter().position(|g| g == spec).expect("groups are made of the layers' specs");
            layers_of[group] += 1;
            (group, layers_of[group] - 1)
        };
        let kv_places = manifest.kv_layers().iter().map(place).collect();
        let ropes = RopeTables::new(manifest.ropes());
        let mut work = Work::default();
        work.sampling.resize_with(team.threads(), Mutex::default);
        Ok(CpuDevice {
            manifest,
            options,
            rank,
            group,
            team,
            bound,
            adapters: Adapters::default(),
            caches: Vec::new(),
            kv_places,
            block_size: 0,
            ropes,
            work,
            slots: Vec::new(),
        })
    }

    /// Makes the KV cache: `num_blocks` blocks of `block_size` tokens for each KV group.
    ///
    /// # Errors
    /// When the block size is not allowed or the memory cannot be had.
    pub fn allocate_kv(&mut self, num_blocks: &[usize], block_size: usize, dtype: KvDtype) -> Result<(), CpuError> {
        self.caches.clear();
        for (group, (spec, &blocks)) in self.manifest.kv_groups().iter().zip(num_blocks).enumerate() {
            let layers = self.kv_places.iter().filter(|(g, _)| *g == group).count();
            self.caches.push(KvCache::new(layers, spec, blocks, block_size, dtype)?);
        }
        self.block_size = block_size;
        Ok(())
    }

    /// Takes an adapter, whose rows of later batches have `id`.
    ///
    /// # Errors
    /// When a matrix does not fit the weight that it belongs to.
    pub fn bind_adapter(&mut self, id: AdapterId, parts: &[LowRank]) -> Result<(), CpuError> {
        self.adapters.bind((id, parts), (&self.manifest, self.rank), self.options.isa)
    }

    /// Gives an adapter's memory back. Rows that name it are then computed without it.
    pub fn drop_adapter(&mut self, id: AdapterId) {
        self.adapters.drop(id);
    }

    /// Opens a forward step. The batch must have been validated ([`Batch::validate`]).
    pub fn open<'d>(&'d mut self, batch: &'d Batch) -> CpuStep<'d> {
        let lead = self.team.lead();
        for (cache, tables) in self.caches.iter_mut().zip(&batch.groups) {
            cache.zero(&tables.zero_blocks);
            cache.copy(&tables.copy_blocks);
        }
        self.ropes.prepare(batch);
        self.adapters.open(batch);
        CpuStep::forward(self, lead, batch)
    }

    /// Opens a step on `count` rows given from outside, `[count, columns]`: what [`nxd_ops::Input::Hidden`] gives.
    pub fn open_rows<'d>(&'d mut self, values: &'d [f32], count: usize) -> CpuStep<'d> {
        CpuStep::rows(self, values, count, None)
    }

    /// Opens a step that goes from hidden rows `[W, E]` to tokens.
    pub fn open_sampling<'d>(&'d mut self, hidden: &'d [f32], sampling: &'d SamplingBatch) -> CpuStep<'d> {
        CpuStep::rows(self, hidden, sampling.rows.len(), Some(sampling))
    }

    /// Threads of the rank's team.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Bytes of weights that products read on this rank: those of a decode step, and of experts all.
    pub fn weights_bytes(&self) -> usize {
        self.bound.bytes()
    }

    /// Bytes of an expert on this rank.
    pub fn expert_bytes(&self, expert: &Expert) -> usize {
        let weights = [expert.gate, expert.up, expert.down].into_iter().flat_map(|p| [Some(p.weight), p.bias]);
        weights.flatten().map(|weight| self.bound.bytes_of(weight)).sum()
    }

    /// Bytes of weights that each kernel serves.
    pub fn kernels(&self) -> Vec<(Arc<str>, usize)> {
        self.bound.kernels()
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> usize {
        self.caches.iter().map(KvCache::bytes).sum()
    }

    /// Where a layer's K and V lie: its group's cache and its index within it.
    pub(crate) fn kv_place(&self, layer: KvLayer) -> (usize, usize) {
        self.kv_places[layer.0 as usize]
    }

    /// Ranks along the tensor axis.
    pub fn ranks(&self) -> usize {
        self.manifest.mesh().size(Axis::Tensor)
    }

    pub(crate) fn take_arena(&mut self) -> std::rc::Rc<Arena> {
        Arena::new(std::mem::take(&mut self.slots))
    }
}
