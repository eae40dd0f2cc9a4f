//! XLA's CPU plugin: the oracle that programs are tested on.

use super::{Environment, Rules, Setting, Spread, Target, TopK};
use crate::record::Element;

pub(super) const TARGET: Target = Target {
    name: "cpu",
    dtype: Element::F32,
    spread: Spread::Replicas,
    candidates: None,
    top_k: TopK::Chlo,
    platform_ffi: Some("Host"),
    device_count: Some("cpu_device_count"),
    client: &[],
    flags: &[
        // An oracle rounds where the program says so.
        ("xla_allow_excess_precision", Setting::Bool(false)),
        // A rank that waits longer than the 40 s of old aborts the process, and a laden machine is not a broken one.
        ("xla_cpu_collective_call_terminate_timeout_seconds", Setting::Int(600)),
    ],
    environment: Environment::Plain,
    rules: Rules::XLA,
};
