//! Calls in a model's text, found while it is written.
//!
//! One state machine that reads each character once, so that the same text gives the same deltas however it is cut into
//! pieces. Only what may still turn out to be the frame of a call is held back; arguments go out as they come.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::Format;
use super::call::{CallReader, Seen};
use super::json::Scanner;
use std::mem;
use std::sync::Arc;

/// How calls are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syntax {
    /// What stands before a call. Its first character is nowhere else in it, so that a search never has to step back.
    pub(super) opening: Option<&'static str>,
    /// What stands behind a call or a list of calls; models forget it, so calls count without it.
    pub(super) closing: Option<&'static str>,
    /// Whether a call may stand without `opening` where nothing but calls comes before it, and `;` between calls.
    pub(super) bare: bool,
    /// Whether a call may be a name, then its arguments.
    pub(super) name_first: bool,
}

impl Syntax {
    /// What stands before and behind every call, and nowhere else; `None` where calls may stand without.
    pub(super) fn frame(self) -> Option<(&'static str, &'static str)> {
        if self.bare || self.name_first { None } else { self.opening.zip(self.closing) }
    }
}

/// Calls without a frame: the text is constrained to be nothing else.
const FORCED: Syntax = Syntax { opening: None, closing: None, bare: false, name_first: false };

/// A piece of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Text.
    Content(String),
    /// A call begins.
    Call {
        /// Calls before this one.
        index: usize,
        /// The function.
        name: String,
    },
    /// More of a call's arguments, as the model wrote them; all of them together are a JSON object.
    Arguments {
        /// Calls before this one.
        index: usize,
        /// Text to append.
        text: String,
    },
}

/// Where in the text the parser is.
#[derive(Clone, Debug)]
enum Place {
    /// In content, `matched` characters into what opens a call.
    Text { matched: usize },
    /// Behind the opening: an object, a list or a name.
    Opened,
    /// In a list, where a call has to begin.
    Item,
    /// In a call's object.
    Object { reader: Box<CallReader>, listed: bool },
    /// In a list behind a call.
    Next,
    /// Behind a call, `matched` characters into what closes it.
    Closing { matched: usize },
    /// In a name that stands before its arguments.
    Name { name: String },
    /// In a mark in square brackets between a name and its arguments.
    Mark { name: String, mark: String },
    /// In the id that a model gave its call, which is dropped: ids are given by the server.
    Id { name: String },
    /// In arguments that stand outside an object; before their brace, with the function's name.
    Arguments { name: Option<String>, scanner: Box<Scanner> },
}

/// Finds calls in a text that comes in pieces.
#[derive(Clone, Debug)]
pub struct ToolParser {
    syntax: Syntax,
    known: Arc<[String]>,
    /// Calls after so many are read and dropped.
    most: usize,
    place: Place,
    /// Text that was not sent: a call's frame, or what may become one.
    held: String,
    /// Whether nothing but space came since the beginning or the last call.
    quiet: bool,
    /// Calls found, dropped ones included.
    found: usize,
    /// Whether the last call found is still without the end of its arguments.
    open: bool,
    incomplete: Vec<usize>,
}

impl ToolParser {
    /// A parser for calls of `known` functions in `format`; other calls are content.
    pub fn new(format: Format, known: &[String]) -> ToolParser {
        Self::at(format.syntax(), known, Place::Text { matched: 0 })
    }

    /// A parser for a text that is constrained to a JSON array of `{"name": …, "parameters": {…}}`.
    pub fn forced(known: &[String]) -> ToolParser {
        Self::at(FORCED, known, Place::Opened)
    }

    /// A parser for a text that is constrained to the arguments of the function `name`.
    pub fn forced_one(name: &str) -> ToolParser {
        let scanner = Box::new(Scanner::new());
        Self::at(FORCED, &[], Place::Arguments { name: Some(name.to_owned()), scanner })
    }

    /// The same parser, which drops all calls but the first.
    #[must_use]
    pub fn only_first(self) -> ToolParser {
        ToolParser { most: 1, ..self }
    }

    fn at(syntax: Syntax, known: &[String], place: Place) -> ToolParser {
        ToolParser {
            syntax,
            known: known.into(),
            most: usize::MAX,
            place,
            held: String::new(),
            quiet: true,
            found: 0,
            open: false,
            incomplete: Vec::new(),
        }
    }

    /// Reads the next piece of text.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut out = Vec::new();
        for c in text.chars() {
            let place = mem::replace(&mut self.place, Place::Text { matched: 0 });
            self.place = match self.step(place, c, &mut out) {
                Some(next) => next,
                None => {
                    self.give_up(&mut out);
                    self.text(0, c, &mut out)
                }
            };
        }
        out
    }

    /// Ends the text: what was held back is content, space around calls aside.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut out = Vec::new();
        let separator = |c: char| c.is_ascii_whitespace() || (self.syntax.bare && c == ';');
        if self.quiet && self.found > 0 && self.held.chars().all(separator) {
            self.held.clear();
        }
        self.give_up(&mut out);
        self.place = Place::Text { matched: 0 };
        out
    }

    /// Calls that were sent.
    pub fn calls(&self) -> usize {
        self.found.min(self.most)
    }

    /// Calls that were sent whose arguments are no JSON: they broke off, or went wrong and the rest was sent as content.
    pub fn incomplete(&self) -> &[usize] {
        &self.incomplete
    }

    /// Reads a character; `None` when it shows that what was held is no call.
    fn step(&mut self, place: Place, c: char, out: &mut Vec<Delta>) -> Option<Place> {
        let space = c.is_ascii_whitespace();
        match place {
            Place::Text { matched } => Some(self.text(matched, c, out)),
            Place::Opened | Place::Item | Place::Next if space => self.hold(c, place),
            Place::Opened => match c {
                '[' => self.hold(c, Place::Item),
                '{' => self.object(c, false),
                _ if self.syntax.name_first && in_name(c) => self.hold(c, Place::Name { name: c.to_string() }),
                _ => None,
            },
            Place::Item if c == '{' => self.object(c, true),
            Place::Next if c == ',' => self.hold(c, Place::Item),
            Place::Next if c == ']' => {
                self.held.clear();
                Some(self.behind())
            }
            Place::Item | Place::Next => None,
            Place::Object { reader, listed } => self.in_object(reader, listed, c, out),
            Place::Closing { matched } => Some(self.closing(matched, c, out)),
            Place::Name { mut name } if in_name(c) => {
                name.push(c);
                if name.len() > super::MAX_NAME_CHARS { None } else { self.hold(c, Place::Name { name }) }
            }
            Place::Name { name } if self.known.contains(&name) => self.behind_name(name, c, out),
            Place::Name { .. } => None,
            Place::Mark { name, mut mark } => {
                mark.push(c);
                match mark.as_str() {
                    "[ARGS]" => self.hold(c, Place::Arguments { name: Some(name), scanner: Box::new(Scanner::new()) }),
                    "[CALL_ID]" => self.hold(c, Place::Id { name }),
                    part if "[ARGS]".starts_with(part) || "[CALL_ID]".starts_with(part) => {
                        self.hold(c, Place::Mark { name, mark })
                    }
                    _ => None,
                }
            }
            Place::Id { name } if c.is_ascii_alphanumeric() => self.hold(c, Place::Id { name }),
            Place::Id { name } => self.behind_name(name, c, out),
            Place::Arguments { name, scanner } => self.in_arguments(name, scanner, c, out),
        }
    }

    fn text(&mut self, mut matched: usize, c: char, out: &mut Vec<Delta>) -> Place {
        if let Some(opening) = self.syntax.opening {
            if matched > 0 && !is_at(opening, matched, c) {
                self.flush(out);
                matched = 0;
            }
            if is_at(opening, matched, c) {
                self.held.push(c);
                let matched = matched.saturating_add(1);
                return if matched == opening.len() { Place::Opened } else { Place::Text { matched } };
            }
        }
        let separator = c.is_ascii_whitespace() || (self.syntax.bare && c == ';' && self.found > 0);
        if self.quiet && separator {
            self.held.push(c);
            return Place::Text { matched: 0 };
        }
        if self.quiet
            && self.syntax.bare
            && c == '{'
            && let Some(object) = self.object(c, false)
        {
            return object;
        }
        self.flush(out);
        add_content(out, c.encode_utf8(&mut [0; 4]));
        self.quiet = false;
        Place::Text { matched: 0 }
    }

    fn object(&mut self, c: char, listed: bool) -> Option<Place> {
        let mut reader = Box::new(CallReader::new(self.syntax.bare));
        reader.push(c, &self.known)?;
        self.hold(c, Place::Object { reader, listed })
    }

    fn in_object(&mut self, mut reader: Box<CallReader>, listed: bool, c: char, out: &mut Vec<Delta>) -> Option<Place> {
        match reader.push(c, &self.known)? {
            Seen::Frame => self.held.push(c),
            Seen::Begins { name, arguments } => {
                self.begin(name, out);
                self.add_arguments(&arguments, out);
            }
            Seen::Argument => self.add_arguments(c.encode_utf8(&mut [0; 4]), out),
            Seen::Done => {
                self.held.clear();
                return Some(if listed { Place::Next } else { self.behind() });
            }
        }
        self.open = self.open && !reader.has_all_arguments();
        Some(Place::Object { reader, listed })
    }

    fn in_arguments(
        &mut self,
        name: Option<String>,
        mut scanner: Box<Scanner>,
        c: char,
        out: &mut Vec<Delta>,
    ) -> Option<Place> {
        if name.is_some() && c.is_ascii_whitespace() {
            return self.hold(c, Place::Arguments { name, scanner });
        }
        scanner.push(c)?;
        if let Some(name) = name {
            if c != '{' {
                return None;
            }
            self.begin(name, out);
        }
        self.add_arguments(c.encode_utf8(&mut [0; 4]), out);
        if scanner.depth() > 0 {
            return Some(Place::Arguments { name: None, scanner });
        }
        self.open = false;
        Some(self.behind())
    }

    fn behind_name(&mut self, name: String, c: char, out: &mut Vec<Delta>) -> Option<Place> {
        match c {
            '[' => self.hold(c, Place::Mark { name, mark: c.to_string() }),
            _ => self.in_arguments(Some(name), Box::new(Scanner::new()), c, out),
        }
    }

    /// Where the text goes on behind a call, or a list of them.
    fn behind(&self) -> Place {
        match self.syntax.closing {
            Some(_) => Place::Closing { matched: 0 },
            None => Place::Text { matched: 0 },
        }
    }

    fn closing(&mut self, matched: usize, c: char, out: &mut Vec<Delta>) -> Place {
        let (closing, opening) = (self.syntax.closing.unwrap_or_default(), self.syntax.opening.unwrap_or_default());
        if is_at(closing, matched, c) {
            self.held.push(c);
            let matched = matched.saturating_add(1);
            if matched < closing.len() {
                return Place::Closing { matched };
            }
            self.held.clear();
            return Place::Text { matched: 0 };
        }
        if matched == 0 && c.is_ascii_whitespace() {
            self.held.push(c);
            return Place::Closing { matched };
        }
        // The closing was left out. What looked like its start may be the start of the next call.
        let shared = closing.chars().zip(opening.chars()).take_while(|(a, b)| a == b).count();
        if matched > shared {
            self.flush(out);
            return self.text(0, c, out);
        }
        self.text(matched, c, out)
    }

    fn hold(&mut self, c: char, next: Place) -> Option<Place> {
        self.held.push(c);
        Some(next)
    }

    /// Sends what was held as content.
    fn flush(&mut self, out: &mut Vec<Delta>) {
        if !self.held.is_empty() {
            add_content(out, &self.held);
            self.held.clear();
            self.quiet = false;
        }
    }

    fn give_up(&mut self, out: &mut Vec<Delta>) {
        self.flush(out);
        self.quiet = false;
        if mem::take(&mut self.open) && self.found <= self.most {
            self.incomplete.push(self.found.saturating_sub(1));
        }
    }

    /// Announces a call: what was held is its frame.
    fn begin(&mut self, name: String, out: &mut Vec<Delta>) {
        self.held.clear();
        self.quiet = true;
        self.open = true;
        let index = self.found;
        self.found = self.found.saturating_add(1);
        if index < self.most {
            out.push(Delta::Call { index, name });
        }
    }

    fn add_arguments(&mut self, more: &str, out: &mut Vec<Delta>) {
        if self.found > self.most {
            return;
        }
        let index = self.found.saturating_sub(1);
        match out.last_mut() {
            Some(Delta::Arguments { index: last, text }) if *last == index => text.push_str(more),
            _ => out.push(Delta::Arguments { index, text: more.to_owned() }),
        }
    }
}

fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

fn is_at(marker: &str, at: usize, c: char) -> bool {
    marker.as_bytes().get(at).is_some_and(|byte| char::from(*byte) == c)
}

fn add_content(out: &mut Vec<Delta>, more: &str) {
    match out.last_mut() {
        Some(Delta::Content(text)) => text.push_str(more),
        _ => out.push(Delta::Content(more.to_owned())),
    }
}
