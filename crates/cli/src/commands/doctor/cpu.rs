//! The processor: its features, cores, threads and NUMA nodes.

use std::fs;
use std::path::Path;
use std::thread;

use nxd_cpu::topology::{self, Topology, format_list};
use serde::Serialize;

use super::first_line;

#[derive(Serialize)]
pub(super) struct Cpu {
    pub(super) model: Option<String>,
    /// Instruction sets that kernels may use, as the running processor reports them.
    pub(super) features: Vec<&'static str>,
    pub(super) physical_cores: Option<usize>,
    pub(super) logical_cores: usize,
    /// Logical cores after affinity and control groups.
    pub(super) usable_threads: usize,
    /// Processor time that the control group allows, in cores.
    pub(super) quota_cores: Option<f64>,
    pub(super) numa_nodes: Vec<NumaNode>,
}

#[derive(Serialize)]
pub(super) struct NumaNode {
    pub(super) id: usize,
    pub(super) cpus: String,
    pub(super) memory_bytes: Option<u64>,
}

pub(super) fn look() -> Cpu {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let usable_threads = thread::available_parallelism().map_or(1, usize::from);
    let topology = Topology::read(Path::new(topology::SYSTEM));
    Cpu {
        model: model_name(&info),
        features: features(),
        physical_cores: Some(topology.cores()).filter(|cores| *cores > 0),
        logical_cores: topology.processors.len().max(usable_threads),
        usable_threads,
        quota_cores: quota(),
        numa_nodes: topology.nodes.into_iter().map(numa_node).collect(),
    }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt)*) => { [$(($name, is_x86_feature_detected!($name))),*] };
    }
    let all = detected!("sse4.2" "avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512bf16" "avxvnni");
    all.into_iter().filter_map(|(name, here)| here.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt)*) => { [$(($name, std::arch::is_aarch64_feature_detected!($name))),*] };
    }
    let all = detected!("neon" "dotprod" "i8mm" "bf16" "fp16" "sve" "sve2");
    all.into_iter().filter_map(|(name, here)| here.then_some(name)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

fn model_name(info: &str) -> Option<String> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    Some(fields.find(|(name, _)| name.trim() == "model name")?.1.trim().to_owned())
}

fn quota() -> Option<f64> {
    let (quota, period) = match first_line("/sys/fs/cgroup/cpu.max") {
        Some(line) => {
            let (quota, period) = line.split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        None => {
            (first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")?, first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us")?)
        }
    };
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

fn numa_node(node: topology::Node) -> NumaNode {
    NumaNode { id: node.id, cpus: format_list(&node.processors), memory_bytes: node.memory_bytes }
}
