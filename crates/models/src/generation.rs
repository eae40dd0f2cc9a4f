//! Ids that start and end a text, from `generation_config.json`, `config.json` and the tokenizer.

use crate::config::{Config, ConfigError, Container, read_object, short};
use crate::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::Path;

/// Ids that start and end a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Generation {
    pub(crate) bos_id: Option<u32>,
    pub(crate) eos_ids: Vec<u32>,
}

impl Generation {
    /// Reads the ids: each from the first place that names it.
    pub(crate) fn read(
        dir: &Path,
        config: &Config,
        tokenizer: Option<&Tokenizer>,
        vocab_size: usize,
    ) -> Result<Self, ConfigError> {
        let path = dir.join("generation_config.json");
        let file = match config.container() {
            Container::HuggingFace if path.exists() => Some(read_object(&path)?),
            _ => None,
        };
        let ids = |key: &str| -> Result<Vec<u32>, ConfigError> {
            let in_file = file.as_ref().and_then(|f| f.get(key)).filter(|v| !v.is_null());
            match (in_file, config.value(key)) {
                (Some(value), _) => parse(&path.display().to_string(), key, value, vocab_size),
                (None, Some(value)) => parse(config.file(), key, value, vocab_size),
                (None, None) => Ok(Vec::new()),
            }
        };
        let mut eos_ids = ids("eos_token_id")?;
        if let (true, Some(tokenizer)) = (eos_ids.is_empty(), tokenizer) {
            eos_ids.extend(tokenizer.eos());
            // Chat models end a turn with a token of its own.
            eos_ids.extend(tokenizer.eot().filter(|id| Some(*id) != tokenizer.eos()));
        }
        let bos_id = ids("bos_token_id")?.first().copied().or_else(|| tokenizer.and_then(Tokenizer::bos));
        Ok(Generation { bos_id, eos_ids })
    }
}

/// One id, or a list of them, each below `vocab_size`.
fn parse(file: &str, key: &str, value: &Value, vocab_size: usize) -> Result<Vec<u32>, ConfigError> {
    let list = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|id| (*id as usize) < vocab_size).ok_or_else(|| ConfigError::Value {
            file: file.to_owned(),
            key: key.to_owned(),
            found: short(value),
            expected: format!("a token id below the vocabulary size, {vocab_size}"),
        })
    };
    list.iter().map(id).collect()
}
