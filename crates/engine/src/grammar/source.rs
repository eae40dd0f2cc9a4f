//! Constraints in the library's form.

use super::{Constraint, GrammarError};
use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

/// What the user calls such a constraint.
pub(super) fn name(constraint: &Constraint) -> &'static str {
    match constraint {
        Constraint::JsonObject | Constraint::JsonSchema(_) => "JSON schema",
        Constraint::Regex(_) => "regular expression",
        Constraint::Choice(_) => "choice",
        Constraint::Lark(_) => "Lark grammar",
    }
}

/// The constraint, which is within the limits, as the library takes it.
pub(super) fn source(constraint: &Constraint) -> Result<TopLevelGrammar, GrammarError> {
    match constraint {
        Constraint::JsonObject => json_schema(&json!({ "type": "object" })),
        Constraint::JsonSchema(schema) => json_schema(schema),
        // Written between slashes, an empty one would be a comment.
        Constraint::Regex(regex) if regex.is_empty() => Ok(TopLevelGrammar::from_lark("start: \"\"".to_owned())),
        Constraint::Regex(regex) => Ok(TopLevelGrammar::from_regex(regex)),
        Constraint::Choice(texts) => Ok(TopLevelGrammar::from_lark(choice(texts))),
        Constraint::Lark(grammar) => Ok(TopLevelGrammar::from_lark(grammar.clone())),
    }
}

fn json_schema(schema: &Value) -> Result<TopLevelGrammar, GrammarError> {
    let mut schema = match schema {
        Value::Object(fields) => fields.clone(),
        Value::Bool(true) => serde_json::Map::new(),
        other => {
            let found =
                if *other == json!(false) { "`false`, which describes nothing".to_owned() } else { kind(other) };
            return Err(GrammarError::Schema { at: "#".to_owned(), found, allowed: "an object is allowed" });
        }
    };
    // Under an older draft the library would skip the keywords of newer ones: all are read as the newest.
    schema.shift_remove("$schema");
    let mut schema = Value::Object(schema);
    json_options().apply_to(&mut schema);
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// One space or none between two parts of a text. With more, small models fill a completion with blanks.
fn json_options() -> JsonCompileOptions {
    JsonCompileOptions { whitespace_pattern: Some(" ".to_owned()), ..JsonCompileOptions::default() }
}

/// The texts as one terminal, so that they make one automaton.
fn choice(texts: &[String]) -> String {
    let literals: Vec<String> = texts.iter().filter(|text| !text.is_empty()).map(|text| literal(text)).collect();
    match (literals.is_empty(), literals.len() < texts.len()) {
        (true, _) => "start: \"\"".to_owned(),
        (false, true) => format!("start: CHOICE | \"\"\nCHOICE: {}", literals.join(" | ")),
        (false, false) => format!("start: CHOICE\nCHOICE: {}", literals.join(" | ")),
    }
}

/// A text in quotes. Lark takes JSON's escapes, and wants one for the delete character.
fn literal(text: &str) -> String {
    Value::String(text.to_owned()).to_string().replace('\u{7f}', "\\u007f")
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    kind.to_owned()
}
