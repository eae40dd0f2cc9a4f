//! NVIDIA GPUs through XLA's CUDA plugin.

use super::{Environment, Rules, Setting, Spread, Target, TopK};
use crate::record::Element;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

pub(super) const TARGET: Target = Target {
    name: "cuda",
    dtype: Element::BF16,
    spread: Spread::Replicas,
    candidates: None,
    top_k: TopK::Chlo,
    platform_ffi: Some("CUDA"),
    device_count: None,
    client: &[
        ("allocator", Setting::Text("bfc")),
        // Memory is taken as it is needed: other programs use the card too.
        ("preallocate", Setting::Bool(false)),
        ("memory_fraction", Setting::Float(0.9)),
    ],
    flags: &[("xla_gpu_enable_latency_hiding_scheduler", Setting::Bool(true))],
    environment: Environment::CudaData,
    rules: Rules::XLA,
};

const DATA_FLAG: &str = "--xla_gpu_cuda_data_dir=";

/// The flag that names the folder of CUDA's device library, where there is one: the packages beside the plugin, else the system's.
/// The plugin looks at it once, while it is loaded (openxla/xla issue 21428).
pub(super) fn data_flag(plugin: &Path) -> Option<OsString> {
    // `<site-packages>/jax_plugins/xla_cuda13/xla_cuda_plugin.so`
    let site = plugin.ancestors().nth(3);
    let beside = ["nvidia/cu13", "nvidia/cu12", "nvidia/cuda_nvcc"];
    let beside = beside.iter().filter_map(|folder| Some(site?.join(folder)));
    let folder =
        beside.chain([PathBuf::from("/usr/local/cuda")]).find(|folder| folder.join("nvvm/libdevice").is_dir())?;
    let mut flag = OsString::from(DATA_FLAG);
    flag.push(folder);
    Some(flag)
}

/// Whether flags name that folder already.
pub(super) fn names_data_folder(flags: &OsStr) -> bool {
    flags.to_string_lossy().contains(DATA_FLAG)
}
