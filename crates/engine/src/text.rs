//! Text from a request's tokens: detokenised as they come, ended by stop strings.

use nxd_models::tokenizer::TextStream;

/// The text of one completion. Tokens go in one at a time; text comes out as soon as it is sure to stay.
///
/// The text leaves out stop ids and everything from a stop string on. Where the text is cut depends on its characters alone, not on how
/// they are spread over tokens: the stop string that is complete first ends it, of several the one that began first.
#[derive(Clone, Debug)]
pub struct Generation {
    /// `None` without a tokenizer: the text is empty.
    stream: Option<TextStream>,
    stop_ids: Vec<u32>,
    stop_strings: Vec<String>,
    /// Whether what stops the text stays in it.
    include_stop: bool,
    /// Text that may turn out to be the start of a stop string.
    held: String,
    /// Index of the stop string that the text has come to.
    stopped: Option<usize>,
}

impl Generation {
    /// An empty text. Empty stop strings are left out of account.
    pub fn new(stream: Option<TextStream>, stop_ids: Vec<u32>, stop_strings: Vec<String>) -> Self {
        let stop_strings = stop_strings.into_iter().filter(|s| !s.is_empty()).collect();
        Generation { stream, stop_ids, stop_strings, include_stop: false, held: String::new(), stopped: None }
    }

    /// Says whether the stop string, or the text of the stop id, stays in the text.
    pub fn include_stop(&mut self, include: bool) {
        self.include_stop = include;
    }

    /// Takes the next token; returns the text that is sure now.
    pub fn push(&mut self, token: u32) -> String {
        if self.stopped() || (!self.include_stop && self.stop_ids.contains(&token)) {
            return String::new();
        }
        let piece = self.stream.as_mut().map_or_else(String::new, |stream| stream.push(token));
        self.take(&piece)
    }

    /// Whether the text has come to a stop string: its request can be aborted.
    pub fn stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// The stop string that the text has come to.
    pub fn stop_string(&self) -> Option<&str> {
        self.stopped.map(|index| self.stop_strings[index].as_str())
    }

    /// Ends the text; returns what was held back, the rest of a broken character included.
    pub fn finish(&mut self) -> String {
        let Some(stream) = self.stream.take() else { return String::new() };
        if self.stopped() {
            return String::new();
        }
        let sure = self.take(&stream.finish());
        sure + &std::mem::take(&mut self.held)
    }

    /// Adds `piece`, cuts at a stop string, and gives what cannot be part of one.
    fn take(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        // What was held before contains no stop string, so a match has just become complete.
        let found = |(index, s): (usize, &String)| self.held.find(s.as_str()).map(|at| (at + s.len(), at, index));
        if let Some((end, at, index)) = self.stop_strings.iter().enumerate().filter_map(found).min() {
            self.stopped = Some(index);
            self.held.truncate(if self.include_stop { end } else { at });
            return std::mem::take(&mut self.held);
        }
        let kept = self.stop_strings.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Bytes of the longest end of `text` that is a start of `stop`, all of it excluded.
fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| at).filter(|&at| at > 0 && at <= text.len());
    starts.rev().find(|&len| text.as_bytes().ends_with(&stop.as_bytes()[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds whole pieces, as a tokenizer would give them.
    fn run(pieces: &[&str], stops: &[&str]) -> (Vec<String>, bool) {
        let mut text = Generation::new(None, Vec::new(), stops.iter().map(|s| (*s).to_owned()).collect());
        let mut out: Vec<String> = Vec::new();
        for piece in pieces {
            if text.stopped() {
                break;
            }
            out.push(text.take(piece));
        }
        if !text.stopped() {
            out.push(std::mem::take(&mut text.held));
        }
        (out, text.stopped())
    }

    #[test]
    fn text_that_may_begin_a_stop_string_is_held_back() {
        let (out, stopped) = run(&["ab", "\n", "\n", "c"], &["\n\n"]);
        assert_eq!((out, stopped), (vec!["ab".into(), String::new(), String::new()], true));
        let (out, stopped) = run(&["ab\n", "c\n"], &["\n\n"]);
        assert_eq!((out, stopped), (vec!["ab".into(), "\nc".into(), "\n".into()], false));
    }

    #[test]
    fn the_stop_string_that_is_complete_first_counts() {
        assert_eq!(run(&["xabcd"], &["abcd", "bc"]).0.concat(), "xa");
        assert_eq!(run(&["xabc"], &["bc", "abc"]).0.concat(), "x");
        assert_eq!(run(&["aab"], &["ab"]).0.concat(), "a");
        assert_eq!(run(&["é", "à"], &["éé", "à"]).0.concat(), "é");
        assert_eq!(run(&["abc"], &["", "d"]), (vec!["abc".into(), String::new()], false));
    }

    proptest! {
        #[test]
        fn the_cut_does_not_depend_on_the_pieces(
            text in "[abé]{0,24}",
            stops in proptest::collection::vec("[abé]{1,4}", 0..3),
            cuts in proptest::collection::vec(1usize..5, 24),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let characters: Vec<String> = text.chars().map(String::from).collect();
            let mut pieces = Vec::new();
            let (mut rest, mut cuts) = (characters.as_slice(), cuts.iter());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                pieces.push(piece.concat());
                rest = later;
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let single: Vec<&str> = characters.iter().map(String::as_str).collect();
            let (one, stopped) = run(&single, &stops);
            let (other, other_stopped) = run(&pieces, &stops);
            prop_assert_eq!(one.concat(), other.concat());
            prop_assert_eq!(stopped, other_stopped);
            prop_assert_eq!(stopped, stops.iter().any(|s| text.contains(s)));
            prop_assert!(text.starts_with(&one.concat()));
            prop_assert!(stops.iter().all(|s| !one.concat().contains(s)));
        }
    }
}
