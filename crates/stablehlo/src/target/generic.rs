//! Plugins that we know nothing of: plain StableHLO, no options.

use super::{Environment, Rules, Spread, Target, TopK};
use crate::record::Element;

pub(super) const TARGET: Target = Target {
    name: "generic",
    dtype: Element::F32,
    spread: Spread::Replicas,
    candidates: None,
    top_k: TopK::Chlo,
    platform_ffi: None,
    device_count: None,
    client: &[],
    flags: &[],
    environment: Environment::Plain,
    rules: Rules::XLA,
};
