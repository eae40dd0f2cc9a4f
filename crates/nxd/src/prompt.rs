//! What is to be continued.

use serde_json::{Value, json};

/// What is to be continued: text, tokens or a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, encoded with the special tokens that the model expects around it.
    Text(String),
    /// Token ids, taken as they are.
    Ids(Vec<u32>),
    /// A conversation for the model's chat template: objects with `role` and `content`, and whatever else the template knows.
    Messages(Vec<Value>),
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }

    /// What the model is told about its task.
    pub fn system(content: impl Into<String>) -> Self {
        Message::new("system", content)
    }

    /// What a person says.
    pub fn user(content: impl Into<String>) -> Self {
        Message::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Message::new("assistant", content)
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Prompt::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Prompt::Text(text)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Self {
        Prompt::Ids(ids)
    }
}

impl From<&[Message]> for Prompt {
    fn from(messages: &[Message]) -> Self {
        Prompt::Messages(messages.iter().map(|m| json!({"role": m.role, "content": m.content})).collect())
    }
}
