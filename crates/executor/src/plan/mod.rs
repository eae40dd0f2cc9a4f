//! What a model takes in memory and what is left for keys and values, from headers alone. The executors make their caches by it.

use crate::error::ExecutorError;
use crate::kv::{self, KvGroup, KvOptions};
use crate::memory::Memory;
use crate::options::ExecutorOptions;
use crate::rank::TILE;
use nxd_cpu::footprint::{Workspace, bound_bytes};
use nxd_cpu::{CpuError, Footprint};
use nxd_models::Model;
use nxd_models::checkpoint::NamedWeights;
use nxd_modules::{Decoder, DecoderSpec, Sampler};
use nxd_ops::{Axis, Capture, Manifest, Mesh, Params, Role};
use std::fmt;

/// The KV cache where the system does not say how much memory there is.
const UNKNOWN_MEMORY_KV_BYTES: usize = 1 << 30;

/// Of what weights and work space leave, the KV cache gets four fifths: a server fills all of it in time, and the rest is for everybody
/// else on the machine and for what is in no plan, such as requests on their way.
const OF_WHAT_IS_LEFT: (usize, usize) = (4, 5);

/// A model on the CPU with what it takes, and what the machine has.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPlan {
    /// What it takes whatever the cache is.
    pub needs: MemoryNeeds,
    /// What can be had; `None` where the system does not say.
    pub available_bytes: Option<u64>,
    /// Bytes that the KV cache may have.
    pub kv_budget_bytes: usize,
    /// Bytes that it has.
    pub kv_bytes: usize,
    /// Blocks of each KV group.
    pub num_blocks: Vec<usize>,
    /// Longest request, prompt and completion together.
    pub max_model_len: usize,
    /// Bytes of work space.
    pub workspace_bytes: usize,
    options: KvOptions,
}

/// What a model takes in memory whatever its cache is.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryNeeds {
    /// Ranks that the model is spread over.
    pub ranks: usize,
    /// Bytes of the weights in their files.
    pub stored_bytes: usize,
    /// Bytes of the weights that each rank keeps ready for products.
    pub packed_bytes: Vec<usize>,
    /// Bytes of tables whose rows are looked up where they lie.
    pub table_bytes: usize,
    /// Bytes of weights in memory at most, all ranks together.
    pub weights_bytes: usize,
    /// The KV groups.
    pub kv_groups: Vec<KvGroup>,
    /// The longest context that the model was configured for.
    pub model_len: usize,
    /// Work space of a rank.
    workspace: Workspace,
}

/// Plans `model` for `memory`, as [`CpuExecutor::load`](crate::CpuExecutor::load) does. No weight is read.
///
/// # Errors
/// When the files do not fit the configuration, the layout is impossible, or what is asked for does not fit.
pub fn plan(model: &Model, options: &ExecutorOptions, memory: &Memory) -> Result<MemoryPlan, ExecutorError> {
    MemoryNeeds::of(model, options)?.plan(&options.kv, memory)
}

impl MemoryNeeds {
    /// What `model` takes. No weight is read.
    ///
    /// # Errors
    /// When the files do not fit the configuration, or the layout is impossible.
    pub fn of(model: &Model, options: &ExecutorOptions) -> Result<Self, ExecutorError> {
        let mut manifest = Manifest::new(Mesh::tensor(options.ranks()?));
        let decoder = Decoder::new(&mut Params::new(&mut manifest), model.spec());
        MemoryNeeds::declared(model.spec(), &manifest, &decoder, &model.weights(&manifest)?, options)
    }

    /// What a declared model takes.
    pub(crate) fn declared(
        spec: &DecoderSpec,
        manifest: &Manifest,
        decoder: &Decoder,
        weights: &NamedWeights,
        options: &ExecutorOptions,
    ) -> Result<Self, ExecutorError> {
        let ranks = manifest.mesh().size(Axis::Tensor);
        let failed = |source| ExecutorError::Rank { rank: 0, source: CpuError::from(source) };
        let stored = manifest.weights().iter().map(|spec| weights.stored(spec).map_err(failed));
        let (formats, sizes): (Vec<_>, Vec<_>) = stored.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let declared = || manifest.weights().iter().zip(&formats);
        let of_rank =
            |rank| sum(declared().map(|(spec, &format)| bound_bytes(spec, format, options.activations, rank)));
        let packed_bytes: Vec<usize> = (0..ranks).map(of_rank).collect();
        let is_table = |role| matches!(role, Role::Embedding | Role::TiedEmbedding);
        let tables = manifest.weights().iter().zip(&sizes).filter(|(spec, _)| is_table(spec.role));
        let (stored_bytes, table_bytes) = (sum(sizes.iter().copied()), sum(tables.map(|(_, &bytes)| bytes)));
        // Files that are not mapped are copied by each rank. What it gives back once a weight is packed seldom leaves the process.
        let files = if weights.checkpoint().is_mapped() { table_bytes } else { stored_bytes.saturating_mul(ranks) };
        let weights_bytes = sum(packed_bytes.iter().copied()).saturating_add(files);

        let tokens = options.kv.max_num_batched_tokens.max(1);
        let seqs = options.kv.max_num_seqs.max(1).min(tokens);
        let mut footprint = Footprint::new(manifest, &formats, &options.of_rank(ranks));
        // Steps of all sizes come, and what small ones took is not always what large ones take.
        for rows in [1, tokens] {
            decoder.forward(footprint.open(rows, seqs.min(rows)), Capture::Layers);
            Sampler::new(decoder).forward(footprint.open(0, seqs.min(rows).min(TILE)));
        }
        Ok(MemoryNeeds {
            ranks,
            stored_bytes,
            packed_bytes,
            table_bytes,
            weights_bytes,
            kv_groups: KvGroup::all(manifest, options.kv.dtype),
            model_len: spec.max_position_embeddings,
            workspace: footprint.workspace(),
        })
    }

    /// Bytes of work space, all ranks together, where requests have up to `max_model_len` tokens.
    pub fn workspace_bytes(&self, max_model_len: usize) -> usize {
        self.workspace.bytes(max_model_len).saturating_mul(self.ranks)
    }

    /// Bytes of one token's keys and values, in all groups.
    pub fn kv_token_bytes(&self) -> usize {
        sum(self.kv_groups.iter().map(|group| group.token_bytes))
    }

    /// Plans the cache for `memory`.
    ///
    /// # Errors
    /// When what is asked for does not fit.
    pub fn plan(&self, options: &KvOptions, memory: &Memory) -> Result<MemoryPlan, ExecutorError> {
        let is_given = options.budget_bytes != KvOptions::WHAT_IS_LEFT;
        let budget = |max_model_len: usize| match memory.available_bytes {
            _ if is_given => options.budget_bytes,
            Some(available) => {
                let available = usize::try_from(available).unwrap_or(usize::MAX);
                let taken = self.weights_bytes.saturating_add(self.workspace_bytes(max_model_len));
                let (part, whole) = OF_WHAT_IS_LEFT;
                available.saturating_sub(taken) / whole * part
            }
            None => UNKNOWN_MEMORY_KV_BYTES,
        };
        let plan = kv::plan(&self.kv_groups, self.model_len, options, budget);
        let kv::KvPlan { budget_bytes, num_blocks, max_model_len } = plan.map_err(|error| match error {
            // No budget of keys and values helps where there is no memory for any.
            ExecutorError::KvBudget { tokens: 0, .. } if !is_given => ExecutorError::Memory {
                available: memory.available_bytes.unwrap_or(0),
                weights: self.weights_bytes,
                workspace: self.workspace_bytes(1),
                kv: kv::bytes_of_one(&self.kv_groups, 1, options),
            },
            error => error,
        })?;
        let sizes = self.kv_groups.iter().map(|group| group.block_bytes(options.block_size));
        Ok(MemoryPlan {
            needs: self.clone(),
            available_bytes: memory.available_bytes,
            kv_budget_bytes: budget_bytes,
            kv_bytes: sum(sizes.zip(&num_blocks).map(|(bytes, &blocks)| bytes.saturating_mul(blocks))),
            num_blocks,
            max_model_len,
            workspace_bytes: self.workspace_bytes(max_model_len),
            options: *options,
        })
    }
}

impl MemoryPlan {
    /// Weights, cache and work space.
    pub fn total_bytes(&self) -> usize {
        sum([self.needs.weights_bytes, self.kv_bytes, self.workspace_bytes])
    }

    /// Whether all of it can be had; so also where the system does not say what can.
    pub fn fits(&self) -> bool {
        self.available_bytes.is_none_or(|available| self.total_bytes() as u64 <= available)
    }

    /// Tokens that the cache holds, in the group that holds most.
    pub fn kv_tokens(&self) -> usize {
        self.num_blocks.iter().max().map_or(0, |blocks| blocks.saturating_mul(self.options.block_size))
    }

    /// How many requests of `len` tokens the cache holds at once, at most as many as may run.
    pub fn requests(&self, len: usize) -> usize {
        let groups = self.needs.kv_groups.iter().zip(&self.num_blocks);
        let held = groups.map(|(group, blocks)| blocks / group.blocks_of_one(len, &self.options).max(1));
        held.min().unwrap_or(usize::MAX).min(self.options.max_num_seqs.max(1))
    }
}

/// One line: what is taken, by what, of how much.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks: Vec<String> = self.num_blocks.iter().map(|&blocks| Count(blocks).to_string()).collect();
        write!(
            f,
            "weights {} + KV {} ({} tokens = {} blocks × {}) + work {}",
            Bytes(self.needs.weights_bytes as u64),
            Bytes(self.kv_bytes as u64),
            Count(self.kv_tokens()),
            blocks.join(" + "),
            self.options.block_size,
            Bytes(self.workspace_bytes as u64),
        )?;
        match self.available_bytes {
            Some(available) => write!(f, " of {}", Bytes(available)),
            None => Ok(()),
        }
    }
}

/// A size for people: `98 MiB`, `2.0 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let (mut size, mut unit) = (self.0 as f64 / 1024.0, 0);
        while size >= 1023.5 && unit + 1 < UNITS.len() {
            (size, unit) = (size / 1024.0, unit + 1);
        }
        let decimals = usize::from(size < 9.95 || unit > 1);
        match self.0 {
            0..1024 => write!(f, "{} bytes", self.0),
            _ => write!(f, "{size:.decimals$} {}", UNITS[unit]),
        }
    }
}

/// A number with a comma between thousands.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub usize);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

fn sum(values: impl IntoIterator<Item = usize>) -> usize {
    values.into_iter().fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests;
