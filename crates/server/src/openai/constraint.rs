//! What a reply's text must be: `response_format`, and vLLM's fields for structured output.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::fields::{Field, Fields, Other, wrong};
use crate::error::ApiError;
use axum::http::StatusCode;
use nxd_engine::grammar::{Constraint, GrammarError};
use serde_json::{Map, Value, json};

const RESPONSE_FORMAT: Other = Other {
    name: "response_format",
    about: "Text, any JSON object, or JSON that a schema describes.",
    schema: || {
        let kind = json!({"enum": ["text", "json_object", "json_schema"]});
        let schema = json!({"type": ["object", "null"], "properties": {"name": {"type": "string"}, "schema": {"type": "object"}}});
        json!({"type": ["object", "null"], "properties": {"type": kind, "json_schema": schema}, "required": ["type"]})
    },
};
const STRUCTURED: Other = Other {
    name: "structured_outputs",
    about: "One of `json`, `regex`, `choice` and `grammar`.",
    schema: || json!({"type": ["object", "null"]}),
};
const GUIDED_JSON: Other = Other {
    name: "guided_json",
    about: "A JSON schema, or its text.",
    schema: || json!({"type": ["object", "string", "null"]}),
};
const GUIDED_REGEX: Other =
    Other { name: "guided_regex", about: "A regular expression.", schema: || json!({"type": ["string", "null"]}) };
const GUIDED_CHOICE: Other = Other {
    name: "guided_choice",
    about: "The texts of which the reply is one.",
    schema: || json!({"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1}),
};
const GUIDED_GRAMMAR: Other = Other {
    name: "guided_grammar",
    about: "A grammar in Lark's form.",
    schema: || json!({"type": ["string", "null"]}),
};

/// The fields that this file reads.
pub(super) const FIELDS: &[&dyn Field] =
    &[&RESPONSE_FORMAT, &STRUCTURED, &GUIDED_JSON, &GUIDED_REGEX, &GUIDED_CHOICE, &GUIDED_GRAMMAR];

/// A constraint and the field that asked for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) constraint: Constraint,
    pub(super) field: String,
}

/// The constraint that a request asks for, if any.
///
/// # Errors
/// When a field is wrong, or two of them ask for something.
pub(super) fn read(fields: &Fields) -> Result<Option<Asked>, ApiError> {
    let mut all = Vec::new();
    if let Some(value) = fields.get(RESPONSE_FORMAT.name) {
        all.extend(response_format(value)?);
    }
    match fields.get(STRUCTURED.name) {
        None => {}
        Some(Value::Object(map)) => {
            for kind in ["json", "regex", "choice", "grammar", "json_object"] {
                let value = map.get(kind).filter(|value| !value.is_null());
                if let Some(value) = value {
                    all.extend(structured(kind, &format!("{}.{kind}", STRUCTURED.name), value)?);
                }
            }
            if let Some(kind) = map.keys().find(|kind| kind.as_str() == "structural_tag") {
                let field = format!("{}.{kind}", STRUCTURED.name);
                return Err(ApiError::invalid(field.clone(), format!("`{field}` is not supported; leave it out")));
            }
        }
        Some(other) => return Err(wrong(STRUCTURED.name, other, "an object")),
    }
    for kind in ["json", "regex", "choice", "grammar"] {
        let field = format!("guided_{kind}");
        if let Some(value) = fields.get(&field) {
            all.extend(structured(kind, &field, value)?);
        }
    }
    let mut all = all.into_iter();
    match (all.next(), all.next()) {
        (Some(first), Some(second)) => {
            let message = format!("`{}` and `{}` cannot both hold; name one", first.field, second.field);
            Err(ApiError::invalid(second.field, message))
        }
        (first, _) => Ok(first),
    }
}

/// An error of the constraint that `field` asked for.
pub(super) fn refused(error: &GrammarError, field: &str) -> ApiError {
    // A model whose tokens cannot be arranged takes no constraint at all.
    if error.is_refusal() || matches!(error, GrammarError::Tokenizer { .. }) {
        return ApiError::invalid(field, error.to_string());
    }
    match error {
        GrammarError::Busy { .. } => {
            let busy =
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", error.to_string());
            ApiError { retry_after: Some(1), ..busy }
        }
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", error.to_string()),
    }
}

fn response_format(value: &Value) -> Result<Option<Asked>, ApiError> {
    let name = RESPONSE_FORMAT.name;
    let Value::Object(format) = value else { return Err(wrong(name, value, "an object with a `type`")) };
    let types = "\"text\", \"json_object\" or \"json_schema\"";
    match format.get("type") {
        Some(Value::String(kind)) => match kind.as_str() {
            "text" => Ok(None),
            "json_object" => Ok(Some(Asked { constraint: Constraint::JsonObject, field: name.to_owned() })),
            "json_schema" => json_schema(format).map(Some),
            _ => Err(wrong("response_format.type", &Value::from(kind.as_str()), types)),
        },
        Some(other) => Err(wrong("response_format.type", other, types)),
        None => Err(ApiError::invalid(
            "response_format.type",
            format!("`response_format.type` is missing; {types} is allowed"),
        )),
    }
}

fn json_schema(format: &Map<String, Value>) -> Result<Asked, ApiError> {
    let missing =
        |name: &str, allowed: &str| ApiError::invalid(name, format!("`{name}` is missing; {allowed} is allowed"));
    let outer = "response_format.json_schema";
    let field = "response_format.json_schema.schema";
    let described = match format.get("json_schema") {
        Some(Value::Object(described)) => described,
        None | Some(Value::Null) => return Err(missing(outer, "an object with a `name` and a `schema`")),
        Some(other) => return Err(wrong(outer, other, "an object with a `name` and a `schema`")),
    };
    // The strict form is the only one here, and its name is for the client; both must be what they are said to be.
    match described.get("name") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(other) => return Err(wrong("response_format.json_schema.name", other, "a string")),
    }
    match described.get("strict") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(other) => return Err(wrong("response_format.json_schema.strict", other, "true or false")),
    }
    match described.get("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
            Ok(Asked { constraint: Constraint::JsonSchema(schema.clone()), field: field.to_owned() })
        }
        None | Some(Value::Null) => Err(missing(field, "a JSON schema")),
        Some(other) => Err(wrong(field, other, "a JSON schema, which is an object,")),
    }
}

fn structured(kind: &str, field: &str, value: &Value) -> Result<Option<Asked>, ApiError> {
    let constraint = match (kind, value) {
        ("json_object", Value::Bool(false)) => return Ok(None),
        ("json_object", Value::Bool(true)) => Constraint::JsonObject,
        ("json_object", other) => return Err(wrong(field, other, "true or false")),
        ("json", Value::Object(_)) => Constraint::JsonSchema(value.clone()),
        ("json", Value::String(text)) => match serde_json::from_str(text) {
            Ok(schema @ Value::Object(_)) => Constraint::JsonSchema(schema),
            _ => return Err(wrong(field, value, "a JSON schema, or its text,")),
        },
        ("json", other) => return Err(wrong(field, other, "a JSON schema, or its text,")),
        ("choice", Value::Array(list)) => Constraint::Choice(choices(field, list)?),
        ("choice", other) => return Err(wrong(field, other, "a list of strings")),
        ("regex", Value::String(text)) => Constraint::Regex(text.clone()),
        (_, Value::String(text)) => Constraint::Lark(text.clone()),
        (_, other) => return Err(wrong(field, other, "a string")),
    };
    Ok(Some(Asked { constraint, field: field.to_owned() }))
}

fn choices(field: &str, list: &[Value]) -> Result<Vec<String>, ApiError> {
    let choice = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong(field, other, "a list of strings")),
    };
    list.iter().map(choice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: Value) -> Result<Option<Asked>, ApiError> {
        let Value::Object(map) = body else { panic!("an object") };
        read(&Fields::new(map))
    }

    #[test]
    fn constraints_come_from_openais_field_and_from_vllms() {
        let schema = json!({"type": "object"});
        for (body, constraint, field) in [
            (json!({"response_format": {"type": "json_object"}}), Constraint::JsonObject, "response_format"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
                Constraint::JsonSchema(schema.clone()),
                "response_format.json_schema.schema",
            ),
            (json!({"guided_json": schema.to_string()}), Constraint::JsonSchema(schema.clone()), "guided_json"),
            (json!({"guided_regex": "a+"}), Constraint::Regex("a+".into()), "guided_regex"),
            (
                json!({"structured_outputs": {"choice": ["a"]}}),
                Constraint::Choice(vec!["a".into()]),
                "structured_outputs.choice",
            ),
            (json!({"guided_grammar": "start: \"a\""}), Constraint::Lark("start: \"a\"".into()), "guided_grammar"),
        ] {
            assert_eq!(asked(body), Ok(Some(Asked { constraint, field: field.to_owned() })));
        }
        assert_eq!(asked(json!({"response_format": {"type": "text"}, "guided_json": null})), Ok(None));
    }

    #[test]
    fn what_cannot_be_meant_names_its_field() {
        for (body, field) in [
            (json!({"response_format": "json"}), "response_format"),
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": {"type": 123}}), "response_format.type"),
            (json!({"response_format": {"type": "hiccup"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
                "response_format.json_schema.schema",
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"guided_choice": [1]}), "guided_choice"),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_regex": 1}), "guided_regex"),
            (json!({"structured_outputs": []}), "structured_outputs"),
            (json!({"guided_regex": "a", "guided_json": {}}), "guided_regex"),
        ] {
            assert_eq!(asked(body).unwrap_err().param.as_deref(), Some(field));
        }
    }
}
