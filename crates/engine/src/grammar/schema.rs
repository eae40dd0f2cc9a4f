//! What a JSON schema may say. The library would ignore none of it, but some of it costs more than its bytes tell.

use super::limits::at_most;
use super::source::kind;
use super::{GrammarError, pattern};
use serde_json::Value;
use std::collections::HashSet;
use std::ptr;

/// The library's recursion follows a chain of references to its end.
const MAX_REFS: usize = 1024;
/// Each is an automaton of its own.
const MAX_PATTERNS: usize = 256;
/// Compared with each other, to be told apart.
const MAX_PATTERN_PROPERTIES: usize = 32;
/// What must at least be there has to fit into a completion.
const MAX_LEAST: u64 = 100_000;

/// Keywords that would narrow the values, and cannot.
const UNSUPPORTED: [&str; 20] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "extends",
    "disallow",
];

/// Refuses a schema with a part that is too large or not supported. The value's depth is bounded.
pub(super) fn check(root: &Value) -> Result<(), GrammarError> {
    let mut walk =
        Walk { seen: HashSet::new(), path: Vec::new(), refs: Vec::new(), patterns: 0, pattern_properties: 0 };
    walk.schema(root)?;
    // A reference may lead to a place that is a schema by that alone.
    let mut next = 0;
    while let Some(&reference) = walk.refs.get(next) {
        walk.path = vec![reference];
        let Some(target) = resolve(root, reference) else {
            return Err(
                walk.error("a reference to nothing".to_owned(), "a part of the schema, as `#/$defs/name`, is allowed")
            );
        };
        walk.schema(target)?;
        next += 1;
    }
    Ok(())
}

struct Walk<'s> {
    /// Addresses of the schemas that were looked at.
    seen: HashSet<*const Value>,
    path: Vec<&'s str>,
    refs: Vec<&'s str>,
    patterns: usize,
    pattern_properties: usize,
}

impl<'s> Walk<'s> {
    fn schema(&mut self, value: &'s Value) -> Result<(), GrammarError> {
        // Values that are no schema are the library's to refuse.
        let Value::Object(keywords) = value else { return Ok(()) };
        if !self.seen.insert(ptr::from_ref(value)) {
            return Ok(());
        }
        for (keyword, value) in keywords {
            self.path.push(keyword);
            self.keyword(keyword, value)?;
            self.path.pop();
        }
        Ok(())
    }

    fn keyword(&mut self, keyword: &str, value: &'s Value) -> Result<(), GrammarError> {
        match (keyword, value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    self.path.push(name);
                    if keyword == "patternProperties" {
                        self.pattern_properties += 1;
                        at_most("JSON schema", self.pattern_properties, "pattern properties", MAX_PATTERN_PROPERTIES)?;
                        self.pattern(name)?;
                    }
                    self.schema(schema)?;
                    self.path.pop();
                }
                Ok(())
            }
            ("items" | "prefixItems" | "allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                schemas.iter().try_for_each(|schema| self.schema(schema))
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => self.schema(schema),
            ("$ref", Value::String(reference)) if reference.starts_with('#') => {
                self.refs.push(reference);
                at_most("JSON schema", self.refs.len(), "references", MAX_REFS)
            }
            ("$ref", other) => {
                let found = other.as_str().map_or_else(|| kind(other), |to| format!("a reference to `{to}`"));
                Err(self.error(found, "a part of the same schema, as `#/$defs/name`, is allowed"))
            }
            ("pattern", Value::String(regex)) => self.pattern(regex),
            ("minItems" | "minLength" | "minProperties", value) => match value.as_f64() {
                Some(least) if least > MAX_LEAST as f64 => {
                    Err(self.error(value.to_string(), "a whole number from 0 to 100000 is allowed"))
                }
                _ => Ok(()),
            },
            (keyword, _) if UNSUPPORTED.contains(&keyword) => {
                Err(self.error("a keyword that cannot be enforced".to_owned(), "leave it out"))
            }
            _ => Ok(()),
        }
    }

    fn pattern(&mut self, regex: &str) -> Result<(), GrammarError> {
        self.patterns += 1;
        at_most("JSON schema", self.patterns, "patterns", MAX_PATTERNS)?;
        pattern::check(&format!("JSON schema's `{}`", self.at()), regex)
    }

    fn error(&self, found: String, allowed: &'static str) -> GrammarError {
        GrammarError::Schema { at: self.at(), found, allowed }
    }

    fn at(&self) -> String {
        self.path.join("/")
    }
}

/// The part that `#/a/b` names, found as the library does.
fn resolve<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    let pointer = reference.strip_prefix('#')?;
    if pointer.is_empty() || pointer == "/" {
        return Some(root);
    }
    pointer.strip_prefix('/')?.split('/').try_fold(root, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}
