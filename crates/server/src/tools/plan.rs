//! What a choice of tools means for a reply: what constrains it, and what reads it.

use super::Format;
use super::parser::ToolParser;
use super::request::{Tool, ToolChoice, ToolError};
use serde_json::{Map, Value, json};

/// What a reply has to keep to.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// The whole of it is JSON of this schema.
    Json(Value),
    /// What stands in a frame is JSON of this schema; the rest is free.
    Frames {
        /// What begins a frame.
        opening: &'static str,
        /// What ends it.
        closing: &'static str,
        /// A call, or a list of calls.
        schema: Value,
        /// Whether there may be more than one frame.
        several: bool,
    },
}

/// How a reply is to be written and read.
#[derive(Clone, Debug, Default)]
pub struct ToolPlan {
    /// What it is held to; `None` for text without bounds.
    pub constraint: Option<Held>,
    /// Finds the calls; one for every completion of a request. `None` when the reply is content.
    pub parser: Option<ToolParser>,
    /// Whether the parser has to see special tokens: the markers of calls are among them in many models.
    pub keep_special: bool,
}

/// Plans replies to a request with `tools`. Without `parallel` a reply has at most one call.
///
/// # Errors
/// A choice that `tools` cannot fulfil, or calls left to a model of which no `format` is known.
pub fn plan(
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    format: Option<Format>,
) -> Result<ToolPlan, ToolError> {
    let known: Vec<String> = tools.iter().map(|tool| tool.name.clone()).collect();
    match choice {
        ToolChoice::None => Ok(ToolPlan::default()),
        ToolChoice::Auto if tools.is_empty() => Ok(ToolPlan::default()),
        ToolChoice::Auto => {
            let format = format.ok_or(ToolError::NoFormat)?;
            let parser = ToolParser::new(format, &known);
            let parser = if parallel { parser } else { parser.only_first() };
            let constraint = if tools.iter().any(|tool| tool.strict) { framed(tools, parallel, format) } else { None };
            Ok(ToolPlan { constraint, parser: Some(parser), keep_special: true })
        }
        ToolChoice::Required if tools.is_empty() => Err(ToolError::NoTools { choice: "required" }),
        ToolChoice::Required => {
            let parser = Some(ToolParser::forced(&known));
            let constraint = Some(Held::Json(list_of_calls(tools, parallel)));
            Ok(ToolPlan { constraint, parser, keep_special: false })
        }
        ToolChoice::Named(name) => {
            let tool = tools.iter().find(|tool| tool.name == *name);
            let tool = tool.ok_or_else(|| ToolError::UnknownFunction { name: name.clone() })?;
            let parser = Some(ToolParser::forced_one(name));
            let constraint = Some(Held::Json(Value::Object(arguments(tool))));
            Ok(ToolPlan { constraint, parser, keep_special: false })
        }
    }
}

/// The schema of a function's arguments, which are an object whatever else the request says of them.
fn arguments(tool: &Tool) -> Map<String, Value> {
    let Some(Value::Object(parameters)) = &tool.parameters else {
        let nothing = [("type", json!("object")), ("properties", json!({})), ("additionalProperties", json!(false))];
        return nothing.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    };
    let mut schema = parameters.clone();
    schema.entry("type").or_insert_with(|| json!("object"));
    schema
}

/// What holds calls that the model makes of its own accord to their schemas; `None` for formats in which a call has no frame of its own, so
/// that nothing tells it from text before it is whole.
fn framed(tools: &[Tool], parallel: bool, format: Format) -> Option<Held> {
    let (opening, closing) = format.syntax().frame()?;
    let (calls, definitions) = calls(tools, "arguments", |tool| tool.strict);
    let most = if parallel { None } else { Some(1) };
    let mut schema = json!({"anyOf": [{"anyOf": calls}, list(&calls, most)]});
    define(&mut schema, definitions);
    Some(Held::Frames { opening, closing, schema, several: parallel })
}

fn list_of_calls(tools: &[Tool], parallel: bool) -> Value {
    let (calls, definitions) = calls(tools, "parameters", |_| true);
    let mut list = list(&calls, if parallel { None } else { Some(1) });
    define(&mut list, definitions);
    list
}

/// A list of at least one and at most `most` of `calls`.
fn list(calls: &[Value], most: Option<u32>) -> Value {
    let mut list = json!({"type": "array", "items": {"anyOf": calls}, "minItems": 1});
    if let Some(most) = most {
        list["maxItems"] = json!(most);
    }
    list
}

fn define(schema: &mut Value, definitions: Map<String, Value>) {
    if !definitions.is_empty() {
        schema["$defs"] = Value::Object(definitions);
    }
}

/// The schema of a call of each function, whose arguments stand under `key`, and what these schemas refer to. Arguments of functions that
/// are not `held` are any object.
fn calls(tools: &[Tool], key: &str, held: impl Fn(&Tool) -> bool) -> (Vec<Value>, Map<String, Value>) {
    let mut definitions = Map::new();
    let mut calls = Vec::new();
    for tool in tools {
        let mut parameters = if held(tool) { Value::Object(arguments(tool)) } else { json!({"type": "object"}) };
        if let Value::Object(schema) = &mut parameters {
            // References are resolved against the root, which is no longer this schema.
            schema.remove("$id");
        }
        if move_references(&mut parameters, &format!("#/$defs/{}", tool.name)) {
            definitions.insert(tool.name.clone(), parameters);
            parameters = json!({"$ref": format!("#/$defs/{}", tool.name)});
        }
        let mut properties = Map::new();
        properties.insert("name".to_owned(), json!({"type": "string", "enum": [tool.name]}));
        properties.insert(key.to_owned(), parameters);
        calls.push(json!({
            "type": "object",
            "properties": properties,
            "required": ["name", key],
            "additionalProperties": false,
        }));
    }
    (calls, definitions)
}

/// Points the references of a schema that now stands at `root` to where their targets are; whether there were any.
fn move_references(schema: &mut Value, root: &str) -> bool {
    match schema {
        Value::Array(all) => all.iter_mut().fold(false, |any, each| move_references(each, root) | any),
        Value::Object(fields) => {
            let mut any = false;
            for (key, value) in fields {
                any |= match (key.as_str(), value) {
                    ("$ref", Value::String(target)) if target == "#" || target.starts_with("#/") => {
                        target.replace_range(..1, root);
                        true
                    }
                    // Data, in which a `$ref` is no reference.
                    ("const" | "enum" | "default" | "examples", _) => false,
                    // Names of the request's own, which are no keywords.
                    ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(named)) => {
                        named.values_mut().fold(false, |any, each| move_references(each, root) | any)
                    }
                    (_, value) => move_references(value, root),
                };
            }
            any
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::ToolRequest;

    fn tools() -> Vec<Tool> {
        let tools = json!([
            {"type": "function", "function": {"name": "time"}},
            {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}},
            {"type": "function", "function": {"name": "tree", "parameters": {
                "type": "object",
                "$id": "https://example.org/tree",
                "properties": {
                    "left": {"$ref": "#"},
                    "enum": {"$ref": "#/$defs/leaf"},
                    "$ref": {"enum": [{"$ref": "#"}], "default": {"$ref": "#"}},
                },
                "anyOf": [{"not": {"$ref": "#/definitions/none"}}, {"$ref": "https://example.org/else"}],
                "$defs": {"leaf": {"type": "integer"}},
                "definitions": {"none": {"$ref": "#/$defs/leaf"}},
            }}},
        ]);
        ToolRequest::parse(Some(&tools), None, None).unwrap().tools
    }

    fn json_of(plan: ToolPlan) -> Value {
        let Some(Held::Json(schema)) = plan.constraint else { panic!("{plan:?}") };
        schema
    }

    #[test]
    fn strict_functions_are_held_to_their_schemas_once_a_call_begins() {
        let mut tools = tools();
        tools[1].strict = true;
        for parallel in [true, false] {
            let plan = plan(&tools, &ToolChoice::Auto, parallel, Some(Format::Hermes)).unwrap();
            assert!(plan.parser.is_some() && plan.keep_special);
            let Some(Held::Frames { opening, closing, schema, several }) = plan.constraint else { panic!("no frames") };
            assert_eq!((opening, closing, several), ("<tool_call>", "</tool_call>", parallel));
            let calls = &schema["anyOf"][0]["anyOf"];
            assert_eq!(calls[0]["properties"]["arguments"], json!({"type": "object"}), "not strict");
            let weather = json!({"properties": {"city": {"type": "string"}}, "type": "object"});
            assert_eq!(calls[1]["properties"]["arguments"], weather);
            assert_eq!(calls[1]["required"], json!(["name", "arguments"]));
            assert_eq!(&schema["anyOf"][1]["items"]["anyOf"], calls);
            assert_eq!(schema["anyOf"][1].get("maxItems").is_some(), !parallel);
        }
        for format in [Format::Llama3, Format::Mistral] {
            assert_eq!(plan(&tools, &ToolChoice::Auto, true, Some(format)).unwrap().constraint, None);
        }
    }

    #[test]
    fn no_tools_or_none_chosen_is_plain_text() {
        for (tools, choice) in [(tools(), ToolChoice::None), (vec![], ToolChoice::Auto), (vec![], ToolChoice::None)] {
            let plan = plan(&tools, &choice, true, None).unwrap();
            assert!(plan.constraint.is_none() && plan.parser.is_none() && !plan.keep_special);
        }
    }

    #[test]
    fn auto_needs_a_format() {
        let found = plan(&tools(), &ToolChoice::Auto, true, Some(Format::Hermes)).unwrap();
        assert!(found.constraint.is_none() && found.parser.is_some() && found.keep_special);
        let error = plan(&tools(), &ToolChoice::Auto, true, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`tool_choice` is `auto`, but how this model writes calls is not known; set `tool_choice` to `none`, \
             `required` or a function, or start the server with --tool-call-parser (hermes, llama3_json, llama3, mistral)"
        );
    }

    #[test]
    fn a_named_function_constrains_to_its_arguments() {
        let schema = |name: &str| json_of(plan(&tools(), &ToolChoice::Named(name.into()), true, None).unwrap());
        assert_eq!(schema("time"), json!({"type": "object", "properties": {}, "additionalProperties": false}));
        assert_eq!(schema("weather"), json!({"properties": {"city": {"type": "string"}}, "type": "object"}));
        assert_eq!(schema("tree")["properties"]["left"], json!({"$ref": "#"}));
        let error = plan(&tools(), &ToolChoice::Named("x".into()), true, None).unwrap_err();
        assert_eq!(error.to_string(), "`tool_choice` names the function `x`, which is not among `tools`");
    }

    #[test]
    fn required_constrains_to_a_list_of_calls() {
        let schema = |parallel| json_of(plan(&tools(), &ToolChoice::Required, parallel, None).unwrap());
        let many = schema(true);
        assert_eq!((&many["minItems"], &many["maxItems"]), (&json!(1), &Value::Null));
        assert_eq!(schema(false)["maxItems"], json!(1));
        let weather = &many["items"]["anyOf"][1];
        let properties = weather["properties"].as_object().unwrap();
        assert!(properties.keys().eq(["name", "parameters"]), "names come first");
        assert_eq!(properties["name"], json!({"type": "string", "enum": ["weather"]}));
        assert_eq!(properties["parameters"], json!({"properties": {"city": {"type": "string"}}, "type": "object"}));
        assert!(plan(&[], &ToolChoice::Required, true, None).is_err());
    }

    #[test]
    fn references_follow_their_schema() {
        let list = json_of(plan(&tools(), &ToolChoice::Required, true, None).unwrap());
        assert_eq!(list["items"]["anyOf"][2]["properties"]["parameters"], json!({"$ref": "#/$defs/tree"}));
        assert_eq!(
            list["$defs"],
            json!({"tree": {
                "type": "object",
                "properties": {
                    "left": {"$ref": "#/$defs/tree"},
                    "enum": {"$ref": "#/$defs/tree/$defs/leaf"},
                    "$ref": {"enum": [{"$ref": "#"}], "default": {"$ref": "#"}},
                },
                "anyOf": [{"not": {"$ref": "#/$defs/tree/definitions/none"}}, {"$ref": "https://example.org/else"}],
                "$defs": {"leaf": {"type": "integer"}},
                "definitions": {"none": {"$ref": "#/$defs/tree/$defs/leaf"}},
            }})
        );
    }
}
