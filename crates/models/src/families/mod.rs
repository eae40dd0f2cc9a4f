//! The model families: one file each, and the only registry.
//!
//! A family file says how a configuration becomes a [`DecoderSpec`] and where its weights' names leave the standard. Reading order: this file,
//! `base`, `facts`, `llama`, then any other.

mod base;
mod cohere;
mod dbrx;
mod deepseek;
mod exaone4;
mod facts;
mod gemma;
mod gemma2;
mod gemma3;
mod glm4;
mod gpt2;
mod gpt_oss;
mod granite;
mod granitemoe;
mod latent;
mod llama;
mod llama4;
mod mistral;
mod mixtral;
mod mixture;
mod nemotron;
mod olmo;
mod olmoe;
mod phi;
mod phi3;
mod phimoe;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;

use crate::config::{Config, ConfigError, Container};
use crate::names::Names;
use nxd_modules::DecoderSpec;
use serde_json::Value;

/// A family of models.
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Class names of `config.json`'s `architectures`.
    pub hf: &'static [&'static str],
    /// Values of GGUF's `general.architecture`.
    pub gguf: &'static [&'static str],
    /// Keys of `config.json` that the family names in its own way: (ours, theirs), where a dot leads into an object.
    pub keys: &'static [(&'static str, &'static str)],
    /// Configuration to decoder.
    pub spec: fn(&Config) -> Result<DecoderSpec, ConfigError>,
    /// Names of weights.
    pub names: Names,
}

/// Every family, by name.
pub const FAMILIES: &[Family] = &[
    cohere::COHERE,
    cohere::COHERE2,
    dbrx::FAMILY,
    exaone4::FAMILY,
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3::FAMILY,
    glm4::FAMILY,
    gpt2::FAMILY,
    gpt_oss::FAMILY,
    granite::FAMILY,
    granitemoe::FAMILY,
    llama::FAMILY,
    llama4::FAMILY,
    mistral::FAMILY,
    mixtral::FAMILY,
    nemotron::FAMILY,
    olmo::OLMO2,
    olmo::OLMO3,
    olmoe::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    phimoe::FAMILY,
    qwen2::FAMILY,
    qwen2_moe::FAMILY,
    qwen3::FAMILY,
    qwen3_moe::FAMILY,
    seed_oss::FAMILY,
    smollm3::FAMILY,
    stablelm::FAMILY,
    starcoder2::FAMILY,
    deepseek::FAMILY,
];

/// The family of a configuration.
///
/// # Errors
/// [`ConfigError::Unsupported`] with the architectures that are supported.
fn find(config: &Config) -> Result<&'static Family, ConfigError> {
    let (key, names): (_, fn(&Family) -> &'static [&'static str]) = match config.container() {
        Container::HuggingFace => ("architectures", |f| f.hf),
        Container::Gguf => ("general.architecture", |f| f.gguf),
    };
    let architecture = config.architecture();
    FAMILIES.iter().find(|family| names(family).contains(&architecture)).ok_or_else(|| {
        let supported: Vec<_> = FAMILIES.iter().flat_map(names).copied().collect();
        config.unsupported(key, &Value::from(architecture), &supported.join(", "))
    })
}

/// The family of a configuration, whose keys get their usual names, and its decoder.
///
/// # Errors
/// When no family has the architecture, or a key of the configuration is missing, wrong or not supported.
pub fn read(config: &mut Config) -> Result<(&'static Family, DecoderSpec), ConfigError> {
    let family = find(config)?;
    config.rename(family.keys);
    Ok((family, (family.spec)(config)?))
}
