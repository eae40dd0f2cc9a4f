//! `POST /tokenize` and `POST /detokenize`, with vLLM's bodies.

use super::chat::{Chat, MESSAGE_FIELDS, MESSAGES};
use super::fields::{Field, Fields, Flag, Ids, Text};
use super::generate::blocking;
use super::params::asked_model;
use super::prompt::{Encoding, Prompt};
use crate::error::ApiError;
use crate::state::App;
use crate::tools::ToolRequest;
use axum::Json;
use axum::extract::State;
use nxd_models::{Model, Tokenizer};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

const PROMPT: Text = Text { name: "prompt", about: "A text.", min_chars: 0, max_chars: usize::MAX };
const CONTENT: Text =
    Text { name: "content", about: "The same, as llama.cpp calls it.", min_chars: 0, max_chars: usize::MAX };
const STRINGS: Flag = Flag { name: "return_token_strs", about: "Return the tokens' texts too." };
const ADD_SPECIAL: Flag = Flag {
    name: "add_special_tokens",
    about: "Add what the model expects around a text; true where absent, for a prompt.",
};
const TOKENS: Ids = Ids { name: "tokens", about: "Token ids.", max_items: 1 << 24 };

/// The fields of a text to encode.
pub(super) fn fields() -> Vec<&'static dyn Field> {
    let own: [&dyn Field; 4] = [&PROMPT, &CONTENT, &STRINGS, &ADD_SPECIAL];
    [&own[..], MESSAGE_FIELDS].concat()
}

/// The fields of tokens to decode.
pub(super) fn detokenize_fields() -> Vec<&'static dyn Field> {
    vec![&TOKENS]
}

/// A text's tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct TokenizeReply {
    /// How many.
    count: usize,
    /// Tokens of the context.
    max_model_len: usize,
    tokens: Vec<u32>,
    /// Their texts, where asked for.
    token_strs: Option<Vec<String>>,
}

/// Tokens' text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct DetokenizeReply {
    prompt: String,
}

/// The tokens of a text or a conversation.
pub(super) async fn tokenize(State(app): State<Arc<App>>, fields: Fields) -> Result<Json<TokenizeReply>, ApiError> {
    let handle = app.model()?;
    asked_model(&fields, &app)?;
    let strings = STRINGS.is_set(&fields)?;
    let chat = fields.get(MESSAGES.name).is_some();
    let encoding = Encoding::read(&fields, !chat)?;
    let source = if chat {
        let tools = ToolRequest::parse(fields.get("tools"), None, None)?;
        Source::Chat(Box::new(Chat::read(&fields, &app.options)?), tools)
    } else {
        let text = PROMPT.read(&fields)?.or(CONTENT.read(&fields)?);
        let missing = || ApiError::invalid(PROMPT.name, "`prompt` is missing; a text, or `messages`, is allowed");
        Source::Text(text.ok_or_else(missing)?)
    };
    let (model, max_model_len) = (Arc::clone(handle.model()), handle.info().max_model_len);
    let reply = blocking(move || {
        let tokenizer = tokenizer(&model, PROMPT.name)?;
        let text = match source {
            Source::Text(text) => text,
            Source::Chat(chat, tools) => {
                let shown: Vec<_> = tools.tools.into_iter().map(|tool| tool.raw).collect();
                chat.render(Some(tokenizer), (!shown.is_empty()).then_some(shown.as_slice()))?
            }
        };
        // Counting is what a text is sent here for, so its length has no limit but the body's.
        let tokens = encoding.tokens(Prompt::Text(text), Some(tokenizer), usize::MAX, PROMPT.name)?;
        let string = |&id: &u32| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
        let token_strs = strings.then(|| tokens.iter().map(string).collect());
        Ok(TokenizeReply { count: tokens.len(), max_model_len, tokens, token_strs })
    });
    Ok(Json(reply.await?))
}

/// The text of tokens.
pub(super) async fn detokenize(State(app): State<Arc<App>>, fields: Fields) -> Result<Json<DetokenizeReply>, ApiError> {
    let handle = app.model()?;
    asked_model(&fields, &app)?;
    let tokens = TOKENS.read(&fields, handle.info().vocab_size)?;
    let tokens =
        tokens.ok_or_else(|| ApiError::invalid(TOKENS.name, "`tokens` is missing; a list of token ids is allowed"))?;
    let model = Arc::clone(handle.model());
    let reply =
        blocking(move || Ok(DetokenizeReply { prompt: tokenizer(&model, TOKENS.name)?.decode(&tokens, false) }));
    Ok(Json(reply.await?))
}

enum Source {
    Text(String),
    Chat(Box<Chat>, ToolRequest),
}

fn tokenizer<'a>(model: &'a Model, field: &str) -> Result<&'a Tokenizer, ApiError> {
    model.tokenizer().ok_or_else(|| ApiError::invalid(field, "this model has no tokenizer"))
}
