//! Token texts by id and ids by text, each text kept once.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::hash::{BuildHasher, RandomState};

/// No token: the mark of an empty slot.
const EMPTY: u32 = u32::MAX;

/// The texts of a vocabulary. Tokens without text have an id but cannot be found.
pub(super) struct Vocabulary {
    texts: Vec<String>,
    /// An open-addressed table of ids, at most half full. A `HashMap` would hold every text, or a pointer to it, a second time.
    slots: Vec<u32>,
    /// Keyed, so that no file can choose texts that collide.
    hasher: RandomState,
    known: usize,
}

impl Vocabulary {
    /// Takes the texts in order of ids; for a text that stands there twice, its ids.
    pub(super) fn new(texts: Vec<String>) -> Result<Vocabulary, (u32, u32)> {
        let size = texts.len().saturating_mul(2).next_power_of_two();
        let mut vocabulary = Vocabulary { texts, slots: vec![EMPTY; size], hasher: RandomState::new(), known: 0 };
        for id in 0..vocabulary.size() {
            if vocabulary.text(id).is_empty() {
                continue;
            }
            match vocabulary.place(vocabulary.text(id)) {
                (_, Some(first)) => return Err((first, id)),
                (slot, None) => {
                    if let Some(slot) = vocabulary.slots.get_mut(slot) {
                        *slot = id;
                    }
                }
            }
            vocabulary.known = vocabulary.known.saturating_add(1);
        }
        Ok(vocabulary)
    }

    /// One more than the largest id.
    pub(super) fn size(&self) -> u32 {
        u32::try_from(self.texts.len()).unwrap_or(EMPTY)
    }

    /// Tokens that have a text.
    pub(super) fn known(&self) -> usize {
        self.known
    }

    /// The text of a token; empty for one without.
    pub(super) fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).map_or("", String::as_str)
    }

    /// The token with this text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.place(text).1
    }

    /// Id and text of all tokens that have a text, in order of ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0u32..).zip(&self.texts).map(|(id, text)| (id, text.as_str())).filter(|(_, text)| !text.is_empty())
    }

    /// The slot of `text`, or the empty one where it would stand, and its id.
    fn place(&self, text: &str) -> (usize, Option<u32>) {
        // The size is a power of two.
        let mask = self.slots.len().saturating_sub(1);
        #[allow(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
        let mut slot = self.hasher.hash_one(text) as usize & mask;
        loop {
            match self.slots.get(slot) {
                Some(&id) if id != EMPTY => {
                    if self.text(id) == text {
                        return (slot, Some(id));
                    }
                }
                _ => return (slot, None),
            }
            slot = slot.wrapping_add(1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn every_text_is_found_and_no_other() {
        let all: Vec<String> = (0..5000).map(|i| format!("token {i}")).collect();
        let vocabulary = Vocabulary::new(all.clone()).unwrap();
        for (id, text) in (0..).zip(&all) {
            assert_eq!((vocabulary.id(text), vocabulary.text(id)), (Some(id), text.as_str()));
        }
        assert_eq!((vocabulary.id("token 5000"), vocabulary.id("")), (None, None));
        assert_eq!((vocabulary.size(), vocabulary.known()), (5000, 5000));
    }

    #[test]
    fn tokens_without_text_are_gaps_and_texts_are_unique() {
        let vocabulary = Vocabulary::new(texts(&["a", "", "b", ""])).unwrap();
        assert_eq!(vocabulary.iter().collect::<Vec<_>>(), [(0, "a"), (2, "b")]);
        assert_eq!((vocabulary.size(), vocabulary.known(), vocabulary.id("")), (4, 2, None));
        assert_eq!(Vocabulary::new(texts(&["a", "b", "a"])).err(), Some((0, 2)));
        assert_eq!(Vocabulary::new(Vec::new()).unwrap().id("a"), None);
    }
}
