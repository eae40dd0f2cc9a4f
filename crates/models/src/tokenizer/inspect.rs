//! Checks on a `tokenizer.json` value that the `tokenizers` library does not make, and clearer words where it refuses one.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::path::Path;

use serde_json::Value;

use super::files::kind;
use super::library::Library;
use super::{TokenizerError, field_error};

/// Placeholders of multimodal models that text never contains. Text-only checkpoints of those families keep the tokenizer but have
/// no embedding row for them, as Gemma 3 1B has 262144 rows and this token at 262144.
const PLACEHOLDERS: [&str; 1] = ["<image_soft_token>"];

const MODELS: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];

/// Checks what can be checked before loading and takes out what is not ours to follow.
pub(super) fn prepare(json: &mut Value, file: &Path, vocab_rows: usize) -> Result<(), TokenizerError> {
    let found = kind(json);
    let Some(fields) = json.as_object_mut() else { return Err(field_error(file, "tokenizer", found, "an object")) };
    // Padding and truncation are settings of a training run that were saved along; they would cut prompts in silence.
    fields.remove("padding");
    fields.remove("truncation");
    let Some(model) = fields.get("model").and_then(Value::as_object) else {
        let found = fields.get("model").map_or("missing", kind);
        return Err(field_error(file, "model", found, "an object"));
    };
    // Files from before 2020 have no type; the library tries each.
    if let Some(name) = model.get("type")
        && !MODELS.iter().any(|m| name == m)
    {
        return Err(field_error(file, "model.type", format!("{name}"), &MODELS.join(", ")));
    }
    if model.get("continuing_subword_prefix").and_then(Value::as_str).is_some_and(|p| !p.is_empty())
        && model.get("type").is_none_or(|name| name == "BPE")
    {
        let found = model.get("continuing_subword_prefix").map(ToString::to_string).unwrap_or_default();
        return Err(field_error(file, "model.continuing_subword_prefix", found, "null (not supported for BPE)"));
    }
    if let Some(added) = fields.get_mut("added_tokens").and_then(Value::as_array_mut) {
        let rows = u64::try_from(vocab_rows).unwrap_or(u64::MAX);
        added.retain(|token| {
            let placeholder = PLACEHOLDERS.iter().any(|p| token.get("content").is_some_and(|c| c == p));
            !(placeholder && token.get("id").and_then(Value::as_u64).is_some_and(|id| id >= rows))
        });
    }
    Ok(())
}

/// All tokens of the loaded tokenizer by id, with whether they are special.
pub(super) fn tokens(
    library: &Library,
    json: &Value,
    file: &Path,
    vocab_rows: usize,
) -> Result<Vec<(u32, String, bool)>, TokenizerError> {
    let added = library.get_added_tokens_decoder();
    let mut tokens: Vec<(u32, String, bool)> = library
        .get_vocab(true)
        .into_iter()
        .map(|(text, id)| (id, text))
        .map(|(id, text)| {
            let special = added.get(&id).is_some_and(|token| token.special && token.content == text);
            (id, text, special)
        })
        .collect();
    tokens.sort_unstable();
    if tokens.is_empty() {
        return Err(field_error(file, "model.vocab", "empty", "at least one token"));
    }
    if let Some((id, token, _)) = tokens.iter().find(|(id, ..)| *id as usize >= vocab_rows) {
        let (token, id) = (token.clone(), u64::from(*id));
        return Err(TokenizerError::IdOutOfRange { file: file.to_owned(), token, id, rows: vocab_rows });
    }
    for (left, right) in tokens.iter().zip(tokens.iter().skip(1)) {
        if left.0 == right.0 {
            return Err(TokenizerError::Duplicate {
                file: file.to_owned(),
                first: format!("`{}`", left.1),
                second: format!("`{}`", right.1),
                what: "both have the same id",
            });
        }
    }
    for (i, token) in json.get("added_tokens").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let (Some(content), Some(id)) = (token.get("content").and_then(Value::as_str), token.get("id")) else {
            continue;
        };
        // The library gives ids by place in the list and only warns when the file says otherwise.
        if let Some(given) = library.token_to_id(content)
            && id.as_u64() != Some(u64::from(given))
        {
            if let Some(id) = id.as_u64().filter(|id| usize::try_from(*id).map_or(true, |id| id >= vocab_rows)) {
                let token = content.to_owned();
                return Err(TokenizerError::IdOutOfRange { file: file.to_owned(), token, id, rows: vocab_rows });
            }
            let expected = format!("{given}, the place of `{content}` after the vocabulary and the tokens before it");
            return Err(field_error(file, format!("added_tokens[{i}].id"), id.to_string(), &expected));
        }
    }
    Ok(tokens)
}

/// After the library refused `json`: an error that names the field, where the reason is a common one.
pub(super) fn explain(json: &Value, file: &Path) -> Result<(), TokenizerError> {
    let Some(model) = json.get("model") else { return Ok(()) };
    let Some(vocab) = model.get("vocab").and_then(Value::as_object) else {
        // A Unigram vocabulary is a list of pairs.
        for (i, entry) in model.get("vocab").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let pair = entry.as_array().map(Vec::as_slice);
            if !matches!(pair, Some([Value::String(_), Value::Number(_)])) {
                return Err(field_error(
                    file,
                    format!("model.vocab[{i}]"),
                    brief(entry),
                    "a pair of a token and its score",
                ));
            }
        }
        return Ok(());
    };
    for (token, id) in vocab {
        if id.as_u64().and_then(|id| u32::try_from(id).ok()).is_none() {
            return Err(field_error(file, format!("model.vocab.{token}"), brief(id), "an id below 4294967296"));
        }
    }
    for (index, merge) in model.get("merges").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let wrong = |reason: String| TokenizerError::Merge {
            file: file.to_owned(),
            field: "model.merges",
            index,
            merge: brief(merge),
            reason,
        };
        let Some((left, right)) = merge_parts(merge) else { return Err(wrong("expected two parts".to_owned())) };
        let unknown = [left.to_owned(), right.to_owned(), format!("{left}{right}")];
        if let Some(token) = unknown.iter().find(|t| !vocab.contains_key(t.as_str())) {
            return Err(wrong(format!("`{token}` is not in the vocabulary of {} tokens", vocab.len())));
        }
    }
    let unk = model.get("unk_token").and_then(Value::as_str).filter(|unk| !vocab.contains_key(*unk));
    match unk {
        Some(token) => Err(TokenizerError::NotInVocabulary {
            file: file.to_owned(),
            field: "model.unk_token".to_owned(),
            token: token.to_owned(),
            vocab_size: vocab.len(),
        }),
        None => Ok(()),
    }
}

/// Both forms of a merge: `["a", "b"]` and the older `"a b"`.
fn merge_parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(left), Value::String(right)] => Some((left, right)),
            _ => None,
        },
        _ => None,
    }
}

/// A value's text, cut to what a message can hold.
fn brief(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.chars().count() > 80 { text.chars().take(80).chain(['…']).collect() } else { text }
}
