//! Targets as data: what each kind of device takes, and what is sent to it.
//!
//! A [`Target`] says how a program is recorded (types, lowerings), how a client is made and a program compiled (options,
//! flags, environment), and which rules its compiler has. [`check`](check::check) holds a program against the rules, so that a
//! graph for a device that is not at hand is refused here, with the op and the rule, and not by a compiler elsewhere.
//!
//! Reading order: this file, `rules` (what a rule set says), `cpu`, `cuda`, `neuron`, `generic` (the targets), `check`, `top_k`.

pub mod check;
mod cpu;
mod cuda;
mod generic;
mod neuron;
mod rules;
mod top_k;

pub use check::{RuleBroken, check};
pub use rules::{Calls, RECORDED_OPS, Rules};
pub use top_k::{TopK, top_k};

use crate::record::Element;
use nxd_runtime::pjrt::{ClientOption, Flag};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// How the ranks of a program are told to its compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spread {
    /// As replicas of one program.
    Replicas,
    /// As partitions of one program, whose values are cut by hand.
    Partitions,
}

impl Spread {
    /// Replicas and partitions of so many ranks.
    pub const fn counts(self, ranks: usize) -> (usize, usize) {
        match self {
            Spread::Replicas => (ranks, 1),
            Spread::Partitions => (1, ranks),
        }
    }
}

/// The value of an option or a flag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// On or off.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A number with a fraction.
    Float(f32),
    /// A word.
    Text(&'static str),
}

impl Setting {
    /// As an option of a client.
    fn option(self) -> ClientOption {
        match self {
            Setting::Bool(value) => ClientOption::Bool(value),
            Setting::Int(value) => ClientOption::Int(value),
            Setting::Float(value) => ClientOption::Float(value),
            Setting::Text(value) => ClientOption::Text(value.to_owned()),
        }
    }

    /// As a flag of the compiler.
    fn flag(self) -> Flag {
        match self {
            Setting::Bool(value) => Flag::Bool(value),
            Setting::Int(value) => Flag::Int(value),
            Setting::Float(value) => Flag::Float(f64::from(value)),
            Setting::Text(value) => Flag::Text(value.to_owned()),
        }
    }
}

/// Variables that a plugin reads, and which must therefore be there before it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// None.
    Plain,
    /// `XLA_FLAGS` with the folder of CUDA's device library.
    CudaData,
    /// Those of the Neuron runtime: `nxd_runtime::neuron::environment` makes and sets them.
    Neuron,
}

/// What a kind of device takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// The type of activations unless the user names one.
    pub dtype: Element,
    /// How ranks are told to the compiler.
    pub spread: Spread,
    /// How many of the most likely tokens sampling looks at; `None` for all.
    pub candidates: Option<usize>,
    /// How the largest elements are asked for.
    pub top_k: TopK,
    /// The platform under which typed custom calls are registered with a plugin; `None` where there are none.
    pub platform_ffi: Option<&'static str>,
    /// The option of a client that says how many devices it is to have; `None` where the machine decides.
    pub device_count: Option<&'static str>,
    /// Other options of a client, by name.
    pub client: &'static [(&'static str, Setting)],
    /// XLA's debug flags for every program that is compiled.
    pub flags: &'static [(&'static str, Setting)],
    /// What the plugin finds in its environment.
    pub environment: Environment,
    /// What a program must keep to.
    pub rules: Rules,
}

impl Target {
    /// XLA's CPU plugin.
    pub const CPU: Target = cpu::TARGET;
    /// NVIDIA GPUs.
    pub const CUDA: Target = cuda::TARGET;
    /// AWS Trainium and Inferentia.
    pub const NEURON: Target = neuron::TARGET;
    /// Any other plugin.
    pub const GENERIC: Target = generic::TARGET;

    /// All of them.
    pub const ALL: [Target; 4] = [Target::CPU, Target::CUDA, Target::NEURON, Target::GENERIC];

    /// The target that a client's platform name stands for.
    pub fn of_platform(name: &str) -> Target {
        match name.to_ascii_lowercase().as_str() {
            "cpu" | "host" => Target::CPU,
            "cuda" | "gpu" => Target::CUDA,
            "neuron" => Target::NEURON,
            _ => Target::GENERIC,
        }
    }

    /// The target of this name.
    pub fn named(name: &str) -> Option<Target> {
        Target::ALL.into_iter().find(|target| target.name == name)
    }

    /// The options of a client for so many ranks.
    pub fn client_options(&self, ranks: usize) -> Vec<(&'static str, ClientOption)> {
        let ranks = ClientOption::Int(i64::try_from(ranks).unwrap_or(i64::MAX));
        let count = self.device_count.map(|name| (name, ranks));
        count.into_iter().chain(self.client.iter().map(|&(name, setting)| (name, setting.option()))).collect()
    }

    /// The compiler's flags for every program.
    pub fn compile_flags(&self) -> Vec<(String, Flag)> {
        self.flags.iter().map(|&(name, setting)| (name.to_owned(), setting.flag())).collect()
    }

    /// Variables to set before `plugin` is loaded; `current` looks up what is set already, and that is never replaced.
    /// Those of Neuron are not among them, see [`Environment::Neuron`].
    pub fn variables(
        &self,
        plugin: &Path,
        current: impl Fn(&str) -> Option<OsString>,
    ) -> Vec<(&'static str, OsString)> {
        let (name, value) = match self.environment {
            Environment::Plain | Environment::Neuron => return Vec::new(),
            Environment::CudaData => ("XLA_FLAGS", cuda::data_flag(plugin)),
        };
        match (current(name), value) {
            (None, Some(value)) => vec![(name, value)],
            // The user's flags stay, and are added to unless they name the folder themselves.
            (Some(mine), Some(value)) if !cuda::names_data_folder(&mine) => vec![(name, joined(&mine, &value))],
            _ => Vec::new(),
        }
    }

    /// Whether tensors of a program may have elements of this type.
    pub fn takes(&self, element: Element) -> bool {
        self.rules.elements.contains(&element)
    }
}

fn joined(one: &OsStr, other: &OsStr) -> OsString {
    let mut both = one.to_owned();
    both.push(" ");
    both.push(other);
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_their_targets() {
        for (platform, name) in [
            ("cpu", "cpu"),
            ("Host", "cpu"),
            ("cuda", "cuda"),
            ("GPU", "cuda"),
            ("neuron", "neuron"),
            ("tpu", "generic"),
        ] {
            assert_eq!(Target::of_platform(platform).name, name, "{platform}");
        }
        for target in Target::ALL {
            assert_eq!(Target::named(target.name), Some(target));
        }
        assert_eq!(Target::named("abacus"), None);
    }

    #[test]
    fn a_cpu_client_has_a_device_a_rank() {
        assert_eq!(Target::CPU.client_options(4), [("cpu_device_count", ClientOption::Int(4))]);
        for target in Target::ALL {
            assert!(target.takes(target.dtype) && target.takes(Element::F32), "{}", target.name);
        }
    }

    #[test]
    fn cuda_finds_its_device_library_beside_the_plugin() {
        let site = tempfile::tempdir().unwrap();
        let plugin = site.path().join("jax_plugins/xla_cuda13/xla_cuda_plugin.so");
        let unset = |_: &str| None;
        std::fs::create_dir_all(plugin.parent().unwrap()).unwrap();
        assert_eq!(Target::CUDA.variables(&plugin, unset), []);
        let data = site.path().join("nvidia/cu13");
        std::fs::create_dir_all(data.join("nvvm/libdevice")).unwrap();
        let flag = format!("--xla_gpu_cuda_data_dir={}", data.display());
        assert_eq!(Target::CUDA.variables(&plugin, unset), [("XLA_FLAGS", flag.clone().into())]);
        let mine = |_: &str| Some("--xla_gpu_cuda_data_dir=/mine".into());
        assert_eq!(Target::CUDA.variables(&plugin, mine), []);
        let other = |_: &str| Some("--xla_dump_to=/d".into());
        assert_eq!(Target::CUDA.variables(&plugin, other), [("XLA_FLAGS", format!("--xla_dump_to=/d {flag}").into())]);
        assert_eq!(Target::CPU.variables(&plugin, unset), []);
        assert_eq!(Target::NEURON.variables(&plugin, unset), []);
    }
}
