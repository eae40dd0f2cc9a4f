//! A model's configuration: `config.json`, or the metadata of a GGUF file under the same keys.
//!
//! Families read it through typed getters, so that every mistake names file, key, what was found and what is allowed.

mod gguf;
mod rope;

use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::path::Path;

pub(crate) use gguf::{KEYS, TensorFacts, from_gguf};

/// Where a configuration comes from; the two containers store some tensors differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A folder in Hugging Face layout.
    HuggingFace,
    /// A GGUF file.
    Gguf,
}

/// A model's configuration under the names of Hugging Face.
#[derive(Clone, Debug)]
pub struct Config {
    file: String,
    container: Container,
    /// The architecture: a class name, or GGUF's `general.architecture`.
    architecture: String,
    fields: Map<String, Value>,
    /// The family's own names of keys: (ours, theirs).
    renamed: &'static [(&'static str, &'static str)],
    /// Divisors of the rotary frequencies, where the checkpoint holds them as a tensor.
    rope_factors: Option<Vec<f64>>,
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: {reason}")]
    Read {
        /// The file.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// The file is not a JSON object.
    #[error("{file}: not a JSON object: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A key that has no default is absent.
    #[error("{file}: `{key}` is missing")]
    Missing {
        /// The file.
        file: String,
        /// The key.
        key: String,
    },
    /// A value has another type or lies outside what is possible.
    #[error("{file}: `{key}` is {found}, expected {expected}")]
    Value {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A value that is understood and cannot be run.
    #[error("{file}: `{key}` is {found}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The value.
        found: String,
        /// What is.
        supported: String,
    },
}

/// The largest value of a count or size: no real model comes near, and products of a few stay far from overflow.
const MAX_SIZE: usize = 1 << 28;
const MAX_FILE_BYTES: u64 = 16 << 20;

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the file cannot be read, is no JSON object, or names no architecture.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let mut fields = read_object(path)?;
        // A model that takes more than text keeps its decoder's keys apart; what is not among them stands outside.
        if let Some(Value::Object(text)) = fields.remove("text_config") {
            let outside = std::mem::replace(&mut fields, text);
            let architectures = outside.get("architectures").cloned();
            for (key, value) in outside {
                fields.entry(key).or_insert(value);
            }
            if let Some(architectures) = architectures {
                fields.insert("architectures".to_owned(), architectures);
            }
        }
        let container = Container::HuggingFace;
        let (architecture, renamed) = (String::new(), &[][..]);
        let mut config = Config { file, container, architecture, fields, renamed, rope_factors: None };
        let architectures = config.fields.get("architectures").cloned().unwrap_or(Value::Null);
        config.architecture = match architectures.get(0).and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None if architectures.is_null() => return Err(config.missing("architectures")),
            None => return Err(config.wrong("architectures", &architectures, "a list with the name of a model class")),
        };
        Ok(config)
    }

    /// Gives keys that a family names in its own way, `theirs`, their usual names: (ours, theirs), where a dot leads into an object. GGUF files have
    /// one name for a thing.
    pub(crate) fn rename(&mut self, keys: &'static [(&'static str, &'static str)]) {
        if self.container == Container::Gguf {
            return;
        }
        self.renamed = keys;
        for (ours, theirs) in keys {
            let mut path = theirs.split('.');
            let first = path.next().and_then(|key| self.fields.get(key));
            let found = path.fold(first, |value, key| value.and_then(|value| value.get(key))).cloned();
            if let (Some(value), false) = (found, self.fields.contains_key(*ours)) {
                self.fields.insert((*ours).to_owned(), value);
            }
        }
    }

    /// The file, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The architecture: a class name, or GGUF's `general.architecture`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The container.
    pub fn container(&self) -> Container {
        self.container
    }

    /// Whether the key has a value other than null.
    pub fn has(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(|v| !v.is_null())
    }

    /// Whether the key is there, be it null.
    pub fn mentions(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    /// The value of a key, as JSON.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.get(key)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|v| !v.is_null())
    }

    /// A count or size of at least 1.
    ///
    /// # Errors
    /// When the key is missing or no whole number from 1 to 2²⁸.
    pub fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// As [`Config::size`], or `None` when the key is missing or null.
    ///
    /// # Errors
    /// When the value is no whole number from 1 to 2²⁸.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.whole(key, 1..=MAX_SIZE)
    }

    /// A whole number in `range`, or `None` when the key is missing or null.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn whole(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, value, &format!("a whole number from {} to {}", range.start(), range.end()))),
        }
    }

    /// A finite number above zero, or `default` when the key is missing or null.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn positive(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        self.positive_value(key, value)
    }

    fn positive_value(&self, key: &str, value: &Value) -> Result<f64, ConfigError> {
        match value.as_f64().filter(|x| x.is_finite() && *x > 0.0) {
            Some(x) => Ok(x),
            None => Err(self.wrong(key, value, "a finite number above 0")),
        }
    }

    /// A flag, or `default` when the key is missing or null.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    /// A text, or `None` when the key is missing or null.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, value, "a string"))
    }

    /// A list of whole numbers, or `None` when the key is missing or null.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<u64>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
        list.map(Some).ok_or_else(|| self.wrong(key, value, "a list of whole numbers"))
    }

    /// A list of texts, or `None` when the key is missing or null.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| self.wrong(key, value, "a list of strings"))
    }

    /// Refuses keys that change the computation in a way the family does not implement: present, and not null, false or one of
    /// `neutral`.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] naming the first such key.
    pub fn refuse(&self, keys: &[(&str, f64)]) -> Result<(), ConfigError> {
        for &(key, neutral) in keys {
            let Some(value) = self.get(key) else { continue };
            let is_neutral =
                value == &Value::Bool(false) || value.as_f64().is_some_and(|x| (x - neutral).abs() < 1e-12);
            if !is_neutral {
                let or = if neutral.is_nan() { String::new() } else { format!(", or {neutral}") };
                return Err(self.unsupported(key, value, &format!("the key left out{or}")));
            }
        }
        Ok(())
    }

    /// The error for a missing key.
    pub(crate) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { file: self.file.clone(), key: self.key_in_file(key) }
    }

    /// The error for an impossible value.
    pub(crate) fn wrong(&self, key: &str, found: &Value, expected: &str) -> ConfigError {
        let key = self.key_in_file(key);
        ConfigError::Value { file: self.file.clone(), key, found: short(found), expected: expected.to_owned() }
    }

    /// The error for a value that is not implemented.
    pub(crate) fn unsupported(&self, key: &str, found: &Value, supported: &str) -> ConfigError {
        let key = self.key_in_file(key);
        ConfigError::Unsupported { file: self.file.clone(), key, found: short(found), supported: supported.to_owned() }
    }

    /// The key as the file spells it.
    pub(crate) fn key_in_file(&self, key: &str) -> String {
        match self.container {
            Container::HuggingFace => {
                let renamed = self.renamed.iter().find(|(ours, _)| *ours == key);
                renamed.map_or(key, |(_, theirs)| theirs).to_owned()
            }
            Container::Gguf => gguf::key_in_file(&self.architecture, key),
        }
    }
}

/// Reads a JSON object from a file of bounded size.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let file = path.display().to_string();
    let read = |reason: String| ConfigError::Read { file: file.clone(), reason };
    let meta = std::fs::metadata(path).map_err(|e| read(e.to_string()))?;
    if !meta.is_file() {
        return Err(read("not a regular file".to_owned()));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(read(format!("has {} bytes, at most {MAX_FILE_BYTES} are read", meta.len())));
    }
    let bytes = std::fs::read(path).map_err(|e| read(e.to_string()))?;
    // Python writes NaN and Infinity into JSON; serde refuses them with line and column, which is what is wanted.
    serde_json::from_slice(&bytes).map_err(|e| ConfigError::Syntax { file: file.clone(), reason: e.to_string() })
}

/// A value for a message: at most 80 characters.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
