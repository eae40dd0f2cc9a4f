//! Constraints in the library's form.

use super::{Constraint, Frames, GrammarError};
use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

/// What the user calls such a constraint.
pub(super) fn name(constraint: &Constraint) -> &'static str {
    match constraint {
        Constraint::JsonObject | Constraint::JsonSchema(_) | Constraint::Frames(_) => "JSON schema",
        Constraint::Regex(_) => "regular expression",
        Constraint::Choice(_) => "choice",
        Constraint::Lark(_) => "Lark grammar",
    }
}

/// The constraint, which is within the limits, as the library takes it. `special_id` tells the control token of a text.
pub(super) fn source(
    constraint: &Constraint,
    special_id: impl Fn(&str) -> Option<u32>,
) -> Result<TopLevelGrammar, GrammarError> {
    match constraint {
        Constraint::JsonObject => Ok(TopLevelGrammar::from_json_schema(json_schema(&json!({ "type": "object" }))?)),
        Constraint::JsonSchema(schema) => Ok(TopLevelGrammar::from_json_schema(json_schema(schema)?)),
        Constraint::Frames(frames) => {
            let schema = json_schema(&frames.schema)?;
            Ok(TopLevelGrammar::from_lark(framed(frames, &schema, special_id)))
        }
        // Written between slashes, an empty one would be a comment.
        Constraint::Regex(regex) if regex.is_empty() => Ok(TopLevelGrammar::from_lark("start: \"\"".to_owned())),
        Constraint::Regex(regex) => Ok(TopLevelGrammar::from_regex(regex)),
        Constraint::Choice(texts) => Ok(TopLevelGrammar::from_lark(choice(texts))),
        Constraint::Lark(grammar) => Ok(TopLevelGrammar::from_lark(grammar.clone())),
    }
}

/// Text and frames in turns. The text up to a frame ends as soon as the opening mark is whole, and other text has no such mark in it, so
/// that there is no way past a frame. A mark that is a control token may also be written out.
fn framed(frames: &Frames, schema: &Value, special_id: impl Fn(&str) -> Option<u32>) -> String {
    let control = |mark: &str| special_id(mark).map(|id| format!("<[{id}]>"));
    let (opening, closing) = (literal(&frames.opening), literal(&frames.closing));
    let opens = control(&frames.opening).map_or_else(String::new, |token| format!(" | TEXT {token}"));
    let closes = control(&frames.closing).map_or_else(String::new, |token| format!(" | {token}"));
    let repeated = if frames.several { "*" } else { "?" };
    [
        &format!("start: frame{repeated} TEXT"),
        &format!("frame: (before{opens}) BREAK? value BREAK? ({closing}{closes})"),
        &format!("before[lazy]: /(.|\\n)*/ {opening}"),
        &format!("TEXT: /(.|\\n)*/ & ~(/(.|\\n)*/ {opening} /(.|\\n)*/)"),
        "BREAK: /\\n/",
        &format!("value: %json {schema}"),
        "",
    ]
    .join("\n")
}

/// The schema with what the library is to be told of it.
fn json_schema(schema: &Value) -> Result<Value, GrammarError> {
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
    Ok(schema)
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
