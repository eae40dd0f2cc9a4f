//! A conversation: its messages checked, and written as chat templates expect them.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use crate::error::ApiError;
use crate::openai::fields::{Field, Fields, Flag, Other, found, too_many, wrong};
use crate::options::ServerOptions;
use nxd_models::Tokenizer;
use nxd_models::chat::{ChatError, ChatTemplate, Conversation};
use serde_json::{Map, Value, json};

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 4096;
const ROLES: &str = "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"";
/// Variables of a template that belong to the server.
const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "chat_template",
    "strftime_now",
];

pub(in crate::openai) const MESSAGES: Other = Other {
    name: "messages",
    about: "The conversation.",
    schema: || {
        let part = json!({"type": "object", "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}}, "required": ["type", "text"]});
        let content = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": part}, {"type": "null"}]});
        let role = json!({"enum": ["system", "developer", "user", "assistant", "tool"]});
        let properties = json!({"role": role, "content": content, "tool_calls": {"type": ["array", "null"]}, "tool_call_id": {"type": "string"}});
        let message = json!({"type": "object", "properties": properties, "required": ["role"]});
        json!({"type": "array", "items": message, "minItems": 1, "maxItems": MAX_MESSAGES})
    },
};
const ADD_GENERATION_PROMPT: Flag =
    Flag { name: "add_generation_prompt", about: "End with the opening of the assistant's turn; true where absent." };
const CONTINUE_FINAL: Flag =
    Flag { name: "continue_final_message", about: "Go on with the last message, which is the assistant's." };
const CHAT_TEMPLATE: Other = Other {
    name: "chat_template",
    about: "A template in place of the model's, where the server allows that.",
    schema: || json!({"type": ["string", "null"]}),
};
const TEMPLATE_KWARGS: Other = Other {
    name: "chat_template_kwargs",
    about: "Further variables of the template, such as `enable_thinking`.",
    schema: || json!({"type": ["object", "null"]}),
};

/// The fields that this file reads.
pub(in crate::openai) const FIELDS: &[&dyn Field] =
    &[&MESSAGES, &ADD_GENERATION_PROMPT, &CONTINUE_FINAL, &CHAT_TEMPLATE, &TEMPLATE_KWARGS];

/// A conversation that has been read.
#[derive(Clone, Debug)]
pub(in crate::openai) struct Chat {
    messages: Vec<Value>,
    add_generation_prompt: bool,
    continue_final: bool,
    template: Option<String>,
    extra: Map<String, Value>,
}

impl Chat {
    /// Reads the fields.
    ///
    /// # Errors
    /// The first one that is wrong.
    pub(in crate::openai) fn read(fields: &Fields, options: &ServerOptions) -> Result<Chat, ApiError> {
        let name = MESSAGES.name;
        let list = match fields.get(name) {
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(ApiError::invalid(name, "`messages` is empty; at least one message is needed"));
            }
            Some(Value::Array(list)) if list.len() > MAX_MESSAGES => {
                return Err(too_many(name, list.len(), MAX_MESSAGES));
            }
            Some(Value::Array(list)) => list,
            Some(other) => return Err(wrong(name, other, "a list of messages")),
            None => return Err(ApiError::invalid(name, "`messages` is missing; a list of messages is allowed")),
        };
        let messages = list
            .iter()
            .enumerate()
            .map(|(index, value)| message(&format!("{name}[{index}]"), value))
            .collect::<Result<Vec<_>, _>>()?;
        let is_assistant = |value: Option<&Value>| value.is_some_and(|value| role_of(value) == Some("assistant"));
        let mut latest = messages.iter().rev();
        let continues = is_assistant(latest.next());
        if continues && is_assistant(latest.next()) {
            return Err(ApiError::invalid(name, "`messages` ends with two messages of the assistant; join them"));
        }
        let continue_final = CONTINUE_FINAL.is_set(fields)?;
        let add_generation_prompt = match ADD_GENERATION_PROMPT.read(fields)? {
            Some(true) if continue_final => {
                let message = "`continue_final_message` and `add_generation_prompt` cannot both be true";
                return Err(ApiError::invalid(CONTINUE_FINAL.name, message));
            }
            said => said.unwrap_or(!continue_final),
        };
        if continue_final && !continues {
            let message = "`continue_final_message` is true, but the last message is not the assistant's";
            return Err(ApiError::invalid(CONTINUE_FINAL.name, message));
        }
        let template = match fields.get(CHAT_TEMPLATE.name) {
            None => None,
            Some(Value::String(text)) if options.trust_request_chat_template => Some(text.clone()),
            Some(Value::String(_)) => {
                let message = "`chat_template` is not taken from requests here; leave it out, or start the server with --trust-request-chat-template";
                return Err(ApiError::invalid(CHAT_TEMPLATE.name, message));
            }
            Some(other) => return Err(wrong(CHAT_TEMPLATE.name, other, "a string")),
        };
        let extra = match fields.get(TEMPLATE_KWARGS.name) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(other) => return Err(wrong(TEMPLATE_KWARGS.name, other, "an object")),
        };
        if let Some(reserved) = extra.keys().find(|key| RESERVED.contains(&key.as_str()) || key.ends_with("_token")) {
            let field = format!("{}.{reserved}", TEMPLATE_KWARGS.name);
            return Err(ApiError::invalid(field.clone(), format!("`{field}` is the server's; leave it out")));
        }
        Ok(Chat { messages, add_generation_prompt, continue_final, template, extra })
    }

    /// The text that an `echo` repeats: what the reply goes on with.
    pub(in crate::openai) fn continued(&self) -> Option<&str> {
        let last = if self.continue_final { self.messages.last() } else { None };
        last.and_then(|message| message.get("content")).and_then(Value::as_str)
    }

    /// The conversation as the model's template writes it.
    ///
    /// # Errors
    /// When there is no template, or it refuses the conversation.
    pub(in crate::openai) fn render(
        &self,
        tokenizer: Option<&Tokenizer>,
        tools: Option<&[Value]>,
    ) -> Result<String, ApiError> {
        let brought = self.template.as_ref().map(|text| {
            let special = tokenizer.map(|tokenizer| tokenizer.special_tokens().to_vec()).unwrap_or_default();
            ChatTemplate::new(text.clone(), CHAT_TEMPLATE.name.to_owned(), special)
        });
        let own = tokenizer.and_then(Tokenizer::chat_template);
        let template = brought.as_ref().or(own).ok_or_else(|| {
            ApiError::invalid(MESSAGES.name, "this model has no chat template; send a text to /v1/completions")
        })?;
        let messages = self.for_template(template.text());
        let conversation = Conversation {
            messages: &messages,
            tools,
            add_generation_prompt: self.add_generation_prompt,
            extra: self.extra.clone(),
            now: None,
        };
        let mut text = template.render(&conversation).map_err(|error| failed(&error))?;
        if let Some(last) = self.continued() {
            let last = last.trim();
            let end = text.rfind(last).filter(|_| !last.is_empty()).map(|at| at.saturating_add(last.len()));
            let Some(end) = end else {
                let message =
                    "`continue_final_message` cannot hold: the chat template changes the last message, or it is empty";
                return Err(ApiError::invalid(CONTINUE_FINAL.name, message));
            };
            text.truncate(end);
        }
        Ok(text)
    }

    /// Templates that do not know developers are told of a system.
    fn for_template(&self, template: &str) -> Vec<Value> {
        let mut messages = self.messages.clone();
        if !template.contains("developer") {
            for message in messages.iter_mut().filter(|message| role_of(message) == Some("developer")) {
                if let Some(role) = message.get_mut("role") {
                    *role = "system".into();
                }
            }
        }
        messages
    }
}

/// What a template's error says to a client: not where the template lies.
fn failed(error: &ChatError) -> ApiError {
    let message = match error {
        ChatError::Raised(words) => words.clone(),
        ChatError::Syntax { line, reason, .. } => format!("the chat template cannot be parsed (line {line}): {reason}"),
        ChatError::Failed { line, reason, .. } => format!("the chat template failed (line {line}): {reason}"),
        ChatError::OutOfFuel { fuel, .. } => format!("the chat template was stopped after {fuel} steps"),
        ChatError::TooMuchOutput { allowed, .. } => format!("the chat template writes more than {allowed} bytes"),
        ChatError::TooLong { found, allowed, .. } => {
            format!("the chat template has {found} bytes; at most {allowed} are allowed")
        }
        _ => "the chat template failed".to_owned(),
    };
    ApiError::invalid(MESSAGES.name, message)
}

fn role_of(message: &Value) -> Option<&str> {
    message.get("role").and_then(Value::as_str)
}

/// A message with its content as one text and its calls' arguments as objects; `at` names it.
fn message(at: &str, value: &Value) -> Result<Value, ApiError> {
    let Value::Object(sent) = value else { return Err(wrong(at, value, "an object with `role` and `content`")) };
    let field = |name: &str| format!("{at}.{name}");
    let get = |name: &str| sent.get(name).filter(|value| !value.is_null());
    let role = match get("role") {
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(wrong(&field("role"), other, ROLES)),
        None => return Err(missing(&field("role"), ROLES)),
    };
    if !["system", "developer", "user", "assistant", "tool"].contains(&role) {
        return Err(wrong(&field("role"), &Value::from(role), ROLES));
    }
    let mut written = sent.clone();
    let calls = match get("tool_calls") {
        None => Vec::new(),
        Some(Value::Array(list)) if role == "assistant" => {
            let one = |(index, call): (usize, &Value)| tool_call(&format!("{at}.tool_calls[{index}]"), call);
            list.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?
        }
        Some(Value::Array(_)) => {
            return Err(ApiError::invalid(
                field("tool_calls"),
                format!("`{at}` is no message of the assistant; leave its `tool_calls` out"),
            ));
        }
        Some(other) => return Err(wrong(&field("tool_calls"), other, "a list of calls")),
    };
    let content = match get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => joined(&field("content"), parts)?,
        Some(other) => return Err(wrong(&field("content"), other, "a text or a list of parts")),
        None if !calls.is_empty() => String::new(),
        None => return Err(missing(&field("content"), "a text")),
    };
    written.insert("content".to_owned(), content.into());
    if calls.is_empty() {
        written.remove("tool_calls");
    } else {
        written.insert("tool_calls".to_owned(), calls.into());
    }
    match get("tool_call_id") {
        Some(Value::String(_)) => {}
        Some(other) => return Err(wrong(&field("tool_call_id"), other, "the `id` of a call")),
        None if role == "tool" => return Err(missing(&field("tool_call_id"), "the `id` of the call that it answers")),
        None => {}
    }
    match get("name") {
        None | Some(Value::String(_)) => {}
        Some(other) => return Err(wrong(&field("name"), other, "a string")),
    }
    Ok(Value::Object(written))
}

/// The texts of a message's parts.
fn joined(at: &str, parts: &[Value]) -> Result<String, ApiError> {
    let text = |(index, part): (usize, &Value)| {
        let at = format!("{at}[{index}]");
        let Value::Object(part) = part else { return Err(wrong(&at, part, "an object with `type` and `text`")) };
        match part.get("type") {
            Some(Value::String(kind)) if kind == "text" => {}
            Some(Value::String(kind)) => {
                let kind = found(&Value::from(kind.as_str()));
                let message = format!("`{at}.type` is {kind}; only \"text\" is supported, and nothing is fetched");
                return Err(ApiError::invalid(format!("{at}.type"), message));
            }
            Some(other) => return Err(wrong(&format!("{at}.type"), other, "\"text\"")),
            None => return Err(missing(&format!("{at}.type"), "\"text\"")),
        }
        match part.get("text") {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(wrong(&format!("{at}.text"), other, "a string")),
            None => Err(missing(&format!("{at}.text"), "a string")),
        }
    };
    Ok(parts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// A call of an earlier turn. Templates write arguments themselves, so they get an object.
fn tool_call(at: &str, call: &Value) -> Result<Value, ApiError> {
    let Value::Object(sent) = call else { return Err(wrong(at, call, "an object with `function`")) };
    let at_function = format!("{at}.function");
    let function = match sent.get("function") {
        Some(Value::Object(function)) => function,
        Some(other) => return Err(wrong(&at_function, other, "an object with `name` and `arguments`")),
        None => return Err(missing(&at_function, "an object with `name` and `arguments`")),
    };
    let field = format!("{at_function}.name");
    match function.get("name") {
        Some(Value::String(_)) => {}
        Some(other) => return Err(wrong(&field, other, "a string")),
        None => return Err(missing(&field, "a string")),
    }
    let field = format!("{at_function}.arguments");
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(arguments @ Value::Object(_)) => arguments,
            _ => return Err(wrong(&field, &Value::from(text.as_str()), "the text of a JSON object")),
        },
        Some(object @ Value::Object(_)) => object.clone(),
        Some(other) => return Err(wrong(&field, other, "the text of a JSON object")),
    };
    let mut function = function.clone();
    function.insert("arguments".to_owned(), arguments);
    let mut written = sent.clone();
    written.insert("type".to_owned(), "function".into());
    written.insert("function".to_owned(), function.into());
    Ok(written.into())
}

fn missing(field: &str, allowed: &str) -> ApiError {
    ApiError::invalid(field, format!("`{field}` is missing; {allowed} is allowed"))
}
