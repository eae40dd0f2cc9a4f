//! Flags of every command that computes: on what it runs and how numbers are held.

use clap::{Args, ValueEnum, builder::BoolishValueParser};
use nxd::Device;

use super::values;

/// Device, threads, ranks and numeric modes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Device")]
pub(crate) struct RuntimeArgs {
    /// What computes: `cpu`, `pjrt:/path/to/plugin.so` (any PJRT plugin), `cuda` or `neuron` (their plugin, where it is installed).
    #[arg(long, env = "NXD_DEVICE", value_name = "DEVICE", default_value = "cpu", value_parser = values::device)]
    pub(crate) device: Device,

    /// CPU threads, all ranks together [default: the cores this process may use].
    #[arg(long, short = 't', env = "NXD_THREADS", value_name = "N", value_parser = values::thread_count,
          allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,

    /// Bind each thread to a processor of its own among those this process may use, cores before their second threads. Where there are
    /// several NUMA nodes, threads stay on a node in any case.
    #[arg(long, env = "NXD_PIN_THREADS", value_parser = BoolishValueParser::new())]
    pub(crate) pin_threads: bool,

    /// Ranks that share every layer.
    #[arg(long, env = "NXD_TENSOR_PARALLEL_SIZE", value_name = "N", default_value_t = 1,
          value_parser = values::positive, allow_negative_numbers = true)]
    pub(crate) tensor_parallel_size: usize,

    /// Ranks that hold a range of layers each. This build runs 1.
    #[arg(long, env = "NXD_PIPELINE_PARALLEL_SIZE", value_name = "N", default_value_t = 1,
          value_parser = values::one_stage, allow_negative_numbers = true)]
    pub(crate) pipeline_parallel_size: usize,

    /// Type of the arithmetic on devices other than the CPU; `auto` is the device's own choice. The CPU keeps the file's types,
    /// computes in f32, and takes `auto` and `f32` alone.
    #[arg(long, env = "NXD_DTYPE", value_enum, default_value_t)]
    pub(crate) dtype: Dtype,

    /// What meets weights on the CPU: activations in blocks of 8-bit integers, or of 14-bit ones where weights are f16 or bf16 (fast);
    /// or f32 (quantised weights are dequantised in registers). Other devices dequantise and compute in --dtype, whatever stands here.
    #[arg(long, env = "NXD_ACTIVATIONS", value_enum, default_value_t)]
    pub(crate) activations: Activations,

    /// How weights are read; `read` copies them, and survives a file that is cut while nxd runs.
    #[arg(long, env = "NXD_LOAD_MODE", value_enum, default_value_t)]
    pub(crate) load_mode: LoadMode,
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
}

/// `--activations`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Activations {
    #[default]
    Int8,
    F32,
}

/// `--load-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadMode {
    #[default]
    Mmap,
    Read,
}
