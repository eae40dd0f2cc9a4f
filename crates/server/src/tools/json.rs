//! JSON read a character at a time, with nothing kept but the brackets that are open.
//!
//! A call's arguments go to the client while the model still writes them, so whether they are JSON is known at every
//! character and not only at the end. Strict, but for numbers out of range and lone surrogates, which clients' parsers
//! read each in their own way.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

/// Most brackets open at once: the next request brings the call back, and JSON parsers refuse more than 127.
const MAX_DEPTH: usize = 100;

/// What a character was a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A key, its quotes included.
    Key,
    /// The colon behind a key.
    Colon,
    /// A string, number or literal, or a bracket.
    Value,
    /// Space or a comma.
    Between,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bracket {
    Object,
    Array,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Value,
    FirstItem,
    FirstKey,
    Key,
    Colon,
    After,
    String { key: bool },
    Escape { key: bool },
    Hex { key: bool, left: u8 },
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Literal(&'static str),
}

/// Reads one JSON value.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    open: Vec<Bracket>,
    at: At,
}

impl Scanner {
    pub(super) fn new() -> Scanner {
        Scanner { open: Vec::new(), at: At::Value }
    }

    /// Brackets that are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether the last character ended a string, a literal or a bracket's value; a number's end only shows behind it.
    pub(super) fn ended_value(&self) -> bool {
        self.at == At::After
    }

    /// Reads a character; `None` when what was read so far begins no JSON value.
    pub(super) fn push(&mut self, c: char) -> Option<Part> {
        let space = matches!(c, ' ' | '\t' | '\n' | '\r');
        let (at, part) = match self.at {
            At::Value | At::FirstItem | At::FirstKey | At::Key | At::Colon | At::After if space => {
                return Some(Part::Between);
            }
            At::FirstItem if c == ']' => return self.close(Bracket::Array),
            At::Value | At::FirstItem => return self.value(c),
            At::FirstKey if c == '}' => return self.close(Bracket::Object),
            At::FirstKey | At::Key if c == '"' => (At::String { key: true }, Part::Key),
            At::Colon if c == ':' => (At::Value, Part::Colon),
            At::After => return self.after(c),
            At::String { key } => (Self::string(key, c)?, Self::part(key)),
            At::Escape { key } => match c {
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => (At::String { key }, Self::part(key)),
                'u' => (At::Hex { key, left: 4 }, Self::part(key)),
                _ => return None,
            },
            At::Hex { key, left } if c.is_ascii_hexdigit() => match left.saturating_sub(1) {
                0 => (At::String { key }, Self::part(key)),
                left => (At::Hex { key, left }, Self::part(key)),
            },
            At::Minus if c == '0' => (At::Zero, Part::Value),
            At::Minus | At::Digits if c.is_ascii_digit() => (At::Digits, Part::Value),
            At::Zero | At::Digits if c == '.' => (At::Point, Part::Value),
            At::Point | At::Fraction if c.is_ascii_digit() => (At::Fraction, Part::Value),
            At::Zero | At::Digits | At::Fraction if matches!(c, 'e' | 'E') => (At::Exponent, Part::Value),
            At::Exponent if matches!(c, '+' | '-') => (At::ExponentSign, Part::Value),
            At::Exponent | At::ExponentSign | At::ExponentDigits if c.is_ascii_digit() => {
                (At::ExponentDigits, Part::Value)
            }
            At::Zero | At::Digits | At::Fraction | At::ExponentDigits => return self.after(c),
            At::Literal(rest) => match rest.strip_prefix(c)? {
                "" => (At::After, Part::Value),
                rest => (At::Literal(rest), Part::Value),
            },
            _ => return None,
        };
        self.at = at;
        Some(part)
    }

    fn part(key: bool) -> Part {
        if key { Part::Key } else { Part::Value }
    }

    fn string(key: bool, c: char) -> Option<At> {
        match c {
            '"' if key => Some(At::Colon),
            '"' => Some(At::After),
            '\\' => Some(At::Escape { key }),
            '\0'..'\u{20}' => None,
            _ => Some(At::String { key }),
        }
    }

    fn value(&mut self, c: char) -> Option<Part> {
        self.at = match c {
            '{' => self.open(Bracket::Object)?,
            '[' => self.open(Bracket::Array)?,
            '"' => At::String { key: false },
            '-' => At::Minus,
            '0' => At::Zero,
            '1'..='9' => At::Digits,
            't' => At::Literal("rue"),
            'f' => At::Literal("alse"),
            'n' => At::Literal("ull"),
            _ => return None,
        };
        Some(Part::Value)
    }

    fn after(&mut self, c: char) -> Option<Part> {
        match (c, self.open.last()?) {
            (']', Bracket::Array) => self.close(Bracket::Array),
            ('}', Bracket::Object) => self.close(Bracket::Object),
            (',', Bracket::Array) => self.go_on(At::Value),
            (',', Bracket::Object) => self.go_on(At::Key),
            (' ' | '\t' | '\n' | '\r', _) => self.go_on(At::After),
            _ => None,
        }
    }

    fn go_on(&mut self, at: At) -> Option<Part> {
        self.at = at;
        Some(Part::Between)
    }

    fn open(&mut self, bracket: Bracket) -> Option<At> {
        if self.open.len() >= MAX_DEPTH {
            return None;
        }
        self.open.push(bracket);
        Some(match bracket {
            Bracket::Object => At::FirstKey,
            Bracket::Array => At::FirstItem,
        })
    }

    fn close(&mut self, bracket: Bracket) -> Option<Part> {
        self.at = At::After;
        (self.open.pop()? == bracket).then_some(Part::Value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether an array that holds `text` is JSON.
    fn is_json(text: &str) -> bool {
        let mut scanner = Scanner::new();
        let mut chars = "[".chars().chain(text.chars()).chain("]".chars());
        chars.all(|c| scanner.push(c).is_some()) && scanner.depth() == 0
    }

    #[test]
    fn valid_values_are_read() {
        let all =
            r#"0|-0|12|-1.50|1e5|0E-3|2.5e+10|""|"a\"\\\/\b\u00e9\uD83d😀"|true|false|null|[]|{}|[ ]|{ } |[1 , [2]]"#;
        let objects = r#"{"a":1,"b" : [{"c":{}}] }|{"a":"}{]["}|{"":null}"#;
        for text in all.split('|').chain(objects.split('|')) {
            assert!(is_json(text), "{text}");
        }
    }

    #[test]
    fn invalid_values_are_refused() {
        let all = "01|-|1.|.5|1e|+1|tru|nulll|True|'a'|\"|\"\\x\"|\"\\u12g4\"|{|}|]|{a:1}|{\"a\"}|{\"a\":}|{\"a\":1,}|[1,]|[,]|[1 2]";
        for text in all.split('|').chain(["\"\n\"", "\"\u{1}\"", "{\"a\":1]", "[1}", "//", "NaN", "1,,2", "\u{a0}1"]) {
            assert!(!is_json(text), "{text}");
        }
    }

    #[test]
    fn depth_has_an_end() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(is_json(&deep(MAX_DEPTH - 1)) && !is_json(&deep(MAX_DEPTH)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_whole_parser(text in r#"[\[\]{}",:\\0-2.eE+\-tu a]{0,12}"#) {
            let wrapped = format!("[{text}]");
            match serde_json::from_str::<serde_json::Value>(&wrapped) {
                Ok(_) => prop_assert!(is_json(&text)),
                Err(error) if error.to_string().contains("out of range") => {}
                Err(_) => prop_assert!(!is_json(&text)),
            }
        }

        #[test]
        fn agrees_on_what_is_nearly_json(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\n\"", "1", "-2.5e3", "true", "null", " ", "{\"k\":1}",
            ]), 0..12)
        ) {
            let text = pieces.concat();
            let valid = serde_json::from_str::<serde_json::Value>(&format!("[{text}]")).is_ok();
            prop_assert_eq!(is_json(&text), valid);
        }
    }
}
