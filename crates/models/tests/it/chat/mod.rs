//! Chat templates: golden conversations, what templates of real models use, and malformed ones.

mod golden;
mod malformed;
mod rendering;

use nxd_models::chat::{ChatError, ChatTemplate, Conversation};
use serde_json::{Value, json};

/// Renders `template` over one message, with `x` as a further variable.
fn render(template: &str, x: Value) -> Result<String, ChatError> {
    let messages = [json!({ "role": "user", "content": "hi" })];
    let extra = json!({ "x": x }).as_object().unwrap().clone();
    let special = vec![("bos_token".to_owned(), "<s>".to_owned())];
    ChatTemplate::new(template.to_owned(), "tokenizer_config.json: `chat_template`".to_owned(), special)
        .render(&Conversation { messages: &messages, extra, ..Conversation::default() })
}
