//! The fields `tools`, `tool_choice` and `parallel_tool_calls` of a request.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::{Format, MAX_NAME_CHARS};
use crate::error::ApiError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use thiserror::Error;

/// Most functions in a request.
const MAX_TOOLS: usize = 128;
/// Most characters of a request's string that an error repeats.
const MAX_SHOWN_CHARS: usize = 80;

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments, an object; `None` for a function without any.
    pub parameters: Option<Value>,
    /// Whether the request asks that arguments match the schema.
    pub strict: bool,
    /// The whole entry as sent, for the chat template.
    pub raw: Value,
}

/// Which functions a reply has to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// None.
    None,
    /// Those that the model wants to.
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// What a request says about tools.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolRequest {
    /// The functions.
    pub tools: Vec<Tool>,
    /// Which are to be called: as said, else `auto` where there are any.
    pub choice: ToolChoice,
    /// Whether a reply may have several calls: as said, else yes.
    pub parallel: bool,
}

/// Why a request's tools cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ToolError {
    /// A field holds something else than it can.
    #[error("`{field}` is {found}; it must be {allowed}")]
    Value {
        /// The field.
        field: String,
        /// What it holds.
        found: String,
        /// What it can hold.
        allowed: &'static str,
    },
    /// More functions than are taken.
    #[error("`tools` has {found} entries; at most {MAX_TOOLS} are allowed")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// Two functions of one name.
    #[error("`tools[{index}].function.name` is \"{name}\", as is `tools[{first}].function.name`; names must differ")]
    Duplicate {
        /// The name.
        name: String,
        /// The entry that has it first.
        first: usize,
        /// The entry that has it again.
        index: usize,
    },
    /// A choice of a function that is not there.
    #[error("`tool_choice` names the function `{name}`, which is not among `tools`")]
    UnknownFunction {
        /// The function.
        name: String,
    },
    /// A choice that needs functions.
    #[error("`tool_choice` is `{choice}`, but there are no `tools`; name at least one function in `tools`")]
    NoTools {
        /// The choice.
        choice: &'static str,
    },
    /// Calls in a format that is not known.
    #[error(
        "`tool_choice` is `auto`, but how this model writes calls is not known; set `tool_choice` to `none`, `required` \
         or a function, or start the server with --tool-call-parser ({})",
        Format::NAMES.join(", ")
    )]
    NoFormat,
}

impl ToolError {
    /// The field of the request that is wrong.
    pub fn field(&self) -> String {
        match self {
            ToolError::Value { field, .. } => field.clone(),
            ToolError::TooMany { .. } => "tools".to_owned(),
            ToolError::Duplicate { index, .. } => format!("tools[{index}].function.name"),
            ToolError::UnknownFunction { .. } | ToolError::NoTools { .. } | ToolError::NoFormat => {
                "tool_choice".to_owned()
            }
        }
    }
}

impl From<ToolError> for ApiError {
    fn from(error: ToolError) -> Self {
        ApiError::invalid(error.field(), error.to_string())
    }
}

impl ToolRequest {
    /// Reads the three fields; one that is null counts as absent.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn parse(
        tools: Option<&Value>,
        choice: Option<&Value>,
        parallel: Option<&Value>,
    ) -> Result<ToolRequest, ToolError> {
        let tools = match tools {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(entries)) => read_tools(entries)?,
            Some(other) => return Err(wrong("tools", Some(other), "an array of functions")),
        };
        let choice = read_choice(choice, &tools)?;
        let parallel = flag("parallel_tool_calls", parallel)?.unwrap_or(true);
        Ok(ToolRequest { tools, choice, parallel })
    }
}

fn read_tools(entries: &[Value]) -> Result<Vec<Tool>, ToolError> {
    if entries.len() > MAX_TOOLS {
        return Err(ToolError::TooMany { found: entries.len() });
    }
    let mut taken = BTreeMap::new();
    let mut tools = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let tool = read_tool(&format!("tools[{index}]"), entry)?;
        if let Some(first) = taken.insert(tool.name.clone(), index) {
            return Err(ToolError::Duplicate { name: tool.name, first, index });
        }
        tools.push(tool);
    }
    Ok(tools)
}

fn read_tool(at: &str, entry: &Value) -> Result<Tool, ToolError> {
    let function = function_of(at, entry)?;
    let field = |name: &str| format!("{at}.function.{name}");
    let name = match function.get("name") {
        Some(Value::String(name)) if is_name(name) => name.clone(),
        other => {
            return Err(wrong(&field("name"), other, "1 to 64 letters (a-z, A-Z), digits, `_`, `.` or `-`"));
        }
    };
    let description = match function.get("description") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        other => return Err(wrong(&field("description"), other, "a string")),
    };
    let parameters = match function.get("parameters") {
        None => None,
        Some(Value::Object(schema)) => {
            match schema.get("type") {
                None => {}
                Some(Value::String(kind)) if kind == "object" => {}
                other => return Err(wrong(&field("parameters.type"), other, "\"object\"")),
            }
            Some(Value::Object(schema.clone()))
        }
        other => return Err(wrong(&field("parameters"), other, "an object, a JSON schema, or left out")),
    };
    let strict = flag(&field("strict"), function.get("strict"))?.unwrap_or(false);
    Ok(Tool { name, description, parameters, strict, raw: entry.clone() })
}

/// The object `function` of an entry of `tools` or of `tool_choice`.
fn function_of<'a>(at: &str, entry: &'a Value) -> Result<&'a Map<String, Value>, ToolError> {
    let Value::Object(fields) = entry else {
        return Err(wrong(at, Some(entry), "an object with `type` and `function`"));
    };
    match fields.get("type") {
        None => {}
        Some(Value::String(kind)) if kind == "function" => {}
        other => return Err(wrong(&format!("{at}.type"), other, "\"function\"")),
    }
    match fields.get("function") {
        Some(Value::Object(function)) => Ok(function),
        other => Err(wrong(&format!("{at}.function"), other, "an object with a `name`")),
    }
}

fn read_choice(choice: Option<&Value>, tools: &[Tool]) -> Result<ToolChoice, ToolError> {
    let absent = if tools.is_empty() { ToolChoice::None } else { ToolChoice::Auto };
    match choice {
        None | Some(Value::Null) => Ok(absent),
        Some(Value::String(word)) => match word.as_str() {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(absent),
            "required" if tools.is_empty() => Err(ToolError::NoTools { choice: "required" }),
            "required" => Ok(ToolChoice::Required),
            _ => {
                Err(wrong("tool_choice", choice, "\"none\", \"auto\", \"required\" or an object that names a function"))
            }
        },
        Some(object @ Value::Object(_)) => {
            let name = function_of("tool_choice", object)?.get("name");
            let Some(Value::String(name)) = name else {
                return Err(wrong("tool_choice.function.name", name, "the name of one of `tools`"));
            };
            if tools.is_empty() {
                return Err(ToolError::NoTools { choice: "function" });
            }
            if !tools.iter().any(|tool| tool.name == *name) {
                return Err(ToolError::UnknownFunction { name: name.chars().take(MAX_SHOWN_CHARS).collect() });
            }
            Ok(ToolChoice::Named(name.clone()))
        }
        other => {
            Err(wrong("tool_choice", other, "\"none\", \"auto\", \"required\" or an object that names a function"))
        }
    }
}

fn flag(field: &str, value: Option<&Value>) -> Result<Option<bool>, ToolError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        other => Err(wrong(field, other, "true or false")),
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=MAX_NAME_CHARS).contains(&name.len()) && name.chars().all(allowed)
}

fn wrong(field: &str, found: Option<&Value>, allowed: &'static str) -> ToolError {
    let found = match found {
        None => "missing".to_owned(),
        Some(Value::Array(_)) => "an array".to_owned(),
        Some(Value::Object(_)) => "an object".to_owned(),
        Some(Value::String(text)) => format!("{:?}", text.chars().take(MAX_SHOWN_CHARS).collect::<String>()),
        Some(other) => other.to_string(),
    };
    ToolError::Value { field: field.to_owned(), found, allowed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: Value) -> Result<ToolRequest, ToolError> {
        ToolRequest::parse(body.get("tools"), body.get("tool_choice"), body.get("parallel_tool_calls"))
    }

    fn function(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}})
    }

    #[test]
    fn tools_are_read_as_sent() {
        let raw = json!({"type": "function", "function": {
            "name": "get.weather-2_b", "description": "Weather.", "parameters": {"properties": {}}, "strict": true}, "x": 1});
        let request = parse(json!({"tools": [raw, {"function": {"name": "f", "description": null}}]})).unwrap();
        let expected = Tool {
            name: "get.weather-2_b".into(),
            description: Some("Weather.".into()),
            parameters: Some(json!({"properties": {}})),
            strict: true,
            raw,
        };
        assert_eq!(request.tools.first(), Some(&expected));
        assert_eq!((request.choice, request.parallel), (ToolChoice::Auto, true));
    }

    #[test]
    fn choices_are_read() {
        let choice = |choice: Value| {
            parse(json!({"tools": [function("f")], "tool_choice": choice, "parallel_tool_calls": false})).unwrap()
        };
        assert_eq!(choice(json!(null)).choice, ToolChoice::Auto);
        assert_eq!(choice(json!("auto")).choice, ToolChoice::Auto);
        assert_eq!(choice(json!("none")).choice, ToolChoice::None);
        assert_eq!(choice(json!("required")).choice, ToolChoice::Required);
        assert_eq!(
            choice(json!({"type": "function", "function": {"name": "f"}})).choice,
            ToolChoice::Named("f".into())
        );
        assert!(!choice(json!("auto")).parallel);
    }

    #[test]
    fn no_tools_mean_no_calls() {
        for body in [json!({}), json!({"tools": null}), json!({"tools": []}), json!({"tool_choice": "auto"})] {
            assert_eq!(parse(body).unwrap(), ToolRequest { tools: vec![], choice: ToolChoice::None, parallel: true });
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let with = |key: &str, value: Value| {
            let mut body = json!({"tools": [function("f"), function("g")]});
            let (fields, key) = match key.strip_prefix("1.") {
                Some(key) => (body.pointer_mut("/tools/1/function").unwrap(), key),
                None => (&mut body, key),
            };
            fields.as_object_mut().unwrap().insert(key.to_owned(), value);
            body
        };
        let name = "it must be 1 to 64 letters (a-z, A-Z), digits, `_`, `.` or `-`";
        let choice = "it must be \"none\", \"auto\", \"required\" or an object that names a function";
        for (body, field, text) in [
            (with("tools", json!({})), "tools", "`tools` is an object; it must be an array of functions".to_owned()),
            (
                with("tools", json!([7])),
                "tools[0]",
                "`tools[0]` is 7; it must be an object with `type` and `function`".into(),
            ),
            (
                with("tools", json!([{"type": "retrieval"}])),
                "tools[0].type",
                "`tools[0].type` is \"retrieval\"; it must be \"function\"".into(),
            ),
            (
                with("tools", json!([{"type": "function"}])),
                "tools[0].function",
                "`tools[0].function` is missing; it must be an object with a `name`".into(),
            ),
            (with("1.name", json!("")), "tools[1].function.name", format!("`tools[1].function.name` is \"\"; {name}")),
            (
                with("1.name", json!("a b")),
                "tools[1].function.name",
                format!("`tools[1].function.name` is \"a b\"; {name}"),
            ),
            (
                with("1.name", json!(null)),
                "tools[1].function.name",
                format!("`tools[1].function.name` is null; {name}"),
            ),
            (
                with("1.name", json!("é".repeat(999))),
                "tools[1].function.name",
                format!("`tools[1].function.name` is \"{}\"; {name}", "é".repeat(80)),
            ),
            (
                with("1.name", json!("f")),
                "tools[1].function.name",
                "`tools[1].function.name` is \"f\", as is `tools[0].function.name`; names must differ".into(),
            ),
            (
                with("1.parameters", json!(null)),
                "tools[1].function.parameters",
                "`tools[1].function.parameters` is null; it must be an object, a JSON schema, or left out".into(),
            ),
            (
                with("1.parameters", json!([])),
                "tools[1].function.parameters",
                "`tools[1].function.parameters` is an array; it must be an object, a JSON schema, or left out".into(),
            ),
            (
                with("1.parameters", json!({"type": "string"})),
                "tools[1].function.parameters.type",
                "`tools[1].function.parameters.type` is \"string\"; it must be \"object\"".into(),
            ),
            (
                with("1.strict", json!("yes")),
                "tools[1].function.strict",
                "`tools[1].function.strict` is \"yes\"; it must be true or false".into(),
            ),
            (
                with("1.description", json!(1)),
                "tools[1].function.description",
                "`tools[1].function.description` is 1; it must be a string".into(),
            ),
            (
                with("parallel_tool_calls", json!(1)),
                "parallel_tool_calls",
                "`parallel_tool_calls` is 1; it must be true or false".into(),
            ),
            (with("tool_choice", json!("any")), "tool_choice", format!("`tool_choice` is \"any\"; {choice}")),
            (with("tool_choice", json!(true)), "tool_choice", format!("`tool_choice` is true; {choice}")),
            (
                with("tool_choice", json!({"type": "function", "function": {}})),
                "tool_choice.function.name",
                "`tool_choice.function.name` is missing; it must be the name of one of `tools`".into(),
            ),
            (
                with("tool_choice", json!({"type": "function", "function": {"name": "h"}})),
                "tool_choice",
                "`tool_choice` names the function `h`, which is not among `tools`".into(),
            ),
            (
                json!({"tool_choice": "required"}),
                "tool_choice",
                "`tool_choice` is `required`, but there are no `tools`; name at least one function in `tools`".into(),
            ),
            (
                with("tools", (0..129).map(|i| function(&format!("f{i}"))).collect()),
                "tools",
                "`tools` has 129 entries; at most 128 are allowed".into(),
            ),
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!((error.field().as_str(), error.to_string()), (field, text));
            let api = ApiError::from(error);
            assert_eq!((api.status.as_u16(), api.param.as_deref()), (400, Some(field)));
        }
    }
}
