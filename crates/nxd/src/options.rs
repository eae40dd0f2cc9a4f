//! How a model is loaded, and how text is generated.

use nxd_engine::{AdapterId, EngineOptions, SamplingParams};
use nxd_executor::{Activations, Device, Dtype, ExecutorOptions, KvDtype, KvOptions};
use nxd_models::LoadMode;

/// How a model is loaded. What is `None` is derived from checkpoint and machine.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What computes.
    pub device: Device,
    /// Type of the arithmetic's activations; `None` for the device's own choice. The CPU computes in f32 and refuses another type.
    pub dtype: Option<Dtype>,
    /// CPU threads, shared out among the ranks; `None` for the cores that this process may use.
    pub threads: Option<usize>,
    /// Whether each CPU thread is bound to a processor of its own.
    pub pin_threads: bool,
    /// Ranks that share every layer.
    pub tensor_parallel_size: usize,
    /// What meets weights on the CPU: blocks of integers (fast), or f32. Other devices dequantise.
    pub activations: Activations,
    /// How weights are read.
    pub load_mode: LoadMode,
    /// Longest prompt and completion together; `None` for the model's own limit, or what fits.
    pub max_model_len: Option<usize>,
    /// Type of stored keys and values; `None` for f16 with 8-bit activations and f32 with f32 activations, and on other devices than
    /// the CPU for the type of the arithmetic.
    pub kv_cache_dtype: Option<KvDtype>,
    /// Most bytes of keys and values, all ranks together; `None` for most of the memory that weights and work space leave, but no more
    /// than `max_num_seqs` requests of `max_model_len` tokens can use.
    pub kv_cache_memory_bytes: Option<usize>,
    /// Tokens a KV block.
    pub block_size: usize,
    /// Most requests that share a step.
    pub max_num_seqs: usize,
    /// Most tokens a step; a longer prompt is computed in chunks.
    pub max_num_batched_tokens: usize,
    /// Whether keys and values of earlier prompts are kept while there is room, and used again where prompts begin alike.
    pub enable_prefix_caching: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let EngineOptions { max_num_seqs, max_num_batched_tokens, enable_prefix_caching } = EngineOptions::default();
        LoadOptions {
            device: Device::default(),
            dtype: None,
            threads: None,
            pin_threads: false,
            tensor_parallel_size: 1,
            activations: Activations::default(),
            load_mode: LoadMode::default(),
            max_model_len: None,
            kv_cache_dtype: None,
            kv_cache_memory_bytes: None,
            block_size: 16,
            max_num_seqs,
            max_num_batched_tokens,
            enable_prefix_caching,
        }
    }
}

impl LoadOptions {
    /// What the executor is told, with everything derived that is not given.
    pub fn executor_options(&self) -> ExecutorOptions {
        let defaults = ExecutorOptions::default();
        ExecutorOptions {
            device: self.device.clone(),
            dtype: self.dtype,
            threads: self.threads.unwrap_or(defaults.threads).max(1),
            pin_threads: self.pin_threads,
            tensor_parallel_size: self.tensor_parallel_size,
            activations: self.activations,
            kv: KvOptions {
                block_size: self.block_size,
                dtype: self.kv_cache_dtype.unwrap_or_else(|| self.device.kv_dtype(self.dtype, self.activations)),
                budget_bytes: self.kv_cache_memory_bytes.unwrap_or(KvOptions::WHAT_IS_LEFT),
                max_model_len: self.max_model_len,
                max_num_seqs: self.max_num_seqs.max(1),
                max_num_batched_tokens: self.max_num_batched_tokens.max(1),
            },
            ..defaults
        }
    }

    /// What the engine is told.
    pub fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            enable_prefix_caching: self.enable_prefix_caching,
        }
    }
}

/// How text is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are drawn; by default the most likely one is taken.
    pub sampling: SamplingParams,
    /// Most tokens to generate; `None` for as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Texts that end the completion and are left out of it.
    pub stop: Vec<String>,
    /// Whether to go on after the model's end-of-text token.
    pub ignore_eos: bool,
    /// How many of the most likely tokens to report with each generated one; `None` for no log-probabilities.
    pub logprobs: Option<u32>,
    /// The adapter that tokens are computed with ([`crate::Model::load_adapter`]); `None` for the model as it is.
    pub adapter: Option<AdapterId>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            sampling: SamplingParams::default(),
            max_tokens: Some(256),
            stop: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            adapter: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_type_follows_the_numeric_mode_unless_given() {
        let dtype = |options: LoadOptions| options.executor_options().kv.dtype;
        let with = |activations| LoadOptions { activations, ..LoadOptions::default() };
        assert_eq!(dtype(with(Activations::Int8)), KvDtype::F16);
        assert_eq!(dtype(with(Activations::F32)), KvDtype::F32);
        assert_eq!(dtype(LoadOptions { kv_cache_dtype: Some(KvDtype::BF16), ..with(Activations::F32) }), KvDtype::BF16);
        let f32_on_another =
            LoadOptions { device: "cuda".parse().unwrap(), dtype: Some(Dtype::F32), ..LoadOptions::default() };
        assert_eq!(dtype(f32_on_another), KvDtype::F32);
    }

    #[test]
    fn the_cache_gets_what_is_left_unless_given() {
        assert_eq!(LoadOptions::default().executor_options().kv.budget_bytes, KvOptions::WHAT_IS_LEFT);
        let given = LoadOptions { kv_cache_memory_bytes: Some(4096), ..LoadOptions::default() };
        assert_eq!(given.executor_options().kv.budget_bytes, 4096);
    }
}
