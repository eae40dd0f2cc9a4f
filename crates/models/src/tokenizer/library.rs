//! The `tokenizers` library's tokenizer, over its own models or over a [`Bpe`] made from a GGUF file's lists.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::models::TrainerWrapper;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Result, Token, TokenizerBuilder, TokenizerImpl,
};

use super::gguf::Bpe;

/// The library's tokenizer.
pub(super) type Library =
    TokenizerImpl<Subwords, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// How words become tokens.
#[derive(Debug)]
pub(super) enum Subwords {
    /// A model of the library's.
    Library(ModelWrapper),
    /// A model of ours.
    Bpe(Bpe),
}

/// The steps around a model.
pub(super) struct Steps(
    TokenizerBuilder<Subwords, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>,
);

impl Steps {
    /// Those that `json` describes.
    pub(super) fn new(json: &Value) -> Result<Self> {
        fn part<'j, P: Deserialize<'j>>(json: &'j Value, key: &str) -> Result<Option<P>> {
            Ok(json.get(key).map(Option::deserialize).transpose()?.flatten())
        }
        Ok(Steps(
            TokenizerBuilder::new()
                .with_normalizer(part(json, "normalizer")?)
                .with_pre_tokenizer(part(json, "pre_tokenizer")?)
                .with_post_processor(part(json, "post_processor")?)
                .with_decoder(part(json, "decoder")?),
        ))
    }

    /// The tokenizer whose model is `bpe`.
    pub(super) fn around(self, bpe: Bpe, added: Vec<AddedToken>) -> Result<Library> {
        let mut library = self.0.with_model(Subwords::Bpe(bpe)).build()?;
        library.add_tokens(added)?;
        Ok(library)
    }
}

impl Model for Subwords {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        match self {
            Subwords::Library(model) => model.tokenize(sequence),
            Subwords::Bpe(model) => model.tokenize(sequence),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Subwords::Library(model) => model.token_to_id(token),
            Subwords::Bpe(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Subwords::Library(model) => model.id_to_token(id),
            Subwords::Bpe(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Subwords::Library(model) => model.get_vocab(),
            Subwords::Bpe(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Subwords::Library(model) => model.get_vocab_size(),
            Subwords::Bpe(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            Subwords::Library(model) => model.save(folder, prefix),
            Subwords::Bpe(model) => model.save(folder, prefix),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Subwords::Library(model) => model.get_trainer(),
            Subwords::Bpe(model) => model.get_trainer().into(),
        }
    }
}

impl<'de> Deserialize<'de> for Subwords {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        ModelWrapper::deserialize(deserializer).map(Subwords::Library)
    }
}
