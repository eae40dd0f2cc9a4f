//! Flags of the engine: how many requests share a step and how much memory their keys and values get.

use clap::{Args, ValueEnum, builder::BoolishValueParser};

use super::values;

/// Scheduler and KV cache.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// Longest prompt plus answer, in tokens [default: what the model was made for].
    #[arg(long, short = 'c', env = "NXD_MAX_MODEL_LEN", value_name = "TOKENS", value_parser = values::positive,
          allow_negative_numbers = true)]
    pub(crate) max_model_len: Option<usize>,

    /// Most requests in one step; `-np` means the same.
    #[arg(long, env = "NXD_MAX_NUM_SEQS", value_name = "N", default_value_t = 64, value_parser = values::positive,
          allow_negative_numbers = true)]
    pub(crate) max_num_seqs: usize,

    /// Most tokens in one step; a longer prompt is cut into chunks [default: 256; of `serve` 128, or --max-num-seqs if that is more, so
    /// that those who are being answered wait less for others' prompts].
    #[arg(long, env = "NXD_MAX_NUM_BATCHED_TOKENS", value_name = "TOKENS", value_parser = values::positive,
          allow_negative_numbers = true)]
    pub(crate) max_num_batched_tokens: Option<usize>,

    /// Tokens in one KV block, a multiple of 8.
    #[arg(long, env = "NXD_BLOCK_SIZE", value_name = "TOKENS", default_value_t = 16, value_parser = values::block_size,
          allow_negative_numbers = true)]
    pub(crate) block_size: usize,

    /// Type of stored keys and values; `auto` is f16 with int8 activations and f32 with f32 activations, and the type of the
    /// arithmetic on devices other than the CPU.
    #[arg(long, env = "NXD_KV_CACHE_DTYPE", value_enum, default_value_t)]
    pub(crate) kv_cache_dtype: KvCacheDtype,

    /// Memory for keys and values, such as 4GiB, 8GB or 512MiB [default: from the memory that is free].
    #[arg(long, env = "NXD_KV_CACHE_MEMORY", value_name = "SIZE", value_parser = values::size_bytes,
          allow_negative_numbers = true)]
    pub(crate) kv_cache_memory: Option<u64>,

    /// Compute every prompt anew, also where it begins like an earlier one.
    #[arg(long, env = "NXD_NO_ENABLE_PREFIX_CACHING", value_parser = BoolishValueParser::new())]
    pub(crate) no_enable_prefix_caching: bool,
}

/// `--kv-cache-dtype`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtype {
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
    /// Integers of eight bits with a scale for each token and head. On the CPU alone.
    Int8,
    /// Floats of eight bits (e4m3) with a scale for each token and head; `fp8_e4m3` means the same. On the CPU alone.
    #[value(alias = "fp8_e4m3")]
    Fp8,
}

impl EngineArgs {
    /// Most tokens in one step, for commands whose prompts hold up nobody.
    pub(crate) fn tokens_a_step(&self) -> usize {
        self.max_num_batched_tokens.unwrap_or(256)
    }

    /// The flags as a server takes them.
    pub(crate) fn of_a_server(&self) -> EngineArgs {
        let tokens = self.max_num_batched_tokens.unwrap_or(self.max_num_seqs.max(128));
        EngineArgs { max_num_batched_tokens: Some(tokens), ..self.clone() }
    }
}
