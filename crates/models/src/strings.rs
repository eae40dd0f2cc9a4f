//! A list of texts in one piece of memory.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use std::ops::Range;

/// A list of texts in one piece of memory: a vocabulary has hundreds of thousands, which one by one take longer to allocate than to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    /// One after the other.
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Strings {
    /// The texts that follow each other in `bytes` and end at `ends`; `None` unless all are UTF-8.
    pub(crate) fn from_bytes(bytes: Vec<u8>, ends: Vec<usize>) -> Option<Self> {
        let text = String::from_utf8(bytes).ok()?;
        // As a whole they may be UTF-8 where none of them is.
        let whole = ends.is_sorted() && ends.iter().all(|&end| text.is_char_boundary(end));
        whole.then_some(Strings { text, ends })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.text.get(self.range(index)?)
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    /// Adds a text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    fn range(&self, index: usize) -> Option<Range<usize>> {
        let start = index.checked_sub(1).map_or(Some(&0), |before| self.ends.get(before))?;
        Some(*start..*self.ends.get(index)?)
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(texts: I) -> Self {
        let mut strings = Strings::default();
        texts.into_iter().for_each(|text| strings.push(text.as_ref()));
        strings
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_are_given_back_as_they_were(texts in prop::collection::vec("[a\u{e9}\u{6cb3}]{0,4}", 0..8)) {
            let strings: Strings = texts.iter().collect();
            prop_assert_eq!(strings.len(), texts.len());
            prop_assert_eq!(strings.iter().collect::<Vec<_>>(), texts.iter().collect::<Vec<_>>());
            prop_assert_eq!(strings.get(texts.len()), None);
        }

        #[test]
        fn bytes_become_texts_exactly_where_each_is_utf_8(
            parts in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![b'a', 0xc3, 0xa9]), 0..3), 0..4),
        ) {
            let expected: Option<Vec<&str>> = parts.iter().map(|part| std::str::from_utf8(part).ok()).collect();
            let ends = parts.iter().scan(0, |end, part| {
                *end += part.len();
                Some(*end)
            });
            let strings = Strings::from_bytes(parts.concat(), ends.collect());
            prop_assert_eq!(strings.as_ref().map(|strings| strings.iter().collect()), expected);
        }
    }
}
