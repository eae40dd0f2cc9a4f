//! A `tokenizer.json` as the vocabulary of a GGUF file: the other way of [`describe`](super::describe).
//!
//! What the lists of a GGUF file cannot say is an error that names it. Byte-level BPE needs a name for how text is cut into words; BPE of whole
//! characters, which SentencePiece made, needs scores that rise as the ranks of merges fall.
//!
//! Source: the readers of this module, and `convert_hf_to_gguf.py` of llama.cpp for the kinds of tokens and the filler of unused rows.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::super::table::byte_token;
use super::super::{PROBE, Tokenizer, TokenizerError, field_error, files};
use super::{GgufVocab, pre};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Numbers of `token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// A `tokenizer.json` of byte pairs.
struct Source<'j> {
    file: &'j Path,
    json: &'j Value,
    model: &'j Value,
}

impl GgufVocab {
    /// The vocabulary of the model folder `dir`, of which `tokenizer` was loaded, with a token for each of `vocab_rows` ids. `eos_ids` are the ids that
    /// end a text, the first of them the tokenizer's own.
    ///
    /// # Errors
    /// When GGUF has no words for how the tokenizer works; the error names the part.
    pub fn from_dir(
        dir: &Path,
        tokenizer: &Tokenizer,
        bos: Option<u32>,
        eos_ids: &[u32],
        vocab_rows: usize,
    ) -> Result<GgufVocab, TokenizerError> {
        let file = dir.join("tokenizer.json");
        let Some(json) = files::read_json(&file)? else {
            return Err(field_error(&file, "tokenizer", "missing", "the file that the tokenizer was loaded from"));
        };
        let source = Source { file: &file, json: &json, model: json.get("model").unwrap_or(&Value::Null) };
        source.check_model()?;
        let mut vocab = source.lists(vocab_rows)?;
        match source.flag("byte_fallback") {
            true => source.add_scores(&mut vocab)?,
            false => source.add_cuts(&mut vocab)?,
        }
        let role = |role: &str| {
            let named = tokenizer.special_tokens().iter().find(|(name, _)| name == role);
            named.and_then(|(_, text)| tokenizer.token_id(text))
        };
        (vocab.bos, vocab.pad) = (bos.or(role("bos_token")), role("pad_token"));
        vocab.unk = vocab.unk.or(role("unk_token"));
        let mut ends = eos_ids.iter().copied();
        (vocab.eos, vocab.eot) = (ends.next().or(role("eos_token")), ends.next());
        vocab.chat_template = tokenizer.chat_template().map(|template| template.text().to_owned());
        source.add_around(&mut vocab, tokenizer)?;
        source.compare(&vocab, tokenizer, vocab_rows)?;
        Ok(vocab)
    }
}

impl Source<'_> {
    fn refused<T>(&self, field: &str, found: &Value, expected: &str) -> Result<T, TokenizerError> {
        let text = found.to_string();
        let found = match text.char_indices().nth(200) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text,
        };
        Err(field_error(self.file, field, found, expected))
    }

    fn flag(&self, key: &str) -> bool {
        self.model.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Refuses models other than plain byte pairs.
    fn check_model(&self) -> Result<(), TokenizerError> {
        let kind = self.model.get("type").unwrap_or(&Value::Null);
        let has_merges = self.model.get("merges").is_some_and(Value::is_array);
        if !has_merges || !kind.is_null() && kind != "BPE" {
            return self.refused("model.type", kind, "BPE, the one kind of model that is written to GGUF files");
        }
        for key in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            let value = self.model.get(key).unwrap_or(&Value::Null);
            if !value.is_null() && value != "" {
                return self.refused(&format!("model.{key}"), value, "null, as GGUF files have no such thing");
            }
        }
        Ok(())
    }

    /// Tokens, their kinds, and merges.
    fn lists(&self, vocab_rows: usize) -> Result<GgufVocab, TokenizerError> {
        let mut tokens: Vec<Option<(&str, i32)>> = vec![None; vocab_rows];
        let mut put = |text, id: Option<u64>, kind| {
            let place = id.and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
            // Loading checked all ids but those of placeholders without a row.
            place.into_iter().for_each(|place| *place = Some((text, kind)));
        };
        let of_bytes = self.flag("byte_fallback");
        // Byte-level BPE knows all text, whatever it names here.
        let unknown = self.model.get("unk_token").and_then(Value::as_str).filter(|_| of_bytes);
        for (text, id) in self.model.get("vocab").and_then(Value::as_object).into_iter().flatten() {
            let is_byte = of_bytes && byte_token(text).is_some();
            let kind = if is_byte { BYTE } else { NORMAL };
            put(text.as_str(), id.as_u64(), if unknown == Some(text) { UNKNOWN } else { kind });
        }
        for token in self.json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let is_special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            let text = token.get("content").and_then(Value::as_str).unwrap_or_default();
            let kind = if is_special { CONTROL } else { USER_DEFINED };
            put(text, token.get("id").and_then(Value::as_u64), if unknown == Some(text) { UNKNOWN } else { kind });
        }
        let mut vocab = GgufVocab::default();
        for (id, token) in (0_u32..).zip(&tokens) {
            match token {
                Some((text, kind)) => {
                    vocab.tokens.push(text);
                    vocab.token_types.push(*kind);
                    if *kind == UNKNOWN {
                        vocab.unk = Some(id);
                    }
                }
                None => {
                    vocab.tokens.push(&format!("[PAD{id}]"));
                    vocab.token_types.push(UNUSED);
                }
            }
        }
        for (index, merge) in self.model.get("merges").and_then(Value::as_array).into_iter().flatten().enumerate() {
            match (merge.as_str(), merge.get(0).and_then(Value::as_str), merge.get(1).and_then(Value::as_str)) {
                (Some(merge), ..) => vocab.merges.push(merge),
                (None, Some(left), Some(right)) if !left.contains(' ') && !right.contains(' ') => {
                    vocab.merges.push(&format!("{left} {right}"));
                }
                _ => {
                    let expected = "two tokens without a space, which parts them in GGUF files";
                    return self.refused(&format!("model.merges[{index}]"), merge, expected);
                }
            }
        }
        Ok(vocab)
    }

    /// The name of how byte-level BPE cuts text.
    fn add_cuts(&self, vocab: &mut GgufVocab) -> Result<(), TokenizerError> {
        let (normalizer, cuts) = (self.part("normalizer"), self.part("pre_tokenizer"));
        let nfc = match normalizer.get("type").and_then(Value::as_str) {
            Some("NFC") => true,
            None if normalizer.is_null() => false,
            _ => return self.refused("normalizer", normalizer, "null or NFC"),
        };
        let named = self
            .patterns(cuts)
            .and_then(|(patterns, prefix)| Some((pre::name_of(&patterns, nfc, self.flag("ignore_merges"))?, prefix)));
        let Some((name, prefix)) = named else {
            let with = format!("(normalizer {normalizer}, ignore_merges {}) ", self.flag("ignore_merges"));
            let expected = format!("{with}what GGUF files have a name for: {}", pre::names());
            return self.refused("pre_tokenizer", cuts, &expected);
        };
        vocab.model = "gpt2".to_owned();
        vocab.pre = Some(name.to_owned());
        vocab.add_space_prefix = prefix.then_some(true);
        Ok(())
    }

    fn part(&self, key: &str) -> &Value {
        self.json.get(key).unwrap_or(&Value::Null)
    }

    /// The expressions that a pre-tokenizer cuts with, one after the other, and whether a space comes first; `None` for any other.
    fn patterns(&self, cuts: &Value) -> Option<(Vec<String>, bool)> {
        let one = std::slice::from_ref(cuts);
        let steps = cuts.get("pretokenizers").and_then(Value::as_array).map_or(one, Vec::as_slice);
        let (last, before) = steps.split_last()?;
        let is = |step: &Value, kind: &str| step.get("type").is_some_and(|name| name == kind);
        let flag = |step: &Value, key: &str, default| step.get(key).and_then(Value::as_bool).unwrap_or(default);
        let mut patterns = Vec::new();
        for step in before {
            if is(step, "Digits") && flag(step, "individual_digits", false) {
                patterns.push(r"\p{N}".to_owned());
            } else if is(step, "Split") && step.get("behavior")? == "Isolated" && !flag(step, "invert", false) {
                // A quote means itself, escaped or not.
                patterns.push(step.get("pattern")?.get("Regex")?.as_str()?.replace("\\\"", "\""));
            } else {
                return None;
            }
        }
        if !is(last, "ByteLevel") {
            return None;
        }
        if flag(last, "use_regex", true) {
            patterns.push(pre::GPT2.to_owned());
        }
        Some((patterns, flag(last, "add_prefix_space", true)))
    }

    /// Scores in place of merges: of two tokens that could be made, the one whose merge comes first has the greater.
    fn add_scores(&self, vocab: &mut GgufVocab) -> Result<(), TokenizerError> {
        vocab.model = "llama".to_owned();
        vocab.add_space_prefix = Some(self.spaces()?);
        let ids: HashMap<&str, usize> = vocab.tokens.iter().enumerate().map(|(id, text)| (text, id)).collect();
        let mut scores = vec![0.0; vocab.tokens.len()];
        let mut seen = HashSet::new();
        let mut last = None;
        for (rank, merge) in vocab.merges.iter().enumerate() {
            let Some((left, right)) = merge.split_once(' ') else {
                return self.refused("model.merges", &Value::from(merge), "two tokens");
            };
            let Some(&id) = ids.get(format!("{left}{right}").as_str()) else {
                return self.refused("model.merges", &Value::from(merge), "two tokens that make a third");
            };
            // Merges that make one token follow each other, as one score puts them all in one place.
            if last != Some(id) && !seen.insert(id) {
                return self.refused("model.merges", &Value::from(merge), "all merges that make a token side by side");
            }
            if last != Some(id)
                && let Some(score) = scores.get_mut(id)
            {
                *score = -(rank as f32);
            }
            last = Some(id);
        }
        // With scores every two tokens that make a third may be merged.
        let is_piece = |text: &str| {
            let kind = ids.get(text).and_then(|&id| vocab.token_types.get(id));
            kind.is_some_and(|&kind| matches!(kind, NORMAL | USER_DEFINED))
        };
        let listed: HashSet<(&str, &str)> = vocab.merges.iter().filter_map(|merge| merge.split_once(' ')).collect();
        for token in vocab.tokens.iter().filter(|text| is_piece(text)) {
            let mut cuts = token.char_indices().skip(1).filter_map(|(at, _)| token.split_at_checked(at));
            if let Some((left, right)) =
                cuts.find(|pair| is_piece(pair.0) && is_piece(pair.1) && !listed.contains(pair))
            {
                let found = Value::from(format!("a list without `{left} {right}`"));
                let expected = "all pairs of tokens that make a token, as scores, which GGUF files have, allow each";
                return self.refused("model.merges", &found, expected);
            }
        }
        vocab.scores = scores;
        vocab.merges = crate::strings::Strings::default();
        Ok(())
    }

    /// Whether SentencePiece's steps put a space before a text; they write spaces as `▁`.
    fn spaces(&self) -> Result<bool, TokenizerError> {
        let normalizer = self.part("normalizer");
        let one = std::slice::from_ref(normalizer);
        let steps = normalizer.get("normalizers").and_then(Value::as_array).map_or(one, Vec::as_slice);
        let is_prepend = |step: &Value| step.get("prepend").is_some_and(|text| text == "\u{2581}");
        let is_replace = |step: &Value| {
            let pattern = step.get("pattern").and_then(|pattern| pattern.get("String"));
            pattern.is_some_and(|text| text == " ") && step.get("content").is_some_and(|text| text == "\u{2581}")
        };
        let prefix = match steps {
            [prepend, replace] if is_prepend(prepend) && is_replace(replace) => true,
            [replace] if is_replace(replace) => false,
            _ => return self.refused("normalizer", normalizer, "spaces written as `▁`, with one in front or not"),
        };
        // Spaces are gone by then, so a cut at them does nothing.
        let cuts = self.part("pre_tokenizer");
        let at_spaces = cuts.get("pattern").and_then(|pattern| pattern.get("String")).is_some_and(|text| text == " ");
        match cuts.is_null() || at_spaces {
            true => Ok(prefix),
            false => self.refused("pre_tokenizer", cuts, "null beside `byte_fallback`"),
        }
    }

    /// The tokens that are put around a text.
    fn add_around(&self, vocab: &mut GgufVocab, tokenizer: &Tokenizer) -> Result<(), TokenizerError> {
        let (plain, whole) = (tokenizer.encode("a", false)?, tokenizer.encode("a", true)?);
        let at = whole.windows(plain.len().max(1)).position(|ids| ids == plain);
        let around = at.and_then(|at| Some((whole.get(..at)?, whole.get(at.checked_add(plain.len())?..)?)));
        let refused = || {
            let found = self.part("post_processor");
            self.refused("post_processor", found, "the BOS token before a text, the EOS token behind it, or nothing")
        };
        let Some((before, behind)) = around else { return refused() };
        match *before {
            [] => vocab.add_bos = Some(false),
            [id] => (vocab.add_bos, vocab.bos) = (Some(true), Some(id)),
            _ => return refused(),
        }
        match *behind {
            [] => vocab.add_eos = Some(false),
            [id] if Some(id) == vocab.eos => vocab.add_eos = Some(true),
            _ => return refused(),
        }
        Ok(())
    }

    /// Fails where the vocabulary, read again, gives other ids.
    fn compare(&self, vocab: &GgufVocab, tokenizer: &Tokenizer, vocab_rows: usize) -> Result<(), TokenizerError> {
        let again = Tokenizer::from_gguf(vocab.clone(), self.file, vocab_rows)?;
        for add_special in [false, true] {
            let [expected, found] = [tokenizer.encode(PROBE, add_special)?, again.encode(PROBE, add_special)?];
            if expected != found {
                let found = format!("as a GGUF vocabulary {found:?} for the text {PROBE:?}");
                return Err(field_error(self.file, "tokenizer", found, &format!("{expected:?}")));
            }
        }
        Ok(())
    }
}
