//! A model on disk, understood: configuration, decoder spec, checkpoint, tokenizer, ids that end a text.

use crate::beside::beside;
use crate::checkpoint::{Checkpoint, CheckpointError, LoadMode, NamedWeights, TensorRef};
use crate::config::{self, Config, ConfigError, Container};
use crate::families::{self, Family};
use crate::generation::Generation;
use crate::quantisation::Quantisation;
use crate::tokenizer::{GgufVocab, Tokenizer, TokenizerError};
use nxd_modules::{AttentionSpec, DecoderSpec};
use nxd_ops::{Manifest, WeightSpec};
use std::path::{Path, PathBuf};

/// A model's files, opened and checked. Weights are read when a device binds them.
pub struct Model {
    checkpoint: Checkpoint,
    config: Config,
    quantisation: Quantisation,
    family: &'static Family,
    spec: DecoderSpec,
    text: Text,
}

/// What turns text into ids and back.
#[derive(Default)]
struct Text {
    tokenizer: Option<Tokenizer>,
    generation: Generation,
}

/// A model that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The weights' files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A configuration of another, larger model.
    #[error(
        "{file}: {product} imply at least {implied} weights, the checkpoint has {found}; use the configuration that came with these weights"
    )]
    TooLarge {
        /// The configuration's file.
        file: String,
        /// The keys and values that make the size.
        product: String,
        /// Weights that these sizes make, without all others.
        implied: u64,
        /// Weights that are there.
        found: u64,
    },
    /// Tensors that the model has no use for: the configuration does not describe these weights.
    #[error("{file}: unexpected tensors {}; the {family} family has no such weights", .tensors.join(", "))]
    Unexpected {
        /// The file or folder.
        file: String,
        /// Some of them.
        tensors: Vec<String>,
        /// The family.
        family: &'static str,
    },
}

impl Model {
    /// Opens a folder in Hugging Face layout, a folder with one GGUF file, or a GGUF file.
    ///
    /// # Errors
    /// When a file is missing or malformed, or the architecture is not supported.
    pub fn open(path: &Path, mode: LoadMode) -> Result<Self, ModelError> {
        let mut model = Model::without_text(path, mode)?;
        model.text = model.read_text()?;
        Ok(model)
    }

    /// Opens a model as [`Model::open`] does, and builds its tokenizer on a thread of its own while `work` runs on this one: a large
    /// vocabulary takes as long as the weights. `work` sees the model without tokenizer and without ids that end a text.
    ///
    /// # Errors
    /// As [`Model::open`], whatever `work` gives.
    pub fn open_beside<T>(
        path: &Path,
        mode: LoadMode,
        work: impl FnOnce(&Model) -> T,
    ) -> Result<(Self, T), ModelError> {
        let mut model = Model::without_text(path, mode)?;
        let (text, done) = beside("nxd-tokenizer", || model.read_text(), || work(&model));
        model.text = text?;
        Ok((model, done))
    }

    fn without_text(path: &Path, mode: LoadMode) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(path, mode)?;
        let mut config = configuration(&checkpoint)?;
        let (family, spec) = families::read(&mut config)?;
        let quantisation = Quantisation::read(&config)?;
        check_size(&checkpoint, &config, &quantisation, &spec)?;
        Ok(Model { checkpoint, config, quantisation, family, spec, text: Text::default() })
    }

    fn read_text(&self) -> Result<Text, ModelError> {
        let vocab_size = self.spec.vocab_size;
        let tokenizer = tokenizer(&self.checkpoint, vocab_size)?;
        let generation = Generation::read(self.checkpoint.dir(), &self.config, tokenizer.as_ref(), vocab_size)?;
        Ok(Text { tokenizer, generation })
    }

    /// The decoder.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The family's name.
    pub fn family(&self) -> &'static str {
        self.family.name
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How the weights are quantised.
    pub fn quantisation(&self) -> &Quantisation {
        &self.quantisation
    }

    /// The weights' files.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The tokenizer; `None` when the model has no tokenizer files.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.text.tokenizer.as_ref()
    }

    /// Ids that end a text.
    pub fn eos_ids(&self) -> &[u32] {
        &self.text.generation.eos_ids
    }

    /// The id that starts a text, where the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.text.generation.bos_id
    }

    /// The family.
    pub(crate) fn family_data(&self) -> &'static Family {
        self.family
    }

    /// Where each declared weight lies in the checkpoint.
    pub(crate) fn places(&self) -> impl Fn(&WeightSpec) -> TensorRef + Send + Sync + 'static {
        let (names, spec, container) = (self.family.names, self.spec.clone(), self.config.container());
        let (checkpoint, quantisation) = (self.checkpoint.clone(), self.quantisation.clone());
        move |weight: &WeightSpec| {
            let is_stored = |name: &str| {
                let name = located(&|name| checkpoint.info(name).is_some(), name.to_owned());
                checkpoint.info(&name).is_some() || quantisation.recipe(&checkpoint, &name).is_ok_and(|r| r.is_some())
            };
            let mut reference = names.find(&spec, container, weight, is_stored);
            reference.name = located(&|name| checkpoint.info(name).is_some(), reference.name);
            reference
        }
    }

    /// The checkpoint as the weights that `manifest` declares.
    ///
    /// # Errors
    /// When the checkpoint holds tensors that no weight uses and the family does not ignore.
    pub fn weights(&self, manifest: &Manifest) -> Result<NamedWeights, ModelError> {
        let names = self.family.names;
        let head = match self.config.container() {
            Container::HuggingFace => "lm_head.weight",
            Container::Gguf => "output.weight",
        };
        let tied = self.spec.head.tied;
        let weights = NamedWeights::new(self.checkpoint.clone(), self.places());
        let weights = weights.quantised(self.quantisation.clone());
        // Layers behind the last one predict further tokens, which nobody here asks for.
        let layers = self.spec.layers.len();
        let further = layers..layers + self.config.whole("num_nextn_predict_layers", 0..=64)?.unwrap_or(0);
        let of_further = |name: &str| layer_of(name).is_some_and(|layer| further.contains(&layer));
        // A tied head that is stored all the same is a copy of the embedding.
        let is_ignored = |name: &str| names.ignores(name) || (tied && name == head) || of_further(name);
        let unexpected = weights.unexpected(manifest, is_ignored);
        if !unexpected.is_empty() {
            let file = self.checkpoint.path().display().to_string();
            let tensors = unexpected.iter().take(5).map(|name| format!("`{name}`")).collect();
            return Err(ModelError::Unexpected { file, tensors, family: self.family.name });
        }
        Ok(weights)
    }

    /// Where a declared weight lies in a folder of Hugging Face that `is_stored` knows the tensors of.
    pub(crate) fn in_folder(&self, weight: &WeightSpec, is_stored: impl Fn(&str) -> bool) -> TensorRef {
        self.family.names.find(&self.spec, Container::HuggingFace, weight, is_stored)
    }
}

/// The number of the layer that a stored tensor of the Hugging Face layout belongs to.
fn layer_of(stored: &str) -> Option<usize> {
    stored.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// Refuses a configuration that the weights are far too small for: what is declared for each layer, head and expert is then bounded by
/// the files. Shapes are compared when weights are bound.
fn check_size(
    checkpoint: &Checkpoint,
    config: &Config,
    quantisation: &Quantisation,
    spec: &DecoderSpec,
) -> Result<(), ModelError> {
    let sum = |counts: &mut dyn Iterator<Item = u64>| counts.fold(0, u64::saturating_add);
    let product = |factors: &[usize]| factors.iter().fold(1, |n: u64, &f| n.saturating_mul(f as u64));
    let found = sum(&mut checkpoint.tensors().filter_map(|tensor| quantisation.weights_of(tensor)));
    let of_layer = |heads: usize, head_dim: usize| product(&[heads, head_dim, spec.hidden_size]);
    // Compressed heads have less, but for what they give.
    let head_dim = |a: &AttentionSpec| a.latent.map_or(a.head_dim, |latent| latent.v_head_dim);
    let implied = sum(&mut spec.layers.iter().map(|l| of_layer(l.attention.num_heads, head_dim(&l.attention))));
    let routers = sum(&mut spec.layers.iter().map(|l| product(&[l.mlp.num_experts(), spec.hidden_size])));
    if routers > found {
        let experts = spec.layers.iter().map(|layer| layer.mlp.num_experts()).max().unwrap_or(0);
        let facts =
            [("num_hidden_layers", spec.layers.len()), ("num_experts", experts), ("hidden_size", spec.hidden_size)];
        let product = facts.map(|(key, value)| format!("`{}` {value}", config.key_in_file(key))).join(" × ");
        return Err(ModelError::TooLarge { file: config.file().to_owned(), product, implied: routers, found });
    }
    match spec.layers.first() {
        Some(layer) if implied > found => {
            let facts = [
                ("num_hidden_layers", spec.layers.len()),
                ("num_attention_heads", layer.attention.num_heads),
                (if layer.attention.latent.is_some() { "v_head_dim" } else { "head_dim" }, head_dim(&layer.attention)),
                ("hidden_size", spec.hidden_size),
            ];
            let product = facts.map(|(key, value)| format!("`{}` {value}", config.key_in_file(key))).join(" × ");
            Err(ModelError::TooLarge { file: config.file().to_owned(), product, implied, found })
        }
        _ => Ok(()),
    }
}

/// The name under which a file that `has` some tensors has the tensor `name`: decoders inside a larger model stand under a name of their own, and the decoders of
/// some families are stored without the head's class around them.
pub(crate) fn located(has: &dyn Fn(&str) -> bool, name: String) -> String {
    if has(&name) {
        return name;
    }
    let within = name.strip_prefix("model.").map(|rest| format!("model.language_model.{rest}"));
    let bare = name.split_once('.').map(|(_, rest)| rest.to_owned());
    let others = [Some(format!("language_model.{name}")), within, bare];
    others.into_iter().flatten().find(|other| has(other)).unwrap_or(name)
}

/// The configuration of a checkpoint.
///
/// # Errors
/// When `config.json` or the metadata cannot be read.
pub fn configuration(checkpoint: &Checkpoint) -> Result<Config, ModelError> {
    let Some(gguf) = checkpoint.gguf() else {
        let dir: PathBuf = checkpoint.dir().to_owned();
        return Ok(Config::read(&dir.join("config.json"))?);
    };
    let has = |name: &str| checkpoint.info(name).is_some();
    let vector = |name: &str| -> Result<Option<Vec<f64>>, CheckpointError> {
        let values = has(name).then(|| checkpoint.vector(name)).transpose()?;
        Ok(values.map(|values| values.into_iter().map(f64::from).collect()))
    };
    let long_rope = vector("rope_factors_short.weight")?.zip(vector("rope_factors_long.weight")?);
    let facts = config::TensorFacts {
        has: &has,
        embedding_rows: checkpoint.info("token_embd.weight").and_then(|t| t.shape.first().copied()),
        rope_factors: vector("rope_freqs.weight")?,
        long_rope: long_rope.map(|(short, long)| [short, long]),
    };
    let value = |key: &str| gguf.metadata().get(key).map(crate::checkpoint::gguf::Value::to_json);
    Ok(config::from_gguf(checkpoint.path().display().to_string(), value, facts)?)
}

/// The tokenizer of a checkpoint, if it has one.
///
/// # Errors
/// When its files are there and broken.
pub fn tokenizer(checkpoint: &Checkpoint, vocab_size: usize) -> Result<Option<Tokenizer>, ModelError> {
    match checkpoint.gguf() {
        None => Ok(Tokenizer::from_dir(checkpoint.dir(), vocab_size)?),
        Some(gguf) => match vocabulary(gguf.metadata())? {
            Some(vocab) => {
                gguf.metadata().release();
                Ok(Some(Tokenizer::from_gguf(vocab, checkpoint.path(), vocab_size)?))
            }
            None => Ok(None),
        },
    }
}

/// The vocabulary in a GGUF file's metadata; `None` when it has none (`no_vocab` models).
fn vocabulary(metadata: &crate::checkpoint::gguf::Metadata) -> Result<Option<GgufVocab>, CheckpointError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let model = match metadata.string(&key("model"))? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(model) => model.to_owned(),
    };
    let id = |name: &str| metadata.u32(&key(&format!("{name}_token_id")));
    Ok(Some(GgufVocab {
        model,
        pre: metadata.string(&key("pre"))?.map(str::to_owned),
        tokens: metadata.strings(&key("tokens"))?.unwrap_or_default(),
        scores: metadata.f32s(&key("scores"))?.unwrap_or_default(),
        token_types: metadata.i32s(&key("token_type"))?.unwrap_or_default(),
        merges: metadata.strings(&key("merges"))?.unwrap_or_default(),
        bos: id("bos")?,
        eos: id("eos")?,
        unk: id("unknown")?,
        pad: id("padding")?,
        eot: id("eot")?,
        add_bos: metadata.bool(&key("add_bos_token"))?,
        add_eos: metadata.bool(&key("add_eos_token"))?,
        add_space_prefix: metadata.bool(&key("add_space_prefix"))?,
        precompiled_charsmap: metadata.bytes(&key("precompiled_charsmap"))?.unwrap_or_default(),
        chat_template: metadata.string("tokenizer.chat_template")?.map(str::to_owned),
    }))
}
