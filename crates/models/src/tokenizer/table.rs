//! The bytes of every token: what text is made of, whether streamed or not, and what a grammar's trie is built from.
//!
//! The table follows the file's `decoder`, applied once to each token at load. `tokenizers`' own incremental decoder re-decodes a
//! window at each token and fails on some sequences of byte tokens; a table cannot.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::TokenizerError;
use super::files::kind;

/// Bytes and properties of all tokens.
#[derive(Debug)]
pub(super) struct TokenTable {
    /// All tokens' bytes, one after the other.
    bytes: Vec<u8>,
    tokens: Vec<Entry>,
    /// How the first token of a text reads where that is not just "without spaces".
    first_forms: BTreeMap<u32, Vec<u8>>,
    pub(super) rules: Rules,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    start: usize,
    end: usize,
    known: bool,
    special: bool,
    byte: bool,
}

/// The parts of a decoder that depend on more than one token.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Each token's own changes, in order.
    steps: Vec<Step>,
    /// Drop up to so many of this character at the start of the text.
    pub(super) strip_start: Option<(char, usize)>,
    /// The first token of a text loses its word marks.
    pub(super) first_without_marks: bool,
    /// Put between tokens; files without a decoder join by spaces.
    pub(super) separator: &'static str,
}

#[derive(Debug)]
enum Step {
    Replace { from: String, to: String },
    ByteFallback,
    ByteLevel,
    Metaspace(char),
    Strip { content: char, start: usize, stop: usize },
}

const DECODERS: &str =
    "`ByteLevel`, `Metaspace`, `Replace` of a string, `ByteFallback`, `Fuse`, `Strip`, or a `Sequence` of these";

impl TokenTable {
    /// Builds the table of `tokens` = (id, text, is special), ids rising and below the embedding's rows.
    pub(super) fn new<'t>(tokens: impl Iterator<Item = (u32, &'t str, bool)>, rules: Rules) -> TokenTable {
        let mut table = TokenTable { bytes: Vec::new(), tokens: Vec::new(), first_forms: BTreeMap::new(), rules };
        table.tokens.reserve(tokens.size_hint().1.unwrap_or(0));
        for (id, text, special) in tokens {
            let start = table.bytes.len();
            let byte = table.rules.push_bytes(text, &mut table.bytes);
            table.tokens.resize((id as usize).saturating_add(1), Entry::default());
            if let Some(entry) = table.tokens.last_mut() {
                *entry = Entry { start, end: table.bytes.len(), known: true, special, byte };
            }
            if table.rules.first_without_marks && text.contains(' ') {
                table.first_forms.insert(id, table.rules.without_marks(text).into_bytes());
            }
        }
        table
    }

    /// One more than the largest id.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The bytes of a token; empty for an id that is no token.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let entry = self.entry(id);
        self.bytes.get(entry.start..entry.end).unwrap_or_default()
    }

    /// The bytes of a token that opens a text.
    pub(super) fn first_bytes(&self, id: u32) -> Vec<u8> {
        if !self.rules.first_without_marks || self.is_byte(id) {
            return self.bytes(id).to_vec();
        }
        match self.first_forms.get(&id) {
            Some(form) => form.clone(),
            // No token text with a space of its own: every space stands for a mark.
            None => self.bytes(id).iter().copied().filter(|b| *b != b' ').collect(),
        }
    }

    pub(super) fn is_known(&self, id: u32) -> bool {
        self.entry(id).known
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.entry(id).special
    }

    /// Whether the token is one byte of the `<0x41>` kind.
    pub(super) fn is_byte(&self, id: u32) -> bool {
        self.entry(id).byte
    }

    fn entry(&self, id: u32) -> Entry {
        self.tokens.get(id as usize).copied().unwrap_or_default()
    }
}

impl Rules {
    /// Reads the `decoder` of a `tokenizer.json`.
    pub(super) fn from_decoder(decoder: Option<&Value>, file: &Path) -> Result<Rules, TokenizerError> {
        let mut rules = Rules::default();
        let Some(decoder) = decoder.filter(|d| !d.is_null()) else {
            return Ok(Rules { separator: " ", ..rules });
        };
        let mut parts = Vec::new();
        flatten(decoder, "decoder".to_owned(), &mut parts);
        let mut fused = false;
        for (field, part) in parts {
            let unsupported = |found: String| TokenizerError::Field {
                file: file.to_owned(),
                field: field.clone(),
                found,
                expected: DECODERS.to_owned(),
            };
            let Some(name) = part.get("type").and_then(Value::as_str) else {
                return Err(unsupported(format!("{} without a `type`", kind(part))));
            };
            let Some(step) = step(name, part) else { return Err(unsupported(format!("`{name}` ({part})"))) };
            match step {
                None => fused = true,
                // After tokens are fused only what a stream can do is left: cutting at the front.
                Some(Step::Strip { content, start, stop: 0 }) if fused => rules.strip_start = Some((content, start)),
                Some(_) if fused => return Err(unsupported(format!("`{name}` after the tokens are joined"))),
                Some(step) => {
                    fused = matches!(step, Step::ByteLevel);
                    if let Step::Metaspace(_) = step {
                        rules.first_without_marks = part.get("prepend_scheme").and_then(Value::as_str) != Some("never")
                            && part.get("add_prefix_space").and_then(Value::as_bool) != Some(false);
                    }
                    rules.steps.push(step);
                }
            }
        }
        Ok(rules)
    }

    /// Appends a token's bytes to `out`; whether it is a byte token.
    fn push_bytes(&self, token: &str, out: &mut Vec<u8>) -> bool {
        let mut text = Cow::Borrowed(token);
        for step in &self.steps {
            match step {
                Step::Replace { from, to } => replace(&mut text, from, to),
                Step::Metaspace(mark) => replace(&mut text, mark.encode_utf8(&mut [0; 4]), " "),
                Step::Strip { content, start, stop } => text = strip(&text, *content, *start, *stop).into(),
                Step::ByteFallback => {
                    if let Some(byte) = byte_token(&text) {
                        out.push(byte);
                        return true;
                    }
                }
                Step::ByteLevel => {
                    let start = out.len();
                    for c in text.chars() {
                        match byte_of_char(c) {
                            Some(byte) => out.push(byte),
                            // A token with a character outside the byte alphabet was added as plain text.
                            None => {
                                out.truncate(start);
                                out.extend_from_slice(text.as_bytes());
                                return false;
                            }
                        }
                    }
                    return false;
                }
            }
        }
        out.extend_from_slice(text.as_bytes());
        false
    }

    fn without_marks(&self, token: &str) -> String {
        self.steps.iter().fold(token.to_owned(), |text, step| match step {
            Step::Metaspace(mark) => text.replace(*mark, ""),
            _ => text,
        })
    }
}

fn flatten<'v>(decoder: &'v Value, field: String, parts: &mut Vec<(String, &'v Value)>) {
    match (decoder.get("type").and_then(Value::as_str), decoder.get("decoders").and_then(Value::as_array)) {
        (Some("Sequence"), Some(inner)) => {
            for (i, part) in inner.iter().enumerate() {
                flatten(part, format!("{field}.decoders[{i}]"), parts);
            }
        }
        _ => parts.push((field, decoder)),
    }
}

/// `None`: not supported; `Some(None)`: `Fuse`, which joins tokens and changes none.
fn step(name: &str, part: &Value) -> Option<Option<Step>> {
    let character = |key: &str| {
        let mut chars = part.get(key)?.as_str()?.chars();
        chars.next().filter(|_| chars.next().is_none())
    };
    let count = |key: &str| usize::try_from(part.get(key)?.as_u64()?).ok();
    Some(match name {
        "Fuse" => None,
        "ByteFallback" => Some(Step::ByteFallback),
        "ByteLevel" => Some(Step::ByteLevel),
        "Metaspace" => Some(Step::Metaspace(character("replacement")?)),
        "Strip" => Some(Step::Strip { content: character("content")?, start: count("start")?, stop: count("stop")? }),
        "Replace" => {
            let from = part.get("pattern")?.get("String")?.as_str().filter(|s| !s.is_empty())?;
            Some(Step::Replace { from: from.to_owned(), to: part.get("content")?.as_str()?.to_owned() })
        }
        _ => return None,
    })
}

/// Replaces `from` where it occurs: most tokens have no mark, and need no copy.
fn replace(text: &mut Cow<'_, str>, from: &str, to: &str) {
    if text.contains(from) {
        *text = text.replace(from, to).into();
    }
}

fn strip(text: &str, content: char, start: usize, stop: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    let front = chars.iter().take(start).take_while(|c| **c == content).count();
    let kept: Vec<char> = chars.into_iter().skip(front).collect();
    let back = kept.iter().rev().take(stop).take_while(|c| **c == content).count();
    kept.iter().take(kept.len().saturating_sub(back)).collect()
}

/// The byte of a token like `<0x41>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The byte that a character of the byte-level alphabet stands for. Source: GPT-2 `encoder.py`, `bytes_to_unicode`: printable
/// Latin-1 stands for itself, the other 68 bytes follow from U+0100 in order.
pub(super) fn byte_of_char(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code.checked_sub(0x100)?,
        0x121..=0x142 => code.checked_sub(0x121)?.checked_add(0x7f)?,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_covers_each_byte_once() {
        let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of_char).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!((byte_of_char('Ġ'), byte_of_char('Ċ'), byte_of_char('ł')), (Some(b' '), Some(b'\n'), Some(0xa0)));
    }

    #[test]
    fn only_two_hex_digits_make_a_byte_token() {
        assert_eq!(byte_token("<0x41>"), Some(0x41));
        for other in ["<0x>", "<0xGG>", "<0x-1>", "<0x+1>", "<0x041>", "<0x4>", "0x41"] {
            assert_eq!(byte_token(other), None, "{other}");
        }
    }

    #[test]
    fn strip_counts_from_both_ends_and_never_twice() {
        assert_eq!(strip("  a  ", ' ', 1, 1), " a ");
        assert_eq!(strip("  ", ' ', 2, 2), "");
    }
}
