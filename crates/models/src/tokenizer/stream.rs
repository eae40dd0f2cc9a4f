//! Text from tokens: all at once, and a piece at a time without ever cutting a character.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::sync::Arc;

use super::table::TokenTable;

/// Bytes that may wait for the rest of a character. A whole token waits with its broken end, so that a piece is a token's text
/// wherever it can be; a model that writes nothing but broken ends must still be heard.
const MAX_WAITING_BYTES: usize = 64;

/// Turns tokens into text as they come.
///
/// All pieces and [`TextStream::finish`] together are the tokens' bytes read as UTF-8, each invalid part replaced by U+FFFD.
#[derive(Clone, Debug)]
pub struct TextStream {
    table: Arc<TokenTable>,
    skip_special: bool,
    waiting: Vec<u8>,
    /// No token has come yet.
    at_start: bool,
    /// Characters that may still be dropped at the start of the text.
    strip_left: usize,
}

impl TextStream {
    pub(super) fn new(table: Arc<TokenTable>, skip_special: bool) -> TextStream {
        let strip_left = table.rules.strip_start.map_or(0, |(_, count)| count);
        TextStream { table, skip_special, waiting: Vec::new(), at_start: true, strip_left }
    }

    /// The same stream in the middle of a text: the space that some tokenizers put before the first word is kept.
    #[must_use]
    pub fn continued(mut self) -> TextStream {
        (self.at_start, self.strip_left) = (false, 0);
        self
    }

    /// The text that `id` completes; empty while a character is incomplete, for a skipped special token, and for an id that is
    /// no token.
    pub fn push(&mut self, id: u32) -> String {
        if !self.table.is_known(id) || (self.skip_special && self.table.is_special(id)) {
            return String::new();
        }
        if std::mem::take(&mut self.at_start) {
            self.waiting.extend(self.table.first_bytes(id));
        } else {
            self.waiting.extend_from_slice(self.table.rules.separator.as_bytes());
            self.waiting.extend_from_slice(self.table.bytes(id));
        }
        let whole = self.waiting.len().saturating_sub(incomplete_tail(&self.waiting));
        if whole < self.waiting.len() && self.waiting.len() <= MAX_WAITING_BYTES {
            return String::new();
        }
        let rest = self.waiting.split_off(whole);
        let ready = std::mem::replace(&mut self.waiting, rest);
        self.text(&ready)
    }

    /// What is left: the bytes of a character that never became whole.
    #[must_use]
    pub fn finish(mut self) -> String {
        let rest = std::mem::take(&mut self.waiting);
        self.text(&rest)
    }

    fn text(&mut self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let mut rest = text.as_ref();
        while self.strip_left > 0 && !rest.is_empty() {
            match self.table.rules.strip_start.and_then(|(c, _)| rest.strip_prefix(c)) {
                Some(shorter) => (rest, self.strip_left) = (shorter, self.strip_left.saturating_sub(1)),
                None => self.strip_left = 0,
            }
        }
        rest.to_owned()
    }
}

/// The text of `ids` as the reference implementation writes it.
///
/// It differs from the streamed text in one place: in a run of byte tokens that is not UTF-8 as a whole, each byte is one U+FFFD.
/// A stream cannot know that when it passes the run's first characters on.
pub(super) fn decode(table: &TokenTable, ids: &[u32], skip_special: bool) -> String {
    let mut bytes = Vec::new();
    let mut run = Vec::new();
    let mut first = true;
    for &id in ids.iter().filter(|id| table.is_known(**id) && !(skip_special && table.is_special(**id))) {
        let piece = if first { table.first_bytes(id) } else { table.bytes(id).to_vec() };
        if table.is_byte(id) {
            run.extend(piece);
        } else {
            end_run(&mut run, &mut bytes);
            if !first {
                bytes.extend_from_slice(table.rules.separator.as_bytes());
            }
            bytes.extend(piece);
        }
        first = false;
    }
    end_run(&mut run, &mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let mut rest = text.as_ref();
    if let Some((content, count)) = table.rules.strip_start {
        for _ in 0..count {
            let Some(shorter) = rest.strip_prefix(content) else { break };
            rest = shorter;
        }
    }
    rest.to_owned()
}

fn end_run(run: &mut Vec<u8>, bytes: &mut Vec<u8>) {
    if std::str::from_utf8(run).is_ok() {
        bytes.append(run);
    } else {
        run.drain(..).for_each(|_| bytes.extend_from_slice("\u{fffd}".as_bytes()));
    }
}

/// How many bytes at the end begin a character whose rest may still come.
fn incomplete_tail(mut bytes: &[u8]) -> usize {
    while let Err(e) = std::str::from_utf8(bytes) {
        let bad = bytes.get(e.valid_up_to()..).unwrap_or_default();
        match e.error_len() {
            None => return bad.len(),
            Some(len) => bytes = bad.get(len..).unwrap_or_default(),
        }
    }
    0
}
