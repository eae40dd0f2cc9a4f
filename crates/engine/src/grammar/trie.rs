//! The tokens' texts, and what the library makes of them: a trie, and masks of the tokens that any text may hold.

use super::GrammarError;
use super::compile::reason;
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use nxd_models::Tokenizer;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// The library's trie keeps ids in 24 bits.
const MAX_VOCAB_SIZE: usize = (1 << 24) - 2;
/// The library's trie is not deeper than 1024 bytes. Such a token is a run of one character, which shorter ones write as well.
const MAX_TOKEN_BYTES: usize = 1000;

/// Text of every row of the logits, end to end. Rows without one are never allowed.
pub(super) struct Words {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    eos_ids: Arc<[u32]>,
}

impl Words {
    pub(super) fn new(tokenizer: &Tokenizer, vocab_size: usize, eos_ids: &[u32]) -> Result<Words, GrammarError> {
        if vocab_size == 0 || vocab_size > MAX_VOCAB_SIZE {
            let reason = format!("the logits have {vocab_size} rows, 1 to {MAX_VOCAB_SIZE} are possible");
            return Err(GrammarError::Tokenizer { reason });
        }
        let rows = 0..u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let eos_ids: Arc<[u32]> = eos_ids.iter().copied().filter(|id| rows.contains(id)).collect();
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(vocab_size));
        for id in rows {
            let text = tokenizer.token_bytes(id);
            if tokenizer.is_special(id) || eos_ids.contains(&id) {
                // The mark keeps it from being matched as text: a control token inside a string would end it, or vanish.
                bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
                bytes.extend(text.iter().take(MAX_TOKEN_BYTES));
            } else if text.len() <= MAX_TOKEN_BYTES && !text.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
                // The byte that serves as the mark is part of no UTF-8 text.
                bytes.extend(text);
            }
            ends.push(bytes.len());
        }
        Ok(Words { bytes, ends, eos_ids })
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn eos_ids(&self) -> Arc<[u32]> {
        Arc::clone(&self.eos_ids)
    }

    /// The token that is marked as no text and is called so.
    pub(super) fn special_id(&self, text: &str) -> Option<u32> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let is_it = |(start, &end): (usize, &usize)| {
            let word = self.bytes.get(start..end).unwrap_or_default();
            word.split_first() == Some((&TokTrie::SPECIAL_TOKEN_MARKER, text.as_bytes()))
        };
        starts.zip(&self.ends).position(is_it).and_then(|index| u32::try_from(index).ok())
    }

    /// What constraints are compiled with. Takes tens of milliseconds for a large vocabulary.
    pub(super) fn factory(&self) -> Result<ParserFactory, GrammarError> {
        // The trie asserts what it expects of its words.
        catch_unwind(AssertUnwindSafe(|| {
            let caps = InferenceCapabilities::default();
            let mut factory = ParserFactory::new(&self.token_env(), caps, &SlicedBiasComputer::general_slices())?;
            factory.quiet();
            *factory.limits_mut() = limits();
            Ok(factory)
        }))
        .map_err(|e| GrammarError::Tokenizer { reason: reason(&e.to_string()) })
    }

    fn token_env(&self) -> TokEnv {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let words: Vec<Vec<u8>> = starts
            .zip(&self.ends)
            .map(|(start, &end)| self.bytes.get(start..end).unwrap_or_default().to_vec())
            .collect();
        let first = self.eos_ids.first().copied().unwrap_or(INVALID_TOKEN);
        let info = TokRxInfo::new(u32::try_from(words.len()).unwrap_or(u32::MAX), first);
        let mut trie = TokTrie::from(&info, &words);
        if self.eos_ids.len() > 1 {
            trie = trie.with_eos_tokens(&self.eos_ids);
        }
        // This environment lets the model choose how a text is cut into tokens: nothing is forced, so it never has to encode.
        Arc::new(ApproximateTokEnv::new(trie))
    }
}

/// What one constraint may cost. By the library's own figures: compiling 20 ms, one mask 15 ms, and a state of the lexer 2 kB.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 50_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        // Errors go to whoever sent the constraint: without the parser's state and the grammar once more.
        verbose_errors: false,
    }
}
