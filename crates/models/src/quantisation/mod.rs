//! Quantised checkpoints: what `quantization_config` says, and the tensors that are one weight together.
//!
//! A [`Scheme`] is read from the configuration. Which weights are quantised the table of tensors tells: a weight is dense where the tensor of
//! its name is there in plain floats, so modules that the configuration lists as not converted stay dense without a list being read. A
//! quantised one is given as a [`StoredTensor`]: bytes under scales as the file has them; or rows of blocks, made whenever a device reads
//! one, so that nothing is ever in memory twice. `docs/quantisation.md` says what each scheme becomes.
//!
//! Reading order: `scheme`, `recipe`, `rows`, `packed`.

mod packed;
mod recipe;
mod rows;
mod scheme;
#[cfg(test)]
mod tests;

pub use scheme::{Scheme, Strategy, WeightArgs};

use crate::checkpoint::{Checkpoint, Encoding, StoredTensor, TensorInfo};
use crate::config::{Config, ConfigError};
use nxd_ops::SourceError;
pub(crate) use recipe::Recipe;
use recipe::Search;

/// How the weights of a checkpoint are quantised, if they are.
#[derive(Clone, Debug, Default)]
pub struct Quantisation {
    scheme: Option<Scheme>,
}

/// Ends of names of tensors that scale activations or the cache, which are computed with as they are.
const OF_ACTIVATIONS: [&str; 9] = [
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".input_global_scale",
    ".activation_scale",
    ".output_scale",
    ".q_scale",
    ".k_scale",
    ".v_scale",
];

/// Ends of names of tensors that stand beside a weight's numbers.
const BESIDE: [&str; 9] = [
    ".scales",
    ".qzeros",
    ".g_idx",
    ".scale",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_zero_point",
    ".weight_shape",
    ".weight_g_idx",
];

impl Quantisation {
    /// Reads what a configuration says.
    ///
    /// # Errors
    /// When its scheme is not known, or an option of it is not implemented.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        Ok(Quantisation { scheme: Scheme::read(config)? })
    }

    /// The scheme, where the configuration has one.
    pub fn scheme(&self) -> Option<&Scheme> {
        self.scheme.as_ref()
    }

    /// How many weights a tensor holds: none, if it stands beside a weight's numbers; several a word, if it is packed. `None` for a type that
    /// no scheme stores weights in.
    pub fn weights_of(&self, tensor: &TensorInfo) -> Option<u64> {
        let elements = tensor.shape.iter().fold(1, |n: u64, &dim| n.saturating_mul(dim as u64));
        let ends = |ends: &[&str]| ends.iter().any(|end| tensor.name.ends_with(end));
        if ends(&BESIDE) || ends(&OF_ACTIVATIONS) || tensor.name.ends_with("_scales") {
            return Some(0);
        }
        let bits = match &self.scheme {
            Some(Scheme::Gptq { bits, .. }) => u64::from(*bits),
            Some(Scheme::CompressedTensors(args)) => args.iter().map(|args| u64::from(args.bits)).min().unwrap_or(4),
            _ => 4,
        };
        match (tensor.encoding, tensor.encoding.name()) {
            (Encoding::Supported(_), _) | (_, "I8" | "F8_E4M3" | "F8_E5M2") => Some(elements),
            (_, "I32") if ends(&[".qweight", ".weight_packed"]) => Some(elements.saturating_mul(32 / bits)),
            (_, "U8") if ends(&["_blocks"]) => Some(elements.saturating_mul(2)),
            _ => None,
        }
    }

    /// The recipe of the weight that would be called `name` if it were not quantised; `None` where it is not. No data is read.
    ///
    /// # Errors
    /// When tensors that belong to it are missing, or do not fit each other or the configuration.
    pub(crate) fn recipe<'c>(&'c self, of: &'c Checkpoint, name: &str) -> Result<Option<Recipe<'c>>, SourceError> {
        self.search(of).recipe(name)
    }

    /// What a recipe makes.
    ///
    /// # Errors
    /// When a file cannot be read, or scales are no numbers.
    pub(crate) fn tensor(&self, of: &Checkpoint, recipe: &Recipe<'_>) -> Result<StoredTensor, SourceError> {
        recipe.tensor(self.search(of))
    }

    /// Whether a tensor that belongs to no weight may be left alone: scales of activations and of the cache; and biases of zeros, which
    /// quantisers add to layers that have none.
    pub(crate) fn ignores(&self, of: &Checkpoint, name: &str) -> bool {
        let Some(scheme) = &self.scheme else { return false };
        let of_zeros = || {
            let base = name.strip_suffix(".bias")?;
            of.info(&format!("{base}.qweight"))?;
            of.bytes(of.info(name)?).ok().map(|bytes| bytes.iter().all(|&byte| byte == 0))
        };
        OF_ACTIVATIONS.iter().any(|end| name.ends_with(end))
            || matches!(scheme, Scheme::Gptq { .. } | Scheme::Awq { .. }) && of_zeros().unwrap_or(false)
    }

    fn search<'c>(&'c self, checkpoint: &'c Checkpoint) -> Search<'c> {
        Search { checkpoint, scheme: self.scheme.as_ref() }
    }
}
