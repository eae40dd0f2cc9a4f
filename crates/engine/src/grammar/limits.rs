//! Limits that hold before anything is parsed.

use super::{Constraint, Frames, GrammarError, pattern, schema};
use serde_json::Value;
use std::io;

const MAX_SCHEMA_BYTES: usize = 64 << 10;
const MAX_SCHEMA_DEPTH: usize = 64;
const MAX_LARK_BYTES: usize = 64 << 10;
/// The library's recursion follows a chain of rules to its end.
const MAX_LARK_RULES: usize = 1024;
const MAX_CHOICES: usize = 1024;
const MAX_CHOICE_BYTES: usize = 64 << 10;

/// Refuses a constraint that is too large to be looked at.
pub(super) fn check(constraint: &Constraint) -> Result<(), GrammarError> {
    match constraint {
        Constraint::JsonObject => Ok(()),
        Constraint::JsonSchema(value) | Constraint::Frames(Frames { schema: value, .. }) => {
            // The depth first: what follows recurses.
            at_most("JSON schema", depth(value), "levels", MAX_SCHEMA_DEPTH)?;
            at_most("JSON schema", serialised(value), "bytes", MAX_SCHEMA_BYTES)?;
            schema::check(value)
        }
        Constraint::Regex(regex) => pattern::check("regular expression", regex),
        Constraint::Choice(texts) => {
            if texts.is_empty() {
                let reason = "it is empty; name a text".to_owned();
                return Err(GrammarError::Refused { what: "choice", reason });
            }
            at_most("choice", texts.len(), "texts", MAX_CHOICES)?;
            at_most("choice", texts.iter().map(String::len).sum(), "bytes", MAX_CHOICE_BYTES)
        }
        Constraint::Lark(grammar) => {
            at_most("Lark grammar", grammar.len(), "bytes", MAX_LARK_BYTES)?;
            // A definition begins a line and has a colon.
            let rules = grammar.lines().filter(|line| line.contains(':')).count();
            at_most("Lark grammar", rules, "rules", MAX_LARK_RULES)
        }
    }
}

/// Refuses what has more than `limit` of something.
pub(super) fn at_most(what: &str, found: usize, unit: &'static str, limit: usize) -> Result<(), GrammarError> {
    if found <= limit {
        return Ok(());
    }
    Err(GrammarError::TooLarge { what: what.to_owned(), found: found as u64, unit, limit: limit as u64 })
}

/// Levels of arrays and objects in a value, without recursion.
fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 1)];
    while let Some((value, level)) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, level + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|field| (field, level + 1))),
            _ => continue,
        }
        deepest = deepest.max(level);
    }
    deepest
}

/// Bytes of a value's text.
fn serialised(value: &Value) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        // A value that has no text is beyond every limit.
        Err(_) => usize::MAX,
    }
}
