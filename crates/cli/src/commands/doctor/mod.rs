//! `nxd doctor`: what this machine offers, in one page: for the user, and for the first lines of a bug report.

mod cpu;
mod mpi;
mod plugins;

use std::fmt::Write as _;
use std::path::PathBuf;

use indicatif::HumanBytes;
use serde::Serialize;

use nxd_cpu::kernels::linear::kernel_name;
use nxd_cpu::{Activations, Isa, KvDtype};
use nxd_executor::memory;
use nxd_ops::Format;

use crate::args::DoctorArgs;
use crate::failure::{Failure, Kind};
use crate::{environment, output};

/// Everything found out; its JSON is the output of `--json`.
#[derive(Serialize)]
struct Report {
    versions: Versions,
    cpu: cpu::Cpu,
    /// The instruction set of the kernels, and where they were tested.
    kernels: String,
    /// What multiplies with the matrices of each storage format.
    serving: Vec<Serving>,
    /// What attention runs with, over each type of stored keys and values.
    attention: String,
    memory: Memory,
    mpi: Option<mpi::Mpi>,
    pjrt_plugins: Vec<PathBuf>,
    hub: Hub,
}

#[derive(Serialize)]
struct Serving {
    format: &'static str,
    /// With `--activations int8`, and with `f32`; the same for plain floats.
    int8: String,
    f32: String,
}

#[derive(Serialize)]
struct Versions {
    nxd: &'static str,
    os: &'static str,
    arch: &'static str,
    kernel: Option<String>,
}

#[derive(Serialize)]
struct Memory {
    total_bytes: Option<u64>,
    available_bytes: Option<u64>,
    limit_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Hub {
    endpoint: String,
    cache: Option<PathBuf>,
    offline: bool,
    token: bool,
    downloads: bool,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let memory::Memory { total_bytes, available_bytes, limit_bytes } = memory::look();
    let report = Report {
        versions: Versions {
            nxd: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel: first_line("/proc/sys/kernel/osrelease"),
        },
        cpu: cpu::look(),
        kernels: tested(Isa::detect()),
        serving: serving(Isa::detect()),
        attention: attention(Isa::detect()),
        memory: Memory { total_bytes, available_bytes, limit_bytes },
        mpi: mpi::look(),
        pjrt_plugins: plugins::look(),
        hub: Hub {
            endpoint: environment::hub_endpoint(),
            cache: environment::hub_cache(),
            offline: environment::hub_offline(),
            token: environment::hub_token().is_some(),
            downloads: cfg!(feature = "hub"),
        },
    };
    if args.json {
        let json = serde_json::to_string(&report)
            .map_err(|error| Failure::new(Kind::Failed, format!("cannot write the report as JSON: {error}")))?;
        return output::line(&json);
    }
    output::line(page(&report).trim_end())
}

/// The instruction set and where its kernels were tested.
fn tested(isa: Isa) -> String {
    let tested = if isa.was_on_hardware() { "on hardware" } else { "under emulation only, their speed unmeasured" };
    format!("{isa}, tested {tested}")
}

/// The kernels of every storage format.
fn serving(isa: Isa) -> Vec<Serving> {
    let serve = |format: Format| {
        let [int8, f32] =
            [Activations::Int8, Activations::F32].map(|numbers| kernel_name(format, numbers, isa).to_string());
        Serving { format: format.name(), int8, f32 }
    };
    Format::all().map(serve).collect()
}

/// The types of keys and values: every one has kernels of every instruction set.
fn attention(isa: Isa) -> String {
    let dtypes = KvDtype::ALL.map(|dtype| dtype.to_string()).join(", ");
    format!("{}, over a KV cache in {dtypes}", isa.name())
}

fn page(report: &Report) -> String {
    let Report { versions, cpu, kernels, serving, attention, memory, mpi, pjrt_plugins, hub } = report;
    let unknown = || "unknown".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| HumanBytes(bytes).to_string());
    let mut page = Page::default();

    let kernel = versions.kernel.as_deref().map(|kernel| format!(" {kernel}")).unwrap_or_default();
    page.row("nxd", &format!("{} on {}{kernel}, {}", versions.nxd, versions.os, versions.arch));
    page.row("cpu", cpu.model.as_deref().unwrap_or("unknown"));
    page.row("cpu features", &listed(&cpu.features));
    page.row("kernels", kernels);
    for Serving { format, int8, f32 } in serving {
        let other = if int8 == f32 { String::new() } else { format!(", {f32}") };
        page.row(&format!("for {format}"), &format!("{int8}{other}"));
    }
    page.row("attention", attention);
    let cores = cpu.physical_cores.map_or_else(unknown, |n| n.to_string());
    page.row("cores", &format!("{cores} physical, {} logical", cpu.logical_cores));
    let quota = cpu.quota_cores.map(|cores| format!(", limited to the time of {cores}")).unwrap_or_default();
    page.row("threads", &format!("{} may be used{quota}", cpu.usable_threads));
    if cpu.numa_nodes.is_empty() {
        page.row("numa", "not reported");
    }
    for node in &cpu.numa_nodes {
        let cpus = if node.cpus.is_empty() { "no cpus".to_owned() } else { format!("cpus {}", node.cpus) };
        page.row("numa", &format!("node {}: {cpus}, {}", node.id, size(node.memory_bytes)));
    }
    page.row("memory", &format!("{}, {} free", size(memory.total_bytes), size(memory.available_bytes)));
    if let Some(limit) = memory.limit_bytes {
        page.row("memory limit", &format!("{} (control group)", HumanBytes(limit)));
    }
    match mpi {
        Some(mpi) => {
            let version = mpi.version.as_deref().unwrap_or("version unknown");
            page.row("mpi", &format!("{version} ({})", mpi.program.display()));
        }
        None => page.row("mpi", "none: no `mpirun` or `mpiexec` in PATH"),
    }
    if pjrt_plugins.is_empty() {
        page.row("pjrt plugins", "none found");
    }
    for plugin in pjrt_plugins {
        page.row("pjrt plugins", &plugin.display().to_string());
    }
    let state = match (hub.downloads, hub.offline, hub.token) {
        (false, ..) => "not built in",
        (_, true, _) => "offline",
        (.., true) => "with a token",
        (.., false) => "without a token",
    };
    page.row("hub", &format!("{}, {state}", hub.endpoint));
    page.row("hub cache", &hub.cache.as_ref().map_or_else(unknown, |cache| cache.display().to_string()));
    page.0
}

/// Lines of a name and a value.
#[derive(Default)]
struct Page(String);

impl Page {
    fn row(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.0, "{name:<14}{value}"); // a String takes every write
    }
}

fn listed(words: &[&str]) -> String {
    if words.is_empty() { "none that nxd looks for".to_owned() } else { words.join(" ") }
}

/// The first line of a file that the system makes up.
fn first_line(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_only_an_emulator_has_run_say_so() {
        assert_eq!(tested(Isa::Avx2), "AVX2+FMA+F16C, tested on hardware");
        assert_eq!(tested(Isa::NeonDot), "NEON+dotprod, tested under emulation only, their speed unmeasured");
    }
}
