//! A GGUF file's vocabulary as a tokenizer: the steps around the model as a `tokenizer.json` value, the model itself from the lists.
//!
//! Source: the `tokenizer.ggml.*` keys of `docs/gguf.md` in ggml; what is done when a key is missing follows llama.cpp's
//! `src/llama-vocab.cpp`.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::path::Path;

use ahash::RandomState;
use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::files::TemplateSource;
use super::table::byte_token;
use super::{TokenizerError, field_error};
use crate::strings::Strings;

mod bpe;
mod from_json;
mod pre;
mod vocabulary;

pub(super) use bpe::{Bpe, Rules};
use bpe::{Merges, Ranks};
use vocabulary::Vocabulary;

/// The vocabulary in a GGUF file's metadata, before anything is checked. Field comments name the keys under `tokenizer.ggml`.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `model`: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) or `t5` (Unigram).
    pub model: String,
    /// `pre`: how byte-level BPE cuts text into words.
    pub pre: Option<String>,
    /// `tokens`.
    pub tokens: Strings,
    /// `scores`; empty when the key is missing.
    pub scores: Vec<f32>,
    /// `token_type`; empty when the key is missing.
    pub token_types: Vec<i32>,
    /// `merges`; empty when the key is missing.
    pub merges: Strings,
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

/// The tokenizer that a vocabulary describes.
pub(super) struct Described {
    /// A `tokenizer.json`; without a model where that is given apart.
    pub(super) json: Value,
    /// What a model is made of, where `json` has none.
    pub(super) lists: Option<Lists>,
    /// Special tokens as templates know them.
    pub(super) special: Vec<(String, String)>,
    pub(super) template: Option<TemplateSource>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) eot: Option<u32>,
}

/// The lists of a byte-pair model.
pub(super) struct Lists {
    checked: Checked,
    pairs: Pairs,
    /// The tokens that text may spell out whole.
    pub(super) added: Vec<AddedToken>,
}

/// A vocabulary whose arrays fit together.
struct Checked {
    /// Without its tokens, which are in `vocabulary`.
    vocab: GgufVocab,
    vocabulary: Vocabulary,
    kinds: Vec<Kind>,
}

/// Merging looks pairs of pieces up by their union; the longest pieces of real vocabularies have about 100 bytes.
const MAX_PIECE_BYTES: usize = 1024;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MODELS: &str = "`gpt2`, `llama` or `t5`";

/// The tokenizer that does what `vocab` says.
pub(super) fn describe(vocab: GgufVocab, file: &Path, vocab_rows: usize) -> Result<Described, TokenizerError> {
    if !matches!(vocab.model.as_str(), "gpt2" | "llama" | "t5") {
        return Err(field_error(file, "tokenizer.ggml.model", format!("`{}`", vocab.model), MODELS));
    }
    let checked = Checked::new(vocab, file, vocab_rows)?;
    let parts = match checked.vocab.model.as_str() {
        "gpt2" => checked.byte_level(file)?,
        "llama" => checked.sentence_pieces(),
        _ => checked.unigram(file)?,
    };
    let post = checked.post_processor(file, parts.add_bos, parts.add_eos)?;
    let special = checked.special();
    let added = checked.added_tokens();
    let (bos, eos, eot) = (checked.vocab.bos, checked.vocab.eos, checked.vocab.eot);
    let origin = format!("{}: `tokenizer.chat_template`", file.display());
    let template = checked.vocab.chat_template.clone().map(|text| TemplateSource { text, with_tools: None, origin });
    let (json_model, json_added, lists) = match parts.model {
        ModelParts::Json(model) => {
            (model, added.into_iter().map(|(id, token)| with_id(&token, id)).collect::<Vec<_>>(), None)
        }
        ModelParts::Pairs(pairs) => {
            let added = added.into_iter().map(|(_, token)| token).collect();
            (Value::Null, Vec::new(), Some(Lists { checked, pairs, added }))
        }
    };
    let json = json!({
        "version": "1.0", "normalizer": parts.normalizer, "pre_tokenizer": parts.pre_tokenizer, "post_processor": post,
        "decoder": parts.decoder, "added_tokens": json_added, "model": json_model,
    });
    Ok(Described { json, lists, special, template, bos, eos, eot })
}

/// What the three kinds of vocabulary differ in.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: ModelParts,
    /// When the file does not say.
    add_bos: bool,
    add_eos: bool,
}

/// How pieces become tokens.
enum ModelParts {
    /// As the library reads it.
    Json(Value),
    /// By merging pairs.
    Pairs(Pairs),
}

/// How pairs are merged.
struct Pairs {
    /// By the scores of what they make, not by the file's list.
    scored: bool,
    byte_fallback: bool,
    ignore_merges: bool,
}

impl Lists {
    /// Id and text of all tokens that have a text, in order of ids.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (u32, &str)> {
        self.checked.vocabulary.iter()
    }

    /// How the tokens are found in a word: it takes a look-up or more for each merge.
    pub(super) fn rules(&self, file: &Path) -> Result<Rules, TokenizerError> {
        let Lists { checked, pairs: Pairs { scored, byte_fallback, ignore_merges }, .. } = self;
        let [scored, byte_fallback, ignore_merges] = [*scored, *byte_fallback, *ignore_merges];
        let merges = if scored { checked.scored(file)? } else { checked.merges(file)? };
        let unknown = checked.unknown().filter(|_| byte_fallback);
        Ok(Rules { merges, unknown, byte_fallback, ignore_merges })
    }

    /// The model with the [`Lists::rules`], and the tokens that text may spell out whole.
    pub(super) fn into_model(self, rules: Rules) -> (Bpe, Vec<AddedToken>) {
        (Bpe { vocabulary: self.checked.vocabulary, rules }, self.added)
    }
}

impl Checked {
    fn new(mut vocab: GgufVocab, file: &Path, vocab_rows: usize) -> Result<Checked, TokenizerError> {
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
        for ((id, token), kind) in (0u32..).zip(vocab.tokens.iter()).zip(&kinds) {
            if *kind == Kind::Byte && byte_token(token).is_none() {
                let found = format!("byte token `{token}`");
                return Err(field_error(file, format!("{TOKENS}[{id}]"), found, "`<0x00>` to `<0xFF>`"));
            }
        }
        // A token without text can never be met; its id stays a gap.
        match Vocabulary::new(std::mem::take(&mut vocab.tokens)) {
            Ok(vocabulary) => Ok(Checked { vocab, vocabulary, kinds }),
            Err((first, second)) => Err(TokenizerError::Duplicate {
                file: file.to_owned(),
                first: format!("`{TOKENS}[{first}]`"),
                second: format!("`[{second}]`"),
                what: "both have the same text",
            }),
        }
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
            model: ModelParts::Pairs(Pairs { scored: false, byte_fallback: false, ignore_merges: pre.ignore_merges }),
            add_bos: pre.add_bos,
            add_eos: false,
        })
    }

    fn sentence_pieces(&self) -> Parts {
        let prefix = self.vocab.add_space_prefix.unwrap_or(true);
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
        Parts {
            normalizer: json!({ "type": "Sequence", "normalizers": if prefix { vec![prepend, spaces] } else { vec![spaces] } }),
            pre_tokenizer: Value::Null,
            decoder: json!({ "type": "Sequence", "decoders": decoders }),
            model: ModelParts::Pairs(Pairs {
                scored: self.vocab.merges.is_empty(),
                byte_fallback: true,
                ignore_merges: false,
            }),
            add_bos: true,
            add_eos: false,
        }
    }

    fn unigram(&self, file: &Path) -> Result<Parts, TokenizerError> {
        let Some(unk) = self.unknown() else {
            let expected = "the id of the token for unknown text";
            return Err(field_error(file, "tokenizer.ggml.unknown_token_id", "missing", expected));
        };
        let pairs: Vec<Value> = (0u32..)
            .zip(&self.vocab.scores)
            // Unigram ids are places, so a token without text needs a filler; it is longer than any text is likely to be.
            .map(|(id, score)| match self.vocabulary.text(id) {
                "" => json!([format!("\u{10fffd}empty {id}\u{10fffd}"), -1e9]),
                token => json!([token, score]),
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
            model: ModelParts::Json(
                json!({ "type": "Unigram", "unk_id": unk, "byte_fallback": byte_fallback, "vocab": pairs }),
            ),
            add_bos: false,
            add_eos: true,
        })
    }

    /// The file's merges, the first ones first.
    fn merges(&self, file: &Path) -> Result<Merges, TokenizerError> {
        const FIELD: &str = "tokenizer.ggml.merges";
        let found = self.vocab.merges.len();
        // Exports that list each way to build a token have two to three times as many as tokens.
        let limit = self.kinds.len().saturating_mul(16);
        if found > limit {
            let expected = format!("at most {limit}, 16 for each token");
            return Err(TokenizerError::Length { file: file.to_owned(), field: FIELD, found, expected });
        }
        let mut pairs = Ranks::with_capacity_and_hasher(found, RandomState::new());
        let (mut union, mut last) = (String::new(), 0u32);
        for (rank, (index, merge)) in (0u32..).zip(self.vocab.merges.iter().enumerate()) {
            let wrong = |reason| TokenizerError::Merge {
                file: file.to_owned(),
                field: FIELD,
                index,
                merge: merge.to_owned(),
                reason,
            };
            // The first part may itself begin with a space. No other character has the byte of one.
            let space = merge.bytes().skip(1).position(|byte| byte == b' ').map(|before| before.saturating_add(1));
            let Some((left, right)) = space.and_then(|at| merge.split_at_checked(at)) else {
                return Err(wrong("expected two parts with a space between them".to_owned()));
            };
            let right = right.strip_prefix(' ').unwrap_or(right);
            union.clear();
            union.push_str(left);
            union.push_str(right);
            let id = |token: &str| {
                let unknown = || format!("`{token}` is not among the {} tokens", self.vocabulary.known());
                self.vocabulary.id(token).ok_or_else(|| wrong(unknown()))
            };
            let pair = (id(left)?, id(right)?);
            // Files list merges mostly in the order of the tokens that they make.
            let next = last.saturating_add(1);
            last = if self.vocabulary.text(next) == union { next } else { id(&union)? };
            pairs.insert(pair, (rank, last));
        }
        Ok(Merges::Ranked(pairs))
    }

    /// Merges by the scores of what they make.
    fn scored(&self, file: &Path) -> Result<Merges, TokenizerError> {
        let pieces: Vec<bool> =
            self.kinds.iter().map(|kind| matches!(kind, Kind::Normal | Kind::UserDefined)).collect();
        let lengths = self.vocabulary.iter().filter(|(id, _)| pieces.get(*id as usize) == Some(&true));
        let Some((id, longest)) = lengths.map(|(id, text)| (id, text.len())).max_by_key(|(_, len)| *len) else {
            return Ok(Merges::Scored { scores: Vec::new(), pieces, longest: 0 });
        };
        if longest > MAX_PIECE_BYTES {
            let (found, expected) = (format!("a token of {longest} bytes"), format!("at most {MAX_PIECE_BYTES} bytes"));
            return Err(field_error(file, format!("{TOKENS}[{id}]"), found, &expected));
        }
        Ok(Merges::Scored { scores: self.vocab.scores.clone(), pieces, longest })
    }

    /// The token that stands for unknown text.
    fn unknown(&self) -> Option<u32> {
        let by_kind = || self.kinds.iter().position(|kind| *kind == Kind::Unknown);
        let id = self.vocab.unk.or_else(|| by_kind().and_then(|id| u32::try_from(id).ok()))?;
        Some(id).filter(|&id| !self.vocabulary.text(id).is_empty())
    }

    /// Special tokens as templates know them.
    fn special(&self) -> Vec<(String, String)> {
        let Checked { vocab, vocabulary, .. } = self;
        let named =
            [("bos_token", vocab.bos), ("eos_token", vocab.eos), ("unk_token", vocab.unk), ("pad_token", vocab.pad)];
        named.into_iter().filter_map(|(role, id)| Some((role.to_owned(), vocabulary.text(id?).to_owned()))).collect()
    }

    /// The tokens that text may spell out whole.
    fn added_tokens(&self) -> Vec<(u32, AddedToken)> {
        let tokens = self.vocabulary.iter().filter_map(|(id, text)| Some((id, text, self.kinds.get(id as usize)?)));
        tokens
            .filter(|(.., kind)| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown))
            .map(|(id, text, kind)| (id, AddedToken::from(text, *kind != Kind::UserDefined).normalized(false)))
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
            let Some((id, token)) = id.map(|id| (id, self.vocabulary.text(id))) else {
                if asked == Some(true) {
                    let field = format!("tokenizer.ggml.{key}_id");
                    let expected = format!("an id, because `tokenizer.ggml.add_{key}` is true");
                    return Err(field_error(file, field, "missing", &expected));
                }
                continue;
            };
            let piece = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
            single.insert(if front { 0 } else { single.len() }, piece);
            special.insert(token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        let pair: Vec<Value> =
            single.iter().chain(&[json!({ "Sequence": { "id": "B", "type_id": 0 } })]).cloned().collect();
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special }))
    }
}

/// An added token as a `tokenizer.json` has it.
fn with_id(token: &AddedToken, id: u32) -> Value {
    json!({
        "id": id, "content": token.content, "special": token.special, "single_word": token.single_word,
        "lstrip": token.lstrip, "rstrip": token.rstrip, "normalized": token.normalized,
    })
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
