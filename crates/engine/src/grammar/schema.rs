//! What a JSON schema may say. The library would loosen none of it, but some of it costs more than its bytes tell.

use super::limits::at_most;
use super::source::kind;
use super::{GrammarError, pattern};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashSet;
use std::{ptr, slice};

/// The library's recursion follows a chain of references to its end.
const MAX_REFS: usize = 1024;
/// Each is an automaton of its own.
const MAX_PATTERNS: usize = 256;
/// Compared with each other, to be told apart.
const MAX_PATTERN_PROPERTIES: usize = 32;
/// The library compares, at each property of an object, all that follow it.
const MAX_PROPERTIES: usize = 1000;
/// What must at least be there has to fit into a completion.
const MAX_LEAST: f64 = 100_000.0;
/// Messages quote names, which are the user's.
const MAX_QUOTED_CHARS: usize = 200;

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
const TYPES_ALLOWED: &str = "null, boolean, integer, number, string, array, object or a list of these is allowed";
const REFERENCE_ALLOWED: &str = "a part of the same schema, as `#/$defs/name`, is allowed";

/// Keywords of any draft that would narrow the values, and cannot.
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
    let mut walk = Walk {
        seen: HashSet::new(),
        base: "#",
        path: Vec::new(),
        refs: Vec::new(),
        patterns: 0,
        pattern_properties: 0,
    };
    walk.schema(root)?;
    // A reference may lead to a place that is a schema by that alone.
    let mut next = 0;
    while let Some(&reference) = walk.refs.get(next) {
        walk.base = reference;
        let Some(target) = resolve(root, reference) else {
            return Err(walk.error("a reference to nothing".to_owned(), REFERENCE_ALLOWED));
        };
        walk.schema(target)?;
        next += 1;
    }
    Ok(())
}

struct Walk<'s> {
    /// Addresses of the schemas that were looked at.
    seen: HashSet<*const Value>,
    /// Where the walk began, and the way from there.
    base: &'s str,
    path: Vec<Cow<'s, str>>,
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
        keywords.iter().try_for_each(|(keyword, value)| self.step(keyword.into(), |walk| walk.keyword(keyword, value)))
    }

    fn keyword(&mut self, keyword: &'s str, value: &'s Value) -> Result<(), GrammarError> {
        match (keyword, value) {
            ("properties", Value::Object(schemas)) => {
                at_most(&self.what(), schemas.len(), "names", MAX_PROPERTIES)?;
                self.named(schemas)
            }
            ("$defs" | "definitions", Value::Object(schemas)) => self.named(schemas),
            ("patternProperties", Value::Object(schemas)) => {
                self.pattern_properties += schemas.len();
                at_most("JSON schema", self.pattern_properties, "pattern properties", MAX_PATTERN_PROPERTIES)?;
                schemas.keys().try_for_each(|regex| self.pattern(regex))?;
                self.named(schemas)
            }
            ("required", Value::Array(names)) => at_most(&self.what(), names.len(), "names", MAX_PROPERTIES),
            ("items" | "prefixItems" | "allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                let mut numbered = schemas.iter().enumerate();
                numbered.try_for_each(|(i, schema)| self.step(i.to_string().into(), |walk| walk.schema(schema)))
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => self.schema(schema),
            ("$ref", Value::String(reference)) if reference.starts_with('#') => {
                self.refs.push(reference);
                at_most("JSON schema", self.refs.len(), "references", MAX_REFS)
            }
            ("$ref", other) => {
                let found = other.as_str().map_or_else(|| kind(other), |to| format!("a reference to `{}`", short(to)));
                Err(self.error(found, REFERENCE_ALLOWED))
            }
            ("type", names) => {
                let names = names.as_array().map_or(slice::from_ref(names), Vec::as_slice);
                let known = |name: &&Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                let Some(other) = names.iter().find(|name| !known(name)) else { return Ok(()) };
                let found = other.as_str().map_or_else(|| kind(other), |name| format!("`{}`", short(name)));
                Err(self.error(found, TYPES_ALLOWED))
            }
            ("pattern", Value::String(regex)) => self.pattern(regex),
            ("minItems" | "minLength" | "minProperties", value) => match value.as_f64() {
                Some(least) if least > MAX_LEAST => {
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

    fn named(&mut self, schemas: &'s serde_json::Map<String, Value>) -> Result<(), GrammarError> {
        schemas.iter().try_for_each(|(name, schema)| self.step(name.into(), |walk| walk.schema(schema)))
    }

    /// Looks at a part, with its name on the path.
    fn step(
        &mut self,
        name: Cow<'s, str>,
        look: impl FnOnce(&mut Self) -> Result<(), GrammarError>,
    ) -> Result<(), GrammarError> {
        self.path.push(name);
        look(self)?;
        self.path.pop();
        Ok(())
    }

    fn pattern(&mut self, regex: &str) -> Result<(), GrammarError> {
        self.patterns += 1;
        at_most("JSON schema", self.patterns, "patterns", MAX_PATTERNS)?;
        pattern::check(&self.what(), regex)
    }

    fn error(&self, found: String, allowed: &'static str) -> GrammarError {
        GrammarError::Schema { at: self.at(), found, allowed }
    }

    fn what(&self) -> String {
        format!("JSON schema's `{}`", self.at())
    }

    /// The place as a pointer.
    fn at(&self) -> String {
        short(&self.path.iter().fold(self.base.to_owned(), |at, name| format!("{at}/{name}")))
    }
}

fn short(text: &str) -> String {
    text.chars().take(MAX_QUOTED_CHARS).collect()
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
