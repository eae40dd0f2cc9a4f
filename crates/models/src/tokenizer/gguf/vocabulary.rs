//! Token texts by id and ids by text, each text kept once.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use ahash::RandomState;

use crate::strings::Strings;

/// The texts of a vocabulary. Tokens without text have an id but cannot be found.
pub(super) struct Vocabulary {
    texts: Strings,
    /// An open-addressed table, at most half full. A `HashMap` would hold every text, or a pointer to it, a second time.
    slots: Vec<Slot>,
    /// Keyed, so that no file can choose texts that collide.
    hasher: RandomState,
    known: usize,
}

/// A place for an id.
#[derive(Clone, Copy)]
struct Slot {
    id: u32,
    /// Bits of the text's hash, so that few texts are looked at in vain.
    mark: u32,
}

/// No token.
const EMPTY: Slot = Slot { id: u32::MAX, mark: 0 };

impl Vocabulary {
    /// Takes the texts in order of ids; for a text that stands there twice, its ids.
    pub(super) fn new(texts: Strings) -> Result<Vocabulary, (u32, u32)> {
        let size = texts.len().saturating_mul(2).next_power_of_two();
        let mut slots = vec![EMPTY; size];
        let mut vocabulary = Vocabulary { texts, slots: Vec::new(), hasher: RandomState::new(), known: 0 };
        for (id, text) in vocabulary.iter() {
            match vocabulary.place(&slots, text) {
                Place { id: Some(first), .. } => return Err((first, id)),
                Place { slot, mark, .. } => {
                    if let Some(slot) = slots.get_mut(slot) {
                        *slot = Slot { id, mark };
                    }
                }
            }
        }
        vocabulary.known = vocabulary.iter().count();
        vocabulary.slots = slots;
        Ok(vocabulary)
    }

    /// One more than the largest id.
    pub(super) fn size(&self) -> u32 {
        u32::try_from(self.texts.len()).unwrap_or(EMPTY.id)
    }

    /// Tokens that have a text.
    pub(super) fn known(&self) -> usize {
        self.known
    }

    /// The text of a token; empty for one without.
    pub(super) fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).unwrap_or_default()
    }

    /// The token with this text.
    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.place(&self.slots, text).id
    }

    /// Id and text of all tokens that have a text, in order of ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.size()).zip(self.texts.iter()).filter(|(_, text)| !text.is_empty())
    }

    /// Where `text` stands in `slots`, or would.
    fn place(&self, slots: &[Slot], text: &str) -> Place {
        // The size is a power of two.
        let mask = slots.len().saturating_sub(1);
        let hash = self.hasher.hash_one(text);
        #[allow(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
        let (mut slot, mark) = (hash as usize & mask, (hash >> 32) as u32);
        loop {
            match slots.get(slot) {
                Some(&found) if found.id != EMPTY.id => {
                    if found.mark == mark && self.text(found.id) == text {
                        return Place { slot, mark, id: Some(found.id) };
                    }
                }
                _ => return Place { slot, mark, id: None },
            }
            slot = slot.wrapping_add(1) & mask;
        }
    }
}

/// Where a text stands, or would.
struct Place {
    slot: usize,
    mark: u32,
    /// Its id, where it stands there.
    id: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_found_and_no_other() {
        let all: Vec<String> = (0..5000).map(|i| format!("token {i}")).collect();
        let vocabulary = Vocabulary::new(all.iter().collect()).unwrap();
        for (id, text) in (0..).zip(&all) {
            assert_eq!((vocabulary.id(text), vocabulary.text(id)), (Some(id), text.as_str()));
        }
        assert_eq!((vocabulary.id("token 5000"), vocabulary.id("")), (None, None));
        assert_eq!((vocabulary.size(), vocabulary.known()), (5000, 5000));
    }

    #[test]
    fn tokens_without_text_are_gaps_and_texts_are_unique() {
        let vocabulary = Vocabulary::new(["a", "", "b", ""].iter().collect()).unwrap();
        assert_eq!(vocabulary.iter().collect::<Vec<_>>(), [(0, "a"), (2, "b")]);
        assert_eq!((vocabulary.size(), vocabulary.known(), vocabulary.id("")), (4, 2, None));
        assert_eq!(Vocabulary::new(["a", "b", "a"].iter().collect()).err(), Some((0, 2)));
        assert_eq!(Vocabulary::new(Strings::default()).unwrap().id("a"), None);
    }
}
