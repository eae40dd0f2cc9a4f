//! The processor: its features, cores, threads and NUMA nodes.

use std::collections::BTreeSet;
use std::fs;
use std::thread;

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
    let logical = info.lines().filter(|line| line.starts_with("processor")).count();
    Cpu {
        model: field(&info, "model name").next().map(str::to_owned),
        features: features(),
        physical_cores: physical_cores(&info),
        logical_cores: logical.max(usable_threads),
        usable_threads,
        quota_cores: quota(),
        numa_nodes: numa_nodes(),
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

/// Different pairs of socket and core.
fn physical_cores(info: &str) -> Option<usize> {
    let cores: BTreeSet<(&str, &str)> = field(info, "physical id").zip(field(info, "core id")).collect();
    (!cores.is_empty()).then_some(cores.len())
}

fn field<'a>(info: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    info.lines().filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
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

fn numa_nodes() -> Vec<NumaNode> {
    let entries = fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let mut nodes: Vec<NumaNode> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let id = path.file_name()?.to_str()?.strip_prefix("node")?.parse().ok()?;
            let memory = fs::read_to_string(path.join("meminfo")).unwrap_or_default();
            Some(NumaNode {
                id,
                cpus: fs::read_to_string(path.join("cpulist")).ok()?.trim().to_owned(),
                memory_bytes: memory.lines().find(|line| line.contains("MemTotal")).and_then(nxd_executor::memory::kib),
            })
        })
        .collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyperthreads_share_a_physical_core() {
        let info = "processor : 0\nphysical id : 0\ncore id : 0\n\nprocessor : 1\nphysical id : 0\ncore id : 0\n\n\
                    processor : 2\nphysical id : 1\ncore id : 0\n";
        assert_eq!(physical_cores(info), Some(2));
        assert_eq!(physical_cores("processor : 0\n"), None);
    }
}
