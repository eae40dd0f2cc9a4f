//! What a choice of tools means for a reply: what constrains it, and what reads it.

use super::Format;
use super::parser::ToolParser;
use super::request::{Tool, ToolChoice, ToolError};
use serde_json::{Map, Value, json};

/// How a reply is to be written and read.
#[derive(Clone, Debug, Default)]
pub struct ToolPlan {
    /// The JSON schema that the reply has to match.
    pub constraint: Option<Value>,
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
            let parser = ToolParser::new(format.ok_or(ToolError::NoFormat)?, &known);
            let parser = if parallel { parser } else { parser.only_first() };
            Ok(ToolPlan { constraint: None, parser: Some(parser), keep_special: true })
        }
        ToolChoice::Required if tools.is_empty() => Err(ToolError::NoTools { choice: "required" }),
        ToolChoice::Required => {
            let parser = Some(ToolParser::forced(&known));
            Ok(ToolPlan { constraint: Some(list_of_calls(tools, parallel)), parser, keep_special: false })
        }
        ToolChoice::Named(name) => {
            let tool = tools.iter().find(|tool| tool.name == *name);
            let tool = tool.ok_or_else(|| ToolError::UnknownFunction { name: name.clone() })?;
            let parser = Some(ToolParser::forced_one(name));
            Ok(ToolPlan { constraint: Some(Value::Object(arguments(tool))), parser, keep_special: false })
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

fn list_of_calls(tools: &[Tool], parallel: bool) -> Value {
    let mut definitions = Map::new();
    let mut calls = Vec::new();
    for tool in tools {
        let mut parameters = Value::Object(arguments(tool));
        if let Value::Object(schema) = &mut parameters {
            // References are resolved against the root, which is no longer this schema.
            schema.remove("$id");
        }
        if move_references(&mut parameters, &format!("#/$defs/{}", tool.name)) {
            definitions.insert(tool.name.clone(), parameters);
            parameters = json!({"$ref": format!("#/$defs/{}", tool.name)});
        }
        calls.push(json!({
            "type": "object",
            "properties": {"name": {"type": "string", "enum": [tool.name]}, "parameters": parameters},
            "required": ["name", "parameters"],
            "additionalProperties": false,
        }));
    }
    let mut list = json!({"type": "array", "items": {"anyOf": calls}, "minItems": 1});
    if let Value::Object(list) = &mut list {
        if !parallel {
            list.insert("maxItems".to_owned(), json!(1));
        }
        if !definitions.is_empty() {
            list.insert("$defs".to_owned(), Value::Object(definitions));
        }
    }
    list
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
        let schema =
            |name: &str| plan(&tools(), &ToolChoice::Named(name.into()), true, None).unwrap().constraint.unwrap();
        assert_eq!(schema("time"), json!({"type": "object", "properties": {}, "additionalProperties": false}));
        assert_eq!(schema("weather"), json!({"properties": {"city": {"type": "string"}}, "type": "object"}));
        assert_eq!(schema("tree")["properties"]["left"], json!({"$ref": "#"}));
        let error = plan(&tools(), &ToolChoice::Named("x".into()), true, None).unwrap_err();
        assert_eq!(error.to_string(), "`tool_choice` names the function `x`, which is not among `tools`");
    }

    #[test]
    fn required_constrains_to_a_list_of_calls() {
        let schema = |parallel| plan(&tools(), &ToolChoice::Required, parallel, None).unwrap().constraint.unwrap();
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
        let list = plan(&tools(), &ToolChoice::Required, true, None).unwrap().constraint.unwrap();
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
