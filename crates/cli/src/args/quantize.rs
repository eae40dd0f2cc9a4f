//! Flags of `nxd quantize`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::BoolishValueParser};

use super::{LoadMode, values};

/// `nxd quantize`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = NOTES)]
pub(crate) struct QuantizeArgs {
    /// A directory, a .gguf file, `org/name[@revision][:Q4_K_M|:file.gguf]`, or `demo`.
    pub(crate) model: String,

    /// What to write: a .gguf file for the schemes q8_0, q4_0 and q4_k, a folder for int8 and fp8.
    pub(crate) out: PathBuf,

    /// What weights become.
    #[arg(long, env = "NXD_SCHEME", value_enum, value_name = "SCHEME")]
    pub(crate) scheme: Scheme,

    /// Replace what is at OUT: a file, an empty folder, or a folder with a model.
    #[arg(long, env = "NXD_FORCE", value_parser = BoolishValueParser::new())]
    pub(crate) force: bool,

    /// Weights of a folder are spread over files of at most this size.
    #[arg(long, env = "NXD_MAX_SHARD_SIZE", value_name = "SIZE", default_value = "5GB", value_parser = values::size_bytes,
          allow_negative_numbers = true)]
    pub(crate) max_shard_size: u64,

    /// Threads that encode [default: the cores this process may use].
    #[arg(long, short = 't', env = "NXD_THREADS", value_name = "N", value_parser = values::thread_count,
          allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,

    /// How weights are read; `read` copies them, and survives a file that is cut while nxd runs.
    #[arg(long, env = "NXD_LOAD_MODE", value_enum, default_value_t)]
    pub(crate) load_mode: LoadMode,

    /// One JSON object on stdout.
    #[arg(long, env = "NXD_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
}

/// `--scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scheme {
    /// GGUF, 8.5 bits a weight
    #[value(name = "q8_0")]
    Q8_0,
    /// GGUF, 4.5 bits a weight, the head 6.6
    #[value(name = "q4_0")]
    Q4_0,
    /// GGUF, 4.5 bits a weight with fitted scales; the head and some values and down projections 6.6, as llama.cpp's Q4_K_M
    #[value(name = "q4_k")]
    Q4K,
    /// Hugging Face folder, compressed-tensors int8 under a scale a row
    #[value(name = "int8")]
    Int8,
    /// Hugging Face folder, compressed-tensors fp8 (e4m3) under a scale a row
    #[value(name = "fp8")]
    Fp8,
}

const NOTES: &str = "\
OUT appears when it is complete; until then it is written beside its place under a hidden name. What is there is refused unless --force is
given. Norms, biases and routers stay floats; in folders embeddings and the head do, too. int8 and fp8 need a Hugging Face folder as MODEL; q8_0, q4_0 and q4_k
take GGUF files and folders of the families that docs/quantisation.md lists.

JSON: {\"path\":\"OUT\",\"scheme\":\"q8_0\",\"source_bytes\":1,\"bytes\":1,\"dtypes\":{\"Q8_0\":1,\"F32\":1}}, sizes of all tensors";
