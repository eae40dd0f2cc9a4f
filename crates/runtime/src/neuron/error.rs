//! Everything that can go wrong between us and a Neuron device.

use std::path::PathBuf;

use thiserror::Error;

use super::status::Status;
use super::target::Target;
use crate::library::LoadError;

/// A failure of libnrt, of a NEFF, of the environment, or of the way it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NeuronError {
    /// No libnrt where one is looked for.
    #[error(
        "libnrt cannot be loaded: {tried}; install AWS's `aws-neuronx-runtime-lib` (apt or dnf, from the Neuron \
         repository), or set `NXD_LIBNRT` to the file"
    )]
    LibraryNotFound {
        /// Each place with the loader's answer.
        tried: String,
    },
    /// A library was named and is no usable libnrt.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A second runtime.
    #[error(
        "a Neuron runtime is already running in this process; share it, or drop it with all its models and tensors"
    )]
    AlreadyRunning,
    /// libnrt refused a call.
    #[error("`{function}` of {subject}: {status}")]
    Call {
        /// The function's name in libnrt.
        function: &'static str,
        /// What the call was about.
        subject: String,
        /// What libnrt answered.
        status: Status,
    },
    /// libnrt said success and gave nothing, or something impossible.
    #[error("`{function}` of {subject} succeeded with {found}; this libnrt does not fit the documented interface")]
    Answer {
        /// The function's name in libnrt.
        function: &'static str,
        /// What the call was about.
        subject: String,
        /// What came back.
        found: String,
    },
    /// A function that only newer libraries have.
    #[error("this libnrt ({}) has no `{function}`; update `aws-neuronx-runtime-lib`", path.display())]
    Unsupported {
        /// The missing function.
        function: &'static str,
        /// The library.
        path: PathBuf,
    },
    /// A core that this process does not have.
    #[error("core {index} does not exist: this process has {count} (see `NEURON_RT_VISIBLE_CORES`)")]
    NoSuchCore {
        /// The index asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// A NEFF shorter than its header.
    #[error("this NEFF has {found_bytes} bytes, its header alone has 1024; compile it again")]
    NeffTooShort {
        /// Its length.
        found_bytes: usize,
    },
    /// A NEFF header that cannot be one.
    #[error("this is no NEFF: header field `{field}` is {found}, expected {expected}")]
    NeffHeader {
        /// The field's name in AWS's documentation.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What is allowed.
        expected: &'static str,
    },
    /// A NEFF that was cut.
    #[error(
        "this NEFF is cut: its header promises {stated_bytes} bytes of content, {found_bytes} follow; copy it again"
    )]
    NeffCut {
        /// What the header says.
        stated_bytes: u64,
        /// What is there.
        found_bytes: usize,
    },
    /// Compiled for another size of logical core.
    #[error(
        "NEFF `{neff}` was compiled with `--lnc {compiled}`, the runtime runs with `NEURON_LOGICAL_NC_CONFIG={running}`; \
         the two must be equal"
    )]
    NeffLogicalCores {
        /// The NEFF's name.
        neff: String,
        /// What the NEFF needs.
        compiled: u32,
        /// What the runtime has.
        running: u32,
    },
    /// A rank outside its world.
    #[error("rank {rank} of {size}: the ranks of a world of {size} are 0 to {size} - 1, and a world has at least one")]
    World {
        /// This rank.
        rank: u32,
        /// How many ranks there are.
        size: u32,
    },
    /// libnrt described a model's tensors in an impossible way.
    #[error("model `{model}`: {what}; update `aws-neuronx-runtime-lib`, or compile the NEFF again")]
    TensorInfo {
        /// The model.
        model: String,
        /// What is wrong with it.
        what: String,
    },
    /// A name that C cannot hold.
    #[error("tensor name {name:?} {problem}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        problem: &'static str,
    },
    /// A tensor of nothing.
    #[error("tensor `{tensor}` of 0 bytes; leave it out")]
    EmptyTensor {
        /// The tensor.
        tensor: String,
    },
    /// A part of a tensor that does not exist.
    #[error("tensor `{tensor}` has {bytes} bytes; {length} bytes at offset {offset} do not lie in it")]
    Range {
        /// The tensor.
        tensor: String,
        /// Its length.
        bytes: usize,
        /// Where the part begins.
        offset: usize,
        /// The part's length.
        length: usize,
    },
    /// Things of two cores, or of two runtimes, in one call.
    #[error("{subject} belongs to core {found}, {user} to core {expected} or another runtime; allocate it there")]
    OtherCore {
        /// The stranger.
        subject: String,
        /// Its core.
        found: u32,
        /// Who was to use it.
        user: String,
        /// The core of that.
        expected: u32,
    },
    /// A set lacks a tensor of the model.
    #[error("model `{model}` needs {usage} `{tensor}` of {bytes} bytes, which the set lacks")]
    MissingTensor {
        /// The model.
        model: String,
        /// `input` or `output`.
        usage: &'static str,
        /// The tensor.
        tensor: String,
        /// Its length.
        bytes: usize,
    },
    /// A set has a tensor of another length.
    #[error("model `{model}`: {usage} `{tensor}` has {expected} bytes, the one in the set has {found}")]
    TensorBytes {
        /// The model.
        model: String,
        /// `input` or `output`.
        usage: &'static str,
        /// The tensor.
        tensor: String,
        /// What the model wants.
        expected: usize,
        /// What the set has.
        found: usize,
    },
    /// A set has a tensor that the model does not know.
    #[error("model `{model}` has no {usage} `{tensor}`; it has {known}")]
    UnknownTensor {
        /// The model.
        model: String,
        /// `input` or `output`.
        usage: &'static str,
        /// The tensor.
        tensor: String,
        /// The names it has.
        known: String,
    },
    /// No instance type is known.
    #[error("the kind of Neuron instance is unknown; name a target: {}", Target::names())]
    NoTarget,
    /// A name that is no target.
    #[error("`{name}` is no Neuron target; known are {}", Target::names())]
    UnknownTarget {
        /// What was given.
        name: String,
    },
    /// A logical core size that the target lacks.
    #[error("{target} does not support {found} physical cores in a logical one ({named}); allowed: {allowed}")]
    LogicalCores {
        /// The target.
        target: Target,
        /// What was asked for.
        found: u32,
        /// Where it was asked for.
        named: &'static str,
        /// What the target has.
        allowed: String,
    },
    /// A variable that cannot be understood.
    #[error("environment variable `{variable}` is `{value}`, expected {expected}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// An option that cannot be.
    #[error("option `{option}` is {found}, expected {expected}")]
    BadOption {
        /// The option.
        option: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Two settings that contradict each other.
    #[error("{one}, but {other}; drop one of the two, or make them equal")]
    Conflict {
        /// The first setting with its value.
        one: String,
        /// The second.
        other: String,
    },
    /// Processes that do not know where to meet.
    #[error("several processes need `NEURON_RT_ROOT_COMM_ID=<host>:<port>`, the same in all of them")]
    NoMeetingPoint,
    /// Other threads run, so variables can no longer be set.
    #[error(
        "the environment can only be set while the process has one thread, it has {threads}; start the Neuron device \
         before anything else, or run this first: {exports}"
    )]
    TooLate {
        /// How many threads there are.
        threads: usize,
        /// Shell commands that set what is missing.
        exports: String,
    },
    /// No device file.
    #[error(
        "{}: no Neuron device; run on a Trainium or Inferentia2 instance with AWS's driver (`aws-neuronx-dkms`)",
        path.display()
    )]
    NoDevice {
        /// Where it would be.
        path: PathBuf,
    },
    /// No compiler.
    #[error(
        "`neuronx-cc` is not in `PATH`; `pip install neuronx-cc` from AWS's Neuron index, and activate that environment"
    )]
    NoCompiler,
    /// A plugin that needs Python.
    #[error("{}: libneuronxla is {found}, needed is 3.0 or later; `pip install 'libneuronxla>=3.0'`", plugin.display())]
    OldPlugin {
        /// The plugin.
        plugin: PathBuf,
        /// Its version.
        found: String,
    },
    /// A client with an odd number of cores.
    #[error("the client has {found} devices, needed is a power of two; choose cores with `NEURON_RT_VISIBLE_CORES`")]
    DeviceCount {
        /// How many it has.
        found: usize,
    },
}
