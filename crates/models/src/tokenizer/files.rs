//! Reads `tokenizer_config.json` and `chat_template.jinja`: special tokens by name and the chat template's source.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::TokenizerError;

/// The largest file that is read; the largest real `tokenizer.json` is near 35 MB.
const LIMIT_BYTES: u64 = 256 << 20;

/// Roles that a template may name, as `tokenizer_config.json` spells them.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

/// What stands beside `tokenizer.json`.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Role and token text, in the order of [`ROLES`].
    pub(super) special: Vec<(&'static str, String)>,
    pub(super) template: Option<TemplateSource>,
}

/// A chat template that was found but not yet looked at.
#[derive(Debug)]
pub(super) struct TemplateSource {
    pub(super) text: String,
    /// Used in place of `text` when the request has tools.
    pub(super) with_tools: Option<String>,
    /// The file and field, for messages.
    pub(super) origin: String,
}

/// The bytes of `file`, or `None` when there is no such file. A pipe, a device or a huge file is an error, not a hang.
pub(super) fn read(file: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    let failed = |source| TokenizerError::Read { file: file.to_owned(), source };
    let about = match std::fs::metadata(file) {
        Ok(about) => about,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let found = if about.is_dir() {
        "is a folder".to_owned()
    } else if !about.is_file() {
        "is a pipe or a device".to_owned()
    } else if about.len() > LIMIT_BYTES {
        format!("has {} bytes", about.len())
    } else {
        let mut bytes = Vec::new();
        // The file may grow between the two calls.
        std::fs::File::open(file).map_err(failed)?.take(LIMIT_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        return Ok(Some(bytes));
    };
    Err(TokenizerError::NotAFile { file: file.to_owned(), found, limit_bytes: LIMIT_BYTES })
}

/// The JSON in `file`, or `None` when there is no such file.
pub(super) fn read_json(file: &Path) -> Result<Option<Value>, TokenizerError> {
    let Some(bytes) = read(file)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| TokenizerError::Json { file: file.to_owned(), source })
}

impl Settings {
    /// Reads what `dir` holds beside `tokenizer.json`. A file of its own wins over the field, as in transformers.
    pub(super) fn from_dir(dir: &Path) -> Result<Settings, TokenizerError> {
        let file = dir.join("tokenizer_config.json");
        let mut settings = match read_json(&file)? {
            Some(config) => Settings::from_config(&config, &file)?,
            None => Settings::default(),
        };
        let file = dir.join("chat_template.jinja");
        if let Some(bytes) = read(&file)? {
            let text = String::from_utf8(bytes).map_err(|e| TokenizerError::Field {
                file: file.clone(),
                field: "chat template".to_owned(),
                found: format!("not UTF-8 ({})", e.utf8_error()),
                expected: "UTF-8 text".to_owned(),
            })?;
            settings.template = Some(TemplateSource { text, with_tools: None, origin: file.display().to_string() });
        }
        Ok(settings)
    }

    fn from_config(config: &Value, file: &Path) -> Result<Settings, TokenizerError> {
        let wrong = |field: &str, found: &Value, expected: &str| TokenizerError::Field {
            file: file.to_owned(),
            field: field.to_owned(),
            found: kind(found).to_owned(),
            expected: expected.to_owned(),
        };
        let Some(fields) = config.as_object() else { return Err(wrong("tokenizer_config", config, "an object")) };
        let mut special = Vec::new();
        for role in ROLES {
            let text = match fields.get(role) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(other) => match other.get("content").and_then(Value::as_str) {
                    Some(text) => text.to_owned(),
                    None => return Err(wrong(role, other, "a string, or an object with a string `content`")),
                },
            };
            special.push((role, text));
        }
        let origin = format!("{}: `chat_template`", file.display());
        let template = match fields.get("chat_template") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(TemplateSource { text: text.clone(), with_tools: None, origin }),
            Some(Value::Array(list)) => Some(named_templates(list, file, origin)?),
            Some(other) => return Err(wrong("chat_template", other, "a string or a list of named templates")),
        };
        Ok(Settings { special, template })
    }
}

fn named_templates(list: &[Value], file: &Path, origin: String) -> Result<TemplateSource, TokenizerError> {
    let wrong = |field: String, found: String, expected: &str| TokenizerError::Field {
        file: file.to_owned(),
        field,
        found,
        expected: expected.to_owned(),
    };
    let mut named = Vec::new();
    for (i, entry) in list.iter().enumerate() {
        let text = |key| entry.get(key).and_then(Value::as_str);
        match (text("name"), text("template")) {
            (Some(name), Some(template)) => named.push((name, template)),
            _ => {
                let expected = "an object with strings `name` and `template`";
                return Err(wrong(format!("chat_template[{i}]"), kind(entry).to_owned(), expected));
            }
        }
    }
    let find = |wanted| named.iter().find(|(name, _)| *name == wanted).map(|(_, text)| (*text).to_owned());
    match find("default") {
        Some(text) => Ok(TemplateSource { text, with_tools: find("tool_use"), origin }),
        None => {
            let names: Vec<String> = named.iter().map(|(name, _)| format!("`{name}`")).collect();
            let found = format!("a list of the templates [{}]", names.join(", "));
            Err(wrong("chat_template".to_owned(), found, "one of them to be named `default`"))
        }
    }
}

/// What kind of JSON value this is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
