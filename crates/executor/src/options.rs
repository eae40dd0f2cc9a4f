//! How a model is run.

use crate::device::{Device, Dtype};
use crate::error::ExecutorError;
use crate::kv::KvOptions;
use nxd_cpu::{Activations, CpuOptions, Isa, KvDtype};
use std::time::Duration;

/// How a model is run.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// What computes.
    pub device: Device,
    /// Type of the arithmetic's activations on traced devices, `None` for the target's own choice. The CPU computes in f32.
    pub dtype: Option<Dtype>,
    /// Threads, shared out among the ranks. The CPU alone looks at it.
    pub threads: usize,
    /// Whether each thread is bound to a processor of its own. The CPU alone looks at it.
    pub pin_threads: bool,
    /// Ranks of tensor parallelism.
    pub tensor_parallel_size: usize,
    /// Numeric mode of weights that are quantised or floats of 16 bits. The CPU alone looks at it: traced devices dequantise.
    pub activations: Activations,
    /// Instruction set of the CPU's kernels.
    pub isa: Isa,
    /// The KV cache.
    pub kv: KvOptions,
    /// The longest wait for a rank within a step.
    pub step_timeout: Duration,
}

/// Most ranks: more than that in one process is a slip of the pen.
const MAX_RANKS: usize = 64;

impl ExecutorOptions {
    /// The options of one of `ranks` ranks on the CPU.
    pub(crate) fn of_rank(&self, ranks: usize) -> CpuOptions {
        CpuOptions {
            threads: (self.threads / ranks).max(1),
            activations: self.activations,
            isa: self.isa,
            pin_threads: self.pin_threads,
        }
    }

    /// The ranks, if there can be as many.
    pub(crate) fn ranks(&self) -> Result<usize, ExecutorError> {
        let found = self.tensor_parallel_size;
        if (1..=MAX_RANKS).contains(&found) {
            return Ok(found);
        }
        Err(ExecutorError::TensorParallel { found, why: format!("sizes from 1 to {MAX_RANKS} are") })
    }
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        let CpuOptions { threads, activations, isa, pin_threads } = CpuOptions::default();
        ExecutorOptions {
            device: Device::default(),
            dtype: None,
            threads,
            pin_threads,
            tensor_parallel_size: 1,
            activations,
            isa,
            kv: KvOptions {
                block_size: 16,
                dtype: KvDtype::F16,
                budget_bytes: 1 << 30,
                max_model_len: None,
                max_num_seqs: 256,
                max_num_batched_tokens: 512,
            },
            step_timeout: Duration::from_secs(300),
        }
    }
}
