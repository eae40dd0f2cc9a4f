//! A call written as one JSON object, `{"name": …, "arguments": {…}}`, read a character at a time.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::json::{Part, Scanner};
use std::mem;

/// Most bytes of a key or a name as written: a name has at most 64 characters, escaped each at most six bytes.
const MAX_WRITTEN_BYTES: usize = 512;

/// What a character of a call's object was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing to send.
    Frame,
    /// Name and arguments are both there: the call can be announced, with its arguments as far as they came.
    Begins { name: String, arguments: String },
    /// A part of an announced call's arguments.
    Argument,
    /// The end of the object.
    Done,
}

/// What the value at hand says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Other,
}

/// Reads a call's object.
#[derive(Clone, Debug)]
pub(super) struct CallReader {
    scanner: Scanner,
    /// Whether only the keys of a call may stand in the object.
    strict: bool,
    field: Field,
    key: String,
    written_name: String,
    name: Option<String>,
    /// Arguments that came before the name.
    waiting: String,
    has_arguments: bool,
    announced: bool,
}

impl CallReader {
    /// A reader at an opening brace. A `strict` one takes no object that has other keys than a call's.
    pub(super) fn new(strict: bool) -> CallReader {
        CallReader {
            scanner: Scanner::new(),
            strict,
            field: Field::Other,
            key: String::new(),
            written_name: String::new(),
            name: None,
            waiting: String::new(),
            has_arguments: false,
            announced: false,
        }
    }

    /// Whether the arguments are complete.
    pub(super) fn has_all_arguments(&self) -> bool {
        self.has_arguments && !self.in_arguments()
    }

    /// Reads a character; `None` when this is no call of a `known` function.
    pub(super) fn push(&mut self, c: char, known: &[String]) -> Option<Seen> {
        let before = self.scanner.depth();
        let part = self.scanner.push(c)?;
        let depth = self.scanner.depth();
        match (before, depth) {
            (0, _) => return (c == '{').then_some(Seen::Frame),
            (_, 0) => return self.announced.then_some(Seen::Done),
            (1, 1) => {}
            _ => return self.nested(c),
        }
        match (part, self.field) {
            (Part::Key, _) => Self::write(&mut self.key, c)?,
            (Part::Colon, _) => self.field = self.begin_field()?,
            (Part::Value, Field::Name) => {
                Self::write(&mut self.written_name, c)?;
                if self.scanner.ended_value() {
                    return self.named(known);
                }
            }
            (Part::Value, Field::Arguments) => return None,
            (Part::Value, Field::Other) | (Part::Between, _) => {}
        }
        Some(Seen::Frame)
    }

    fn in_arguments(&self) -> bool {
        self.field == Field::Arguments && self.scanner.depth() > 1
    }

    fn write(text: &mut String, c: char) -> Option<()> {
        text.push(c);
        (text.len() <= MAX_WRITTEN_BYTES).then_some(())
    }

    fn begin_field(&mut self) -> Option<Field> {
        let key: String = serde_json::from_str(&mem::take(&mut self.key)).ok()?;
        match key.as_str() {
            "name" if self.written_name.is_empty() => Some(Field::Name),
            "arguments" | "parameters" if !self.has_arguments => Some(Field::Arguments),
            "name" | "arguments" | "parameters" => None,
            "type" => Some(Field::Other),
            _ => (!self.strict).then_some(Field::Other),
        }
    }

    /// A character within a value that has brackets, or one of its brackets.
    fn nested(&mut self, c: char) -> Option<Seen> {
        match self.field {
            Field::Name => None,
            Field::Other => Some(Seen::Frame),
            Field::Arguments if !self.has_arguments => {
                self.has_arguments = true;
                self.waiting.push(c);
                if c == '{' { Some(self.announce()) } else { None }
            }
            Field::Arguments if self.announced => Some(Seen::Argument),
            Field::Arguments => {
                self.waiting.push(c);
                Some(Seen::Frame)
            }
        }
    }

    fn named(&mut self, known: &[String]) -> Option<Seen> {
        let name: String = serde_json::from_str(&self.written_name).ok()?;
        if !known.contains(&name) {
            return None;
        }
        self.name = Some(name);
        Some(self.announce())
    }

    fn announce(&mut self) -> Seen {
        match self.name.take_if(|_| self.has_arguments) {
            Some(name) => {
                self.announced = true;
                Seen::Begins { name, arguments: mem::take(&mut self.waiting) }
            }
            None => Seen::Frame,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The call's name and arguments; `None` for no call.
    fn read(text: &str, strict: bool) -> Option<(String, String)> {
        let known = ["f".to_owned(), "größe".to_owned()];
        let mut reader = CallReader::new(strict);
        let mut call = None;
        for c in text.chars() {
            match (reader.push(c, &known)?, &mut call) {
                (Seen::Begins { name, arguments }, call) => *call = Some((name, arguments)),
                (Seen::Argument, Some((_, arguments))) => arguments.push(c),
                (Seen::Argument, None) => panic!("arguments before the call"),
                (Seen::Done, _) => {
                    assert!(reader.has_all_arguments());
                    return call;
                }
                (Seen::Frame, _) => {}
            }
        }
        panic!("no end")
    }

    fn f(arguments: &str) -> Option<(String, String)> {
        Some(("f".to_owned(), arguments.to_owned()))
    }

    #[test]
    fn keys_come_in_any_order() {
        assert_eq!(read(r#"{"name": "f", "arguments": {"a": {"b": [1]}}}"#, true), f(r#"{"a": {"b": [1]}}"#));
        assert_eq!(read(r#"{ "parameters" :{ } , "name":"f"}"#, true), f("{ }"));
        assert_eq!(read(r#"{"type":"function","name":"f","parameters":{}}"#, true), f("{}"));
        assert_eq!(read(r#"{"id": 7, "name":"f","x":{"name":"g"},"arguments":{},"y":[null]}"#, false), f("{}"));
    }

    #[test]
    fn names_may_be_escaped() {
        let call = read(r#"{"name": "gr\u00f6\u00dfe", "arguments": {}}"#, true);
        assert_eq!(call, Some(("größe".to_owned(), "{}".to_owned())));
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let long = format!(r#"{{"name": "{}", "arguments": {{}}}}"#, "f".repeat(600));
        for text in [
            "[]",
            "{}",
            r#"{"name": "f"}"#,
            r#"{"arguments": {}}"#,
            r#"{"name": "g", "arguments": {}}"#,
            r#"{"name": 1, "arguments": {}}"#,
            r#"{"name": {"name": "f"}, "arguments": {}}"#,
            r#"{"name": "f", "arguments": "{}"}"#,
            r#"{"name": "f", "arguments": []}"#,
            r#"{"name": "f", "arguments": null}"#,
            r#"{"name": "f", "name": "f", "arguments": {}}"#,
            r#"{"name": "f", "arguments": {}, "parameters": {}}"#,
            r#"{"name": "f", "arguments": {]}"#,
            long.as_str(),
        ] {
            assert_eq!(read(text, false), None, "{text}");
        }
        assert_eq!(read(r#"{"name": "f", "x": 1, "arguments": {}}"#, true), None);
    }
}
