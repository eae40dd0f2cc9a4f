//! Limits of regular expressions: their length, and their length when counted repetitions are written out.

use super::GrammarError;
use super::limits::at_most;
use std::iter::Peekable;
use std::str::Chars;

const MAX_REGEX_BYTES: usize = 2 << 10;
/// A repetition costs a state for each time; no completion is as long.
const MAX_WRITTEN_OUT: usize = 100_000;

/// Refuses a regular expression, which messages call `what`, that is too large or that the library reads in its own way.
pub(super) fn check(what: &str, regex: &str) -> Result<(), GrammarError> {
    at_most(what, regex.len(), "bytes", MAX_REGEX_BYTES)?;
    let size = written_out(regex);
    at_most(what, size.unwrap_or(0), "characters when its repetitions are written out", MAX_WRITTEN_OUT)?;
    let reason = if size.is_none() {
        // Parsers disagree on what that is.
        "it repeats `^` or `$`; write what is repeated before `*`, `+`, `?` or `{`"
    } else if regex.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1 {
        // The library would drop it.
        "it ends in a single backslash; write `\\\\` for a backslash"
    } else if regex.contains("(?P<stop>") || regex.contains("(?<stop>") {
        // The library takes it for a look-ahead.
        "a group is named `stop`; use another name"
    } else {
        return Ok(());
    };
    Err(GrammarError::Refused { what: "regular expression", reason: reason.to_owned() })
}

/// Atoms of the expression after every `{n}` is applied; `None` when an anchor is repeated. An estimate: the library's parser decides what
/// is well-formed.
fn written_out(regex: &str) -> Option<usize> {
    // Of each open group: atoms before its last one, and the size of the last one, to which a repetition applies.
    let mut open = vec![(0usize, 0usize)];
    let mut rest = regex.chars().peekable();
    let mut anchor = false;
    while let Some(c) = rest.next() {
        if anchor && matches!(c, '*' | '+' | '?' | '{') {
            return None;
        }
        anchor = matches!(c, '^' | '$');
        let size = match c {
            '\\' => {
                escape(&mut rest);
                1
            }
            '[' => {
                class(&mut rest);
                1
            }
            '(' => {
                // What follows `(?` is a kind of group, not a repetition of it.
                rest.next_if_eq(&'?');
                open.push((0, 0));
                continue;
            }
            ')' if open.len() > 1 => {
                let (before, last) = open.pop().unwrap_or_default();
                before.saturating_add(last)
            }
            '{' => {
                let times = repetition(&mut rest);
                if let Some((_, last)) = open.last_mut() {
                    *last = last.saturating_mul(times.max(1));
                }
                continue;
            }
            '*' | '+' | '?' | '|' | '^' | '$' => continue,
            _ => 1,
        };
        if let Some((before, last)) = open.last_mut() {
            *before = before.saturating_add(*last);
            *last = size;
        }
    }
    Some(open.iter().fold(0, |sum, (before, last)| sum.saturating_add(*before).saturating_add(*last)))
}

/// The larger bound of `{m}`, `{m,}` or `{m,n}`, whose brace is read.
fn repetition(rest: &mut Peekable<Chars<'_>>) -> usize {
    let bounds: String = rest.by_ref().take_while(|c| *c != '}').collect();
    let largest = |text: &str| if text.is_empty() { 0 } else { text.parse().unwrap_or(usize::MAX) };
    bounds.split(',').map(|bound| largest(bound.trim())).max().unwrap_or(0)
}

/// Reads what a backslash stands before, such as `p{Letter}`.
fn escape(rest: &mut Peekable<Chars<'_>>) {
    let braces = matches!(rest.next(), Some('p' | 'P' | 'x' | 'u' | 'U' | 'b')) && rest.peek() == Some(&'{');
    if braces {
        let _ = rest.find(|c| *c == '}');
    }
}

/// Reads a class to its end; classes may stand in classes.
fn class(rest: &mut Peekable<Chars<'_>>) {
    let mut level = 1;
    rest.next_if_eq(&'^');
    rest.next_if_eq(&']');
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(rest),
            '[' => {
                level += 1;
                rest.next_if_eq(&'^');
                rest.next_if_eq(&']');
            }
            ']' => level -= 1,
            _ => {}
        }
        if level == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{check, written_out};

    #[test]
    fn repetitions_multiply_and_classes_are_one_character() {
        for (regex, size) in [
            ("", 0),
            ("abc", 3),
            ("ab{3}c", 5),
            ("(ab){3,5}c*", 11),
            ("(a{10}|[b{9}]x?){2}", 24),
            (r"\{\p{Greek}{4}\x{41}", 6),
            (r"^[]a]{2}[^]]{3}[a[^]b]{9}]{4}$", 9),
            ("(?:a{1000}){1000}", 1_001_000),
            ("a{99999999999999999999999}", usize::MAX),
        ] {
            assert_eq!(written_out(regex), Some(size), "{regex}");
        }
    }

    #[test]
    fn what_the_library_would_read_in_its_own_way_is_refused() {
        for regex in [r"a\", r"a\\\", "(?P<stop>a)", "(?<stop>a)", "^+a", "a${2}"] {
            assert!(check("regular expression", regex).is_err(), "{regex}");
        }
        for regex in [r"a\\", r"\^+", "[^+]", "[$^]*", "(?:^|x)+"] {
            check("regular expression", regex).unwrap();
        }
    }
}
