//! Byte pair encoding over a GGUF vocabulary: the same ids as the library's model, made ready in one pass over the file's lists.
//!
//! The library's model keeps every text three times and every merge in a map. A SentencePiece vocabulary of 262,144 tokens has
//! 514,000 merges, which take a second and half a gigabyte to write down. But they need not be: any two pieces whose union is a piece
//! may merge, and the union's score is the rank.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::vocabulary::Vocabulary;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use ahash::RandomState;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Result, Token};

/// A byte-pair model.
pub(in crate::tokenizer) struct Bpe {
    pub(super) vocabulary: Vocabulary,
    pub(super) rules: Rules,
}

/// How a vocabulary's tokens are found in a word.
pub(in crate::tokenizer) struct Rules {
    pub(super) merges: Merges,
    /// Takes the place of characters that are no token; neighbours become one.
    pub(super) unknown: Option<u32>,
    /// Characters that are no token become the tokens of their bytes, `<0x41>`, where all of these exist.
    pub(super) byte_fallback: bool,
    /// A word that is a token is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
}

/// Rank and union of pairs of tokens. Keyed, so that no file can choose pairs that collide.
pub(super) type Ranks = HashMap<(u32, u32), (u32, u32), RandomState>;

/// Which neighbours become one token, and which of them first.
pub(super) enum Merges {
    Ranked(Ranks),
    /// Any two pieces whose union is a piece; the best score of a union first, then the least ids of the two.
    ///
    /// Source: llama.cpp `llm_tokenizer_spm` for the scores; transformers `convert_slow_tokenizer.py`, `generate_merges`, for ties.
    Scored {
        /// Scores of all tokens, finite.
        scores: Vec<f32>,
        /// Whether merging may make or use the token.
        pieces: Vec<bool>,
        /// Bytes of the longest piece.
        longest: usize,
    },
}

/// The least merges first.
type Rank = (u32, u32, u32);

/// A part of a word.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    /// Bytes of the word; none once it is merged into its neighbour.
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// A word while it is merged.
#[derive(Default)]
struct Word {
    symbols: Vec<Symbol>,
    /// Merges that were possible when they were found: rank, place of the left part, union.
    queue: BinaryHeap<Reverse<(Rank, usize, u32)>>,
    union: String,
}

impl Bpe {
    /// Cuts `word` into characters, with what stands for those that are no token.
    fn characters(&self, word: &str) -> Word {
        let mut symbols = Word::default();
        let mut unknown: Option<(u32, usize)> = None;
        let mut buffer = [0; 4];
        for character in word.chars() {
            let text: &str = character.encode_utf8(&mut buffer);
            if let Some(id) = self.vocabulary.id(text) {
                unknown.take().into_iter().for_each(|(id, len)| symbols.push(id, len));
                symbols.push(id, text.len());
            } else if let Some(ids) = self.bytes_of(text) {
                // As the library has it, an unknown token before stays behind.
                ids.into_iter().for_each(|id| symbols.push(id, 1));
            } else if let Some(id) = self.rules.unknown {
                let before = unknown.map_or(0, |(_, len)| len);
                unknown = Some((id, before.saturating_add(text.len())));
            }
        }
        unknown.into_iter().for_each(|(id, len)| symbols.push(id, len));
        symbols
    }

    /// The byte tokens of `text`, when there is one for each byte.
    fn bytes_of(&self, text: &str) -> Option<Vec<u32>> {
        let id = |byte: u8| self.vocabulary.id(&format!("<0x{byte:02X}>"));
        if self.rules.byte_fallback { text.bytes().map(id).collect() } else { None }
    }

    fn merge(&self, word: &mut Word) {
        for at in 0..word.symbols.len() {
            self.consider(word, Some(at));
        }
        while let Some(Reverse((_, at, id))) = word.queue.pop() {
            let Some((left, right, next)) = word.pair(at) else { continue };
            // The neighbours may be others by now.
            if self.rules.merges.find(&self.vocabulary, left.id, right.id, &mut word.union).map(|(_, id)| id)
                != Some(id)
            {
                continue;
            }
            let merged = Symbol { id, len: left.len.saturating_add(right.len), next: right.next, ..left };
            word.set(at, merged);
            word.set(next, Symbol { len: 0, ..right });
            if let Some(after) = right.next.and_then(|after| word.symbols.get_mut(after)) {
                after.previous = Some(at);
            }
            self.consider(word, merged.previous);
            self.consider(word, Some(at));
        }
    }

    /// Queues the merge of the symbol at `at` with the next one, if there is one.
    fn consider(&self, word: &mut Word, at: Option<usize>) {
        let Some((at, (left, right, _))) = at.and_then(|at| Some((at, word.pair(at)?))) else { return };
        if let Some((rank, id)) = self.rules.merges.find(&self.vocabulary, left.id, right.id, &mut word.union) {
            word.queue.push(Reverse((rank, at, id)));
        }
    }
}

impl Merges {
    /// Rank and union of two tokens that may merge. `union` is work space.
    fn find(&self, vocabulary: &Vocabulary, left: u32, right: u32, union: &mut String) -> Option<(Rank, u32)> {
        match self {
            Merges::Ranked(pairs) => pairs.get(&(left, right)).map(|&(rank, id)| ((rank, 0, 0), id)),
            Merges::Scored { scores, pieces, longest } => {
                let is_piece = |id: u32| pieces.get(id as usize).copied().unwrap_or(false);
                let (left_text, right_text) = (vocabulary.text(left), vocabulary.text(right));
                if !is_piece(left) || !is_piece(right) || left_text.len().saturating_add(right_text.len()) > *longest {
                    return None;
                }
                union.clear();
                union.push_str(left_text);
                union.push_str(right_text);
                let id = vocabulary.id(union).filter(|&id| is_piece(id))?;
                let score = scores.get(id as usize).copied().unwrap_or_default();
                Some(((best_first(score), left, right), id))
            }
        }
    }
}

/// A number that is less for a greater score, in the order of `f32::total_cmp`.
fn best_first(score: f32) -> u32 {
    let bits = score.to_bits();
    // All bits of negative numbers turn, so that these rise, too; positive ones go above them.
    let rising = if bits >> 31 == 1 { !bits } else { bits | (1 << 31) };
    !rising
}

impl Word {
    fn push(&mut self, id: u32, len: usize) {
        let at = self.symbols.len();
        let previous = at.checked_sub(1);
        if let Some(last) = self.symbols.last_mut() {
            last.next = Some(at);
        }
        self.symbols.push(Symbol { id, len, previous, next: None });
    }

    /// The symbol at `at`, the one after it, and where that is; `None` when either is gone.
    fn pair(&self, at: usize) -> Option<(Symbol, Symbol, usize)> {
        let left = self.symbols.get(at).copied().filter(|left| left.len > 0)?;
        let next = left.next?;
        Some((left, self.symbols.get(next).copied()?, next))
    }

    fn set(&mut self, at: usize, symbol: Symbol) {
        if let Some(place) = self.symbols.get_mut(at) {
            *place = symbol;
        }
    }
}

impl Model for Bpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        let token = |id, from: usize, len| {
            Token::new(id, self.vocabulary.text(id).to_owned(), (from, from.saturating_add(len)))
        };
        if self.rules.ignore_merges
            && let Some(id) = self.vocabulary.id(sequence)
        {
            return Ok(vec![token(id, 0, sequence.len())]);
        }
        let mut word = self.characters(sequence);
        self.merge(&mut word);
        let mut from = 0usize;
        let left = word.symbols.iter().filter(|symbol| symbol.len > 0);
        Ok(left
            .map(|symbol| {
                let token = token(symbol.id, from, symbol.len);
                from = token.offsets.1;
                token
            })
            .collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        Some(self.vocabulary.text(id)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.vocabulary.iter().map(|(id, text)| (text.to_owned(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.vocabulary.known()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("the vocabulary of a GGUF file is not saved".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

impl fmt::Debug for Bpe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bpe").field("tokens", &self.vocabulary.known()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::models::bpe::BPE;

    #[test]
    fn greater_scores_come_first() {
        let falling = [f32::MAX, 1.0, 1e-40, 0.0, -0.0, -1e-40, -1.0, -2.0, f32::MIN];
        assert!(falling.map(best_first).is_sorted_by(|a, b| a < b));
    }

    /// The library's model with every merge of a scored vocabulary written down.
    fn library(texts: &[String], scores: &[f32], pieces: &[bool]) -> BPE {
        let id = |text: &str| texts.iter().position(|t| t == text).filter(|&id| pieces[id]);
        let mut merges = Vec::new();
        for (token, text) in texts.iter().enumerate().filter(|&(token, _)| pieces[token]) {
            for (at, _) in text.char_indices().skip(1) {
                if let (Some(left), Some(right)) = (id(&text[..at]), id(&text[at..])) {
                    merges.push((scores[token], left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let merges = merges.into_iter().map(|(_, left, right)| (texts[left].clone(), texts[right].clone())).collect();
        let vocabulary: HashMap<String, u32> = texts.iter().cloned().zip(0..).collect();
        let builder = BPE::builder().vocab_and_merges(vocabulary.into_iter().collect::<Map>(), merges);
        builder.unk_token(texts[0].clone()).fuse_unk(true).byte_fallback(true).build().unwrap()
    }

    type Map = tokenizers::models::bpe::Vocab;

    fn ids(model: &impl Model, text: &str) -> Vec<(u32, String, (usize, usize))> {
        model.tokenize(text).unwrap().into_iter().map(|t| (t.id, t.value, t.offsets)).collect()
    }

    proptest! {
        #[test]
        fn scored_vocabularies_merge_as_the_library_does(
            words in proptest::collection::btree_set("[abc]{1,6}", 1..60),
            scores in proptest::collection::vec(-4..2i32, 64),
            pieces in proptest::collection::vec(proptest::bool::weighted(0.9), 64),
            text in "[abcdA\u{e9}]{0,40}",
        ) {
            let texts: Vec<String> = ["<unk>", "<0x41>", "<0xC3>"].map(str::to_owned).into_iter().chain(words).collect();
            let scores: Vec<f32> = scores.iter().take(texts.len()).map(|&s| s as f32 / 2.0).collect();
            let mut pieces = pieces[..texts.len()].to_vec();
            pieces[..3].fill(false);
            let expected = ids(&library(&texts, &scores, &pieces), &text);
            let longest = texts.iter().map(String::len).max().unwrap();
            let ours = Bpe {
                vocabulary: Vocabulary::new(texts.iter().collect()).unwrap(),
                rules: Rules {
                    merges: Merges::Scored { scores, pieces, longest },
                    unknown: Some(0),
                    byte_fallback: true,
                    ignore_merges: false,
                },
            };
            prop_assert_eq!(ids(&ours, &text), expected);
        }

        #[test]
        fn ranked_merges_are_made_as_the_library_does(
            words in proptest::collection::btree_set("[abc]{2,6}", 1..60),
            order in any::<prop::sample::Index>(),
            ignore_merges in any::<bool>(),
            text in "[abcd]{1,40}",
        ) {
            let mut texts: Vec<String> = ["a", "b", "c"].map(str::to_owned).into_iter().chain(words).collect();
            let rotate = order.index(texts.len());
            texts.rotate_left(rotate);
            let vocabulary = Vocabulary::new(texts.iter().collect()).unwrap();
            let mut merges = Vec::new();
            for text in &texts {
                let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
                merges.extend(cuts.filter(|(l, r)| vocabulary.id(l).is_some() && vocabulary.id(r).is_some()));
            }
            let id = |text: &str| vocabulary.id(text).unwrap();
            let ranked = (0..).zip(&merges).map(|(rank, (l, r))| ((id(l), id(r)), (rank, id(&format!("{l}{r}")))));
            let ranked = Merges::Ranked(ranked.collect());
            let pairs = merges.iter().map(|(l, r)| ((*l).to_owned(), (*r).to_owned())).collect();
            let map = texts.iter().cloned().zip(0..).collect::<Map>();
            let library = BPE::builder().vocab_and_merges(map, pairs).ignore_merges(ignore_merges).build().unwrap();
            let rules = Rules { merges: ranked, unknown: None, byte_fallback: false, ignore_merges };
            let ours = Bpe { vocabulary, rules };
            prop_assert_eq!(ids(&ours, &text), ids(&library, &text));
        }
    }
}
