//! Prompts: text or token ids, one or several, and how they are cut to size.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::fields::{Field, Fields, Flag, Integer, Other, found, token_ids, too_many, wrong};
use crate::error::ApiError;
use nxd_models::Tokenizer;
use serde_json::{Value, json};

/// A text with more bytes a token of the context than this cannot fit, and is not worth encoding.
const MAX_BYTES_A_TOKEN: usize = 256;

const TRUNCATE: Integer = Integer {
    name: "truncate_prompt_tokens",
    about: "Keep so many tokens of the prompt; -1 for as many as leave room for the reply.",
    min: -1,
    max: i64::MAX,
};
const SIDE: Other = Other {
    name: "truncation_side",
    about: "Which end is cut off: `left`, where absent, or `right`.",
    schema: || json!({"enum": ["left", "right", null]}),
};
const ADD_SPECIAL: Flag = Flag {
    name: "add_special_tokens",
    about: "Add what the model expects around a text, such as a token that begins it.",
};

/// The fields that this file reads beside the prompt itself.
pub(super) const FIELDS: &[&dyn Field] = &[&TRUNCATE, &SIDE, &ADD_SPECIAL];

/// A prompt as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// How prompts become tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    truncate: Truncate,
    keep_first: bool,
    add_special: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truncate {
    Never,
    /// To what leaves room for the reply.
    ToFit,
    To(usize),
}

/// The JSON schema of a prompt.
pub(super) fn schema() -> Value {
    let ids = json!({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1});
    let text = json!({"type": "string", "minLength": 1});
    json!({"anyOf": [text, {"type": "array", "items": text, "minItems": 1}, ids, {"type": "array", "items": ids, "minItems": 1}]})
}

/// Reads the prompts of the field `name`: a text, token ids, or a list of one of these.
///
/// # Errors
/// When there is none, one is empty, there are more than `max_prompts`, or a token is outside the vocabulary.
pub(super) fn read(
    fields: &Fields,
    name: &'static str,
    max_prompts: usize,
    vocab_size: usize,
) -> Result<Vec<Prompt>, ApiError> {
    let missing = || ApiError::invalid(name, format!("`{name}` is missing; a text or token ids are allowed"));
    let list = match fields.get(name).ok_or_else(missing)? {
        text @ Value::String(_) => std::slice::from_ref(text),
        Value::Array(list) => list.as_slice(),
        other => return Err(wrong(name, other, "a text, token ids, or a list of them")),
    };
    match list.first() {
        None => return Err(ApiError::invalid(name, format!("`{name}` is empty; at least one token is needed"))),
        Some(Value::Number(_)) => return Ok(vec![Prompt::Ids(token_ids(name, list, vocab_size)?)]),
        Some(_) if list.len() > max_prompts => return Err(too_many(name, list.len(), max_prompts)),
        Some(_) => {}
    }
    let prompt = |(index, value): (usize, &Value)| match value {
        Value::String(text) if !text.is_empty() => Ok(Prompt::Text(text.clone())),
        Value::Array(ids) if !ids.is_empty() => token_ids(name, ids, vocab_size).map(Prompt::Ids),
        Value::String(_) | Value::Array(_) => {
            Err(ApiError::invalid(name, format!("`{name}` number {index} is empty; at least one token is needed")))
        }
        other => {
            let message =
                format!("`{name}` number {index} is {}; a text or a list of token ids is allowed", found(other));
            Err(ApiError::invalid(name, message))
        }
    };
    list.iter().enumerate().map(prompt).collect()
}

impl Encoding {
    /// Whether a prompt may be cut.
    pub(super) fn cuts(&self) -> bool {
        self.truncate != Truncate::Never
    }

    /// Reads how prompts become tokens; `add_special` where the request does not say.
    pub(super) fn read(fields: &Fields, add_special: bool) -> Result<Encoding, ApiError> {
        let truncate = match TRUNCATE.read(fields)? {
            None => Truncate::Never,
            Some(-1) => Truncate::ToFit,
            Some(0) => {
                return Err(ApiError::invalid(
                    TRUNCATE.name,
                    "`truncate_prompt_tokens` is 0; -1 or at least 1 is allowed",
                ));
            }
            Some(n) => Truncate::To(usize::try_from(n).unwrap_or(usize::MAX)),
        };
        let keep_first = match fields.get(SIDE.name) {
            None => false,
            Some(Value::String(side)) if side == "left" => false,
            Some(Value::String(side)) if side == "right" => true,
            Some(other) => return Err(wrong(SIDE.name, other, "\"left\" or \"right\"")),
        };
        Ok(Encoding { truncate, keep_first, add_special: ADD_SPECIAL.read(fields)?.unwrap_or(add_special) })
    }

    /// The tokens of `prompt`, of which a request may have `room`. `name` is the prompt's field.
    ///
    /// # Errors
    /// When the model has no tokenizer, the text cannot be encoded, or is far longer than the context.
    pub(super) fn tokens(
        &self,
        prompt: Prompt,
        tokenizer: Option<&Tokenizer>,
        room: usize,
        name: &'static str,
    ) -> Result<Vec<u32>, ApiError> {
        let mut ids = match prompt {
            Prompt::Ids(ids) => ids,
            Prompt::Text(text) => {
                let most = room.saturating_add(16).saturating_mul(MAX_BYTES_A_TOKEN);
                if text.len() > most && self.truncate == Truncate::Never {
                    return Err(too_long(name, text.len(), room));
                }
                let without = || ApiError::invalid(name, "this model has no tokenizer; send token ids");
                let encoded = tokenizer.ok_or_else(without)?.encode(&text, self.add_special);
                encoded.map_err(|error| ApiError::invalid(name, error.to_string()))?
            }
        };
        let keep = match self.truncate {
            Truncate::Never => ids.len(),
            Truncate::ToFit => room.max(1),
            Truncate::To(n) => n,
        };
        match ids.len().saturating_sub(keep) {
            0 => {}
            _ if self.keep_first => ids.truncate(keep),
            cut => drop(ids.drain(..cut)),
        }
        Ok(ids)
    }
}

fn too_long(name: &str, bytes: usize, room: usize) -> ApiError {
    let message = format!(
        "the prompt has {bytes} bytes, more than any {room} tokens, which are all that the context has room for"
    );
    ApiError { code: "context_length_exceeded", ..ApiError::invalid(name, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
        read(&Fields::new([("prompt".to_owned(), value)].into_iter().collect()), "prompt", 4, 10)
    }

    #[test]
    fn prompts_are_texts_or_tokens_one_or_several() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        assert_eq!(prompts(json!("a")), Ok(vec![text("a")]));
        assert_eq!(prompts(json!(["a", "b"])), Ok(vec![text("a"), text("b")]));
        assert_eq!(prompts(json!([1, 2])), Ok(vec![Prompt::Ids(vec![1, 2])]));
        assert_eq!(prompts(json!([[1], "b"])), Ok(vec![Prompt::Ids(vec![1]), text("b")]));
    }

    #[test]
    fn prompts_that_are_none_are_refused() {
        for (bad, message) in [
            (json!(null), "`prompt` is missing; a text or token ids are allowed"),
            (json!(""), "`prompt` number 0 is empty; at least one token is needed"),
            (json!([]), "`prompt` is empty; at least one token is needed"),
            (json!([[]]), "`prompt` number 0 is empty; at least one token is needed"),
            (json!([-1]), "`prompt[0]` is -1, out of vocabulary: token ids are 0 to 9"),
            (json!([10]), "`prompt[0]` is 10, out of vocabulary: token ids are 0 to 9"),
            (json!([1.5]), "`prompt[0]` is 1.5; a token id is allowed"),
            (json!([1, "a"]), "`prompt[1]` is \"a\"; a token id is allowed"),
            (json!(["a", 1]), "`prompt` number 1 is 1; a text or a list of token ids is allowed"),
            (json!({}), "`prompt` is an object; a text, token ids, or a list of them is allowed"),
            (json!(vec!["a"; 5]), "`prompt` has 5 entries; at most 4 are allowed"),
        ] {
            let error = prompts(bad).unwrap_err();
            assert_eq!((error.param.as_deref(), error.message.as_str()), (Some("prompt"), message));
        }
    }

    #[test]
    fn prompts_are_cut_at_either_end() {
        let cut = |options: Value, room| {
            let Value::Object(map) = options else { panic!("an object") };
            let encoding = Encoding::read(&Fields::new(map), true)?;
            encoding.tokens(Prompt::Ids(vec![1, 2, 3, 4]), None, room, "prompt")
        };
        assert_eq!(cut(json!({}), 2), Ok(vec![1, 2, 3, 4]));
        assert_eq!(cut(json!({"truncate_prompt_tokens": 3}), 9), Ok(vec![2, 3, 4]));
        assert_eq!(cut(json!({"truncate_prompt_tokens": 3, "truncation_side": "right"}), 9), Ok(vec![1, 2, 3]));
        assert_eq!(cut(json!({"truncate_prompt_tokens": -1}), 1), Ok(vec![4]));
        assert_eq!(
            cut(json!({"truncate_prompt_tokens": 0}), 1).unwrap_err().param.as_deref(),
            Some("truncate_prompt_tokens")
        );
        assert_eq!(cut(json!({"truncation_side": "top"}), 1).unwrap_err().param.as_deref(), Some("truncation_side"));
    }
}
