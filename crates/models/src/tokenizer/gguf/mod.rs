//! A GGUF file's vocabulary as a `tokenizer.json` value.
//!
//! Source: the `tokenizer.ggml.*` keys of `docs/gguf.md` in ggml; what is done when a key is missing follows llama.cpp's
//! `src/llama-vocab.cpp`.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::table::byte_token;
use super::{TokenizerError, field_error};

mod pieces;
mod pre;

/// The vocabulary in a GGUF file's metadata, before anything is checked. Field comments name the keys under `tokenizer.ggml`.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `model`: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) or `t5` (Unigram).
    pub model: String,
    /// `pre`: how byte-level BPE cuts text into words.
    pub pre: Option<String>,
    /// `tokens`.
    pub tokens: Vec<String>,
    /// `scores`; empty when the key is missing.
    pub scores: Vec<f32>,
    /// `token_type`; empty when the key is missing.
    pub token_types: Vec<i32>,
    /// `merges`; empty when the key is missing.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `eot_token_id`: ends a turn.
    pub eot: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `precompiled_charsmap`: SentencePiece's normalisation table; empty when the key is missing.
    pub precompiled_charsmap: Vec<u8>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// `token_type`, as llama.cpp numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// A vocabulary whose arrays fit together.
struct Checked<'v> {
    vocab: &'v GgufVocab,
    kinds: Vec<Kind>,
    ids: HashMap<&'v str, u32>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const MODELS: &str = "`gpt2`, `llama` or `t5`";

/// The `tokenizer.json` that does what `vocab` says.
pub(super) fn tokenizer_json(vocab: &GgufVocab, file: &Path, vocab_rows: usize) -> Result<Value, TokenizerError> {
    if !matches!(vocab.model.as_str(), "gpt2" | "llama" | "t5") {
        return Err(field_error(file, "tokenizer.ggml.model", format!("`{}`", vocab.model), MODELS));
    }
    let checked = Checked::new(vocab, file, vocab_rows)?;
    let parts = match vocab.model.as_str() {
        "gpt2" => checked.byte_level(file)?,
        "llama" => checked.sentence_pieces(file)?,
        _ => checked.unigram(file)?,
    };
    let post = checked.post_processor(file, parts.add_bos, parts.add_eos)?;
    Ok(json!({
        "version": "1.0", "added_tokens": checked.added_tokens(), "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer, "post_processor": post, "decoder": parts.decoder, "model": parts.model,
    }))
}

/// What the three kinds of vocabulary differ in.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// When the file does not say.
    add_bos: bool,
    add_eos: bool,
}

impl<'v> Checked<'v> {
    fn new(vocab: &'v GgufVocab, file: &Path, vocab_rows: usize) -> Result<Checked<'v>, TokenizerError> {
        let length = |field, found, expected: String| {
            Err(TokenizerError::Length { file: file.to_owned(), field, found, expected })
        };
        let size = vocab.tokens.len();
        if size == 0 {
            return length(TOKENS, 0, "at least one token".to_owned());
        }
        if size > vocab_rows {
            return length(TOKENS, size, format!("at most {vocab_rows}, the rows of the embedding"));
        }
        let as_tokens = || format!("{size}, as many as `{TOKENS}`");
        let scored = vocab.model != "gpt2";
        if vocab.scores.len() != size && (scored || !vocab.scores.is_empty()) {
            return length("tokenizer.ggml.scores", vocab.scores.len(), as_tokens());
        }
        if vocab.token_types.len() != size && (scored || !vocab.token_types.is_empty()) {
            return length("tokenizer.ggml.token_type", vocab.token_types.len(), as_tokens());
        }
        if let Some(i) = vocab.scores.iter().position(|s| !s.is_finite()) {
            return Err(field_error(file, format!("tokenizer.ggml.scores[{i}]"), "not finite", "a finite number"));
        }
        for (field, id) in [
            ("tokenizer.ggml.bos_token_id", vocab.bos),
            ("tokenizer.ggml.eos_token_id", vocab.eos),
            ("tokenizer.ggml.unknown_token_id", vocab.unk),
            ("tokenizer.ggml.padding_token_id", vocab.pad),
            ("tokenizer.ggml.eot_token_id", vocab.eot),
        ] {
            if let Some(id) = id.filter(|id| *id as usize >= size) {
                return Err(TokenizerError::SpecialId { file: file.to_owned(), field, id, vocab_size: size });
            }
        }
        let mut kinds = vec![Kind::Normal; size];
        for (i, (kind, number)) in kinds.iter_mut().zip(&vocab.token_types).enumerate() {
            *kind = match number {
                // Files of before 2023-08 have 0 where the converter knew no type.
                0 | 1 => Kind::Normal,
                2 => Kind::Unknown,
                3 => Kind::Control,
                4 => Kind::UserDefined,
                5 => Kind::Unused,
                6 => Kind::Byte,
                _ => {
                    let field = format!("tokenizer.ggml.token_type[{i}]");
                    return Err(field_error(file, field, number.to_string(), "1 to 6"));
                }
            };
        }
        let mut ids: HashMap<&str, u32> = HashMap::with_capacity(size);
        for ((id, token), kind) in (0u32..).zip(&vocab.tokens).zip(&kinds) {
            if *kind == Kind::Byte && byte_token(token).is_none() {
                let found = format!("byte token `{token}`");
                return Err(field_error(file, format!("{TOKENS}[{id}]"), found, "`<0x00>` to `<0xFF>`"));
            }
            // A token without text can never be met; its id stays a gap.
            if token.is_empty() {
                continue;
            }
            if let Some(first) = ids.insert(token, id) {
                return Err(TokenizerError::Duplicate {
                    file: file.to_owned(),
                    first: format!("`{TOKENS}[{first}]`"),
                    second: format!("`[{id}]`"),
                    what: "both have the same text",
                });
            }
        }
        Ok(Checked { vocab, kinds, ids })
    }

    fn byte_level(&self, file: &Path) -> Result<Parts, TokenizerError> {
        let name = self.vocab.pre.as_deref().unwrap_or("default");
        let Some(pre) = pre::find(name) else {
            return Err(field_error(file, "tokenizer.ggml.pre", format!("`{name}`"), &pre::names()));
        };
        let mut pre_tokenizers = pre.splits();
        let add_prefix_space = self.vocab.add_space_prefix.unwrap_or(false);
        pre_tokenizers.push(json!({
            "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": false,
        }));
        Ok(Parts {
            normalizer: if pre.nfc { json!({ "type": "NFC" }) } else { Value::Null },
            pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": pre_tokenizers }),
            decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
            model: json!({
                "type": "BPE", "ignore_merges": pre.ignore_merges, "vocab": self.vocabulary(), "merges": self.merges(file)?,
            }),
            add_bos: pre.add_bos,
            add_eos: false,
        })
    }

    fn sentence_pieces(&self, file: &Path) -> Result<Parts, TokenizerError> {
        let prefix = self.vocab.add_space_prefix.unwrap_or(true);
        let merges = if self.vocab.merges.is_empty() {
            pieces::merges(&self.vocab.tokens, &self.vocab.scores, |id| self.is_piece(id), &self.ids, file)?
        } else {
            self.merges(file)?
        };
        let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" });
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let prepend = json!({ "type": "Prepend", "prepend": "\u{2581}" });
        Ok(Parts {
            normalizer: json!({ "type": "Sequence", "normalizers": if prefix { vec![prepend, spaces] } else { vec![spaces] } }),
            pre_tokenizer: Value::Null,
            decoder: json!({ "type": "Sequence", "decoders": decoders }),
            model: json!({
                "type": "BPE", "unk_token": self.unknown(), "fuse_unk": true, "byte_fallback": true,
                "vocab": self.vocabulary(), "merges": merges,
            }),
            add_bos: true,
            add_eos: false,
        })
    }

    fn unigram(&self, file: &Path) -> Result<Parts, TokenizerError> {
        let Some(unk) = self.unknown().and_then(|token| self.ids.get(token)) else {
            let expected = "the id of the token for unknown text";
            return Err(field_error(file, "tokenizer.ggml.unknown_token_id", "missing", expected));
        };
        let pairs: Vec<Value> = (0u32..)
            .zip(&self.vocab.tokens)
            .zip(&self.vocab.scores)
            // Unigram ids are places, so a token without text needs a filler; it is longer than any text is likely to be.
            .map(|((id, token), score)| match token.is_empty() {
                true => json!([format!("\u{10fffd}empty {id}\u{10fffd}"), -1e9]),
                false => json!([token, score]),
            })
            .collect();
        let scheme = if self.vocab.add_space_prefix.unwrap_or(true) { "always" } else { "never" };
        let spaces = json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true });
        let normalizer = match self.vocab.precompiled_charsmap.as_slice() {
            [] => Value::Null,
            table => json!({ "type": "Precompiled", "precompiled_charsmap": base64(table) }),
        };
        let byte_fallback = self.kinds.contains(&Kind::Byte);
        let decoder = match byte_fallback {
            true => json!({ "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, spaces] }),
            false => spaces.clone(),
        };
        Ok(Parts {
            normalizer,
            pre_tokenizer: spaces,
            decoder,
            model: json!({ "type": "Unigram", "unk_id": unk, "byte_fallback": byte_fallback, "vocab": pairs }),
            add_bos: false,
            add_eos: true,
        })
    }

    /// Token → id, in order of ids.
    fn vocabulary(&self) -> Value {
        let tokens = (0u32..).zip(&self.vocab.tokens).filter(|(_, token)| !token.is_empty());
        Value::Object(tokens.map(|(id, token)| (token.clone(), Value::from(id))).collect())
    }

    /// The file's merges as pairs.
    fn merges(&self, file: &Path) -> Result<Vec<Value>, TokenizerError> {
        const FIELD: &str = "tokenizer.ggml.merges";
        let found = self.vocab.merges.len();
        // Exports that list each way to build a token have two to three times as many as tokens.
        let limit = self.vocab.tokens.len().saturating_mul(16);
        if found > limit {
            let expected = format!("at most {limit}, 16 for each token");
            return Err(TokenizerError::Length { file: file.to_owned(), field: FIELD, found, expected });
        }
        let mut pairs = Vec::with_capacity(found);
        for (index, merge) in self.vocab.merges.iter().enumerate() {
            let wrong = |reason| TokenizerError::Merge {
                file: file.to_owned(),
                field: FIELD,
                index,
                merge: merge.clone(),
                reason,
            };
            // The first part may itself begin with a space.
            let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let Some((left, right)) = space.and_then(|at| merge.split_at_checked(at)) else {
                return Err(wrong("expected two parts with a space between them".to_owned()));
            };
            let right = right.strip_prefix(' ').unwrap_or(right);
            for token in [left, right, &format!("{left}{right}")] {
                if !self.ids.contains_key(token) {
                    return Err(wrong(format!("`{token}` is not among the {} tokens", self.ids.len())));
                }
            }
            pairs.push(json!([left, right]));
        }
        Ok(pairs)
    }

    /// Whether merging may make or use the token.
    fn is_piece(&self, id: usize) -> bool {
        matches!(self.kinds.get(id), Some(Kind::Normal | Kind::UserDefined))
    }

    fn unknown(&self) -> Option<&str> {
        let id =
            self.vocab.unk.map(|id| id as usize).or_else(|| self.kinds.iter().position(|k| *k == Kind::Unknown))?;
        self.vocab.tokens.get(id).map(String::as_str).filter(|token| !token.is_empty())
    }

    fn added_tokens(&self) -> Vec<Value> {
        let tokens = (0u32..).zip(&self.vocab.tokens).zip(&self.kinds).filter(|((_, token), _)| !token.is_empty());
        tokens
            .filter(|(_, kind)| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown))
            .map(|((id, token), kind)| {
                json!({
                    "id": id, "content": token, "special": *kind != Kind::UserDefined,
                    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                })
            })
            .collect()
    }

    fn post_processor(&self, file: &Path, add_bos: bool, add_eos: bool) -> Result<Value, TokenizerError> {
        let mut single = vec![json!({ "Sequence": { "id": "A", "type_id": 0 } })];
        let mut special = serde_json::Map::new();
        for (key, asked, by_default, id, front) in [
            ("bos_token", self.vocab.add_bos, add_bos, self.vocab.bos, true),
            ("eos_token", self.vocab.add_eos, add_eos, self.vocab.eos, false),
        ] {
            if !asked.unwrap_or(by_default) {
                continue;
            }
            let Some((id, token)) = id.and_then(|id| Some((id, self.vocab.tokens.get(id as usize)?))) else {
                if asked == Some(true) {
                    let field = format!("tokenizer.ggml.{key}_id");
                    let expected = format!("an id, because `tokenizer.ggml.add_{key}` is true");
                    return Err(field_error(file, field, "missing", &expected));
                }
                continue;
            };
            let piece = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
            single.insert(if front { 0 } else { single.len() }, piece);
            special.insert(token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        let pair: Vec<Value> =
            single.iter().chain(&[json!({ "Sequence": { "id": "B", "type_id": 0 } })]).cloned().collect();
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special }))
    }
}

/// Standard base64 with padding, the form in which `tokenizer.json` keeps the normalisation table.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, i| (word << 8) | u32::from(group.get(i).copied().unwrap_or(0)));
        for i in 0..4usize {
            let sextet = (word >> [18, 12, 6, 0].get(i).copied().unwrap_or(0)) & 63;
            let letter = ALPHABET.get(sextet as usize).copied().unwrap_or(b'A');
            text.push(if i <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        for (text, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
