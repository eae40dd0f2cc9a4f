//! `POST /v1/chat/completions`.

mod messages;
mod reply;

use super::constraint::{self, Asked};
use super::fields::{Field, Fields, Flag, Integer, Other};
use super::generate::{Plan, admit, start};
use super::params::{self, Sampling};
use super::prompt::{self, Encoding, Prompt};
use super::stream;
use crate::error::ApiError;
use crate::state::App;
use crate::tools::{Format, Held, ToolChoice, ToolPlan, ToolRequest, plan};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use nxd_engine::grammar::{Constraint, Frames};
use nxd_engine::service::Handle;
use nxd_models::Tokenizer;
use reply::{Kept, Writer};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) use messages::{Chat, FIELDS as MESSAGE_FIELDS, MESSAGES};
pub(super) use reply::{ChatChunk, ChatReply};

const MAX_TOKENS: Integer = Integer {
    name: "max_tokens",
    about: "Most tokens of a reply; the rest of the context where absent.",
    min: 1,
    max: i64::MAX,
};
const MAX_COMPLETION_TOKENS: Integer = Integer {
    name: "max_completion_tokens",
    about: "The newer name of `max_tokens`, which wins over it.",
    min: 1,
    max: i64::MAX,
};
const LOGPROBS: Flag = Flag { name: "logprobs", about: "Report the log-probability of each token." };
const TOP_LOGPROBS: Integer = Integer {
    name: "top_logprobs",
    about: "Report so many of the most likely tokens with each; needs `logprobs`.",
    min: 0,
    max: 20,
};
const ECHO: Flag = Flag { name: "echo", about: "Repeat the message that is continued." };
const TOOLS: Other = Other {
    name: "tools",
    about: "Functions that the model may call.",
    schema: || {
        let function = json!({"type": "object", "properties": {"name": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"}, "parameters": {"type": "object"}}, "required": ["name"]});
        let tool = json!({"type": "object", "properties": {"type": {"enum": ["function"]}, "function": function}, "required": ["function"]});
        json!({"type": ["array", "null"], "items": tool})
    },
};
const TOOL_CHOICE: Other = Other {
    name: "tool_choice",
    about: "Which of them: `none`, `auto`, `required`, or an object that names one.",
    schema: || json!({"anyOf": [{"enum": ["none", "auto", "required", null]}, {"type": "object"}]}),
};
const PARALLEL: Flag = Flag { name: "parallel_tool_calls", about: "Whether a reply may have several calls." };

/// The fields of a request.
pub(super) fn fields() -> Vec<&'static dyn Field> {
    let own: [&dyn Field; 8] =
        [&MAX_TOKENS, &MAX_COMPLETION_TOKENS, &LOGPROBS, &TOP_LOGPROBS, &ECHO, &TOOLS, &TOOL_CHOICE, &PARALLEL];
    [MESSAGE_FIELDS, &own[..], params::FIELDS, prompt::FIELDS, constraint::FIELDS].concat()
}

/// A request that has been read.
struct ChatRequest {
    chat: Chat,
    sampling: Sampling,
    encoding: Encoding,
    constraint: Option<Asked>,
    max_tokens: (&'static str, Option<u32>),
    top_logprobs: Option<u32>,
    echo: bool,
    tools: ToolRequest,
    tool_plan: ToolPlan,
    format: Option<Format>,
}

impl ChatRequest {
    fn read(fields: &Fields, app: &App, vocab_size: usize, tokenizer: Option<&Tokenizer>) -> Result<Self, ApiError> {
        let options = &app.options;
        let mut sampling = Sampling::read(fields, app, vocab_size)?;
        let chat = Chat::read(fields, options)?;
        let older = MAX_TOKENS.count(fields, i64::MAX)?;
        let newer = MAX_COMPLETION_TOKENS.count(fields, i64::MAX)?;
        let max_tokens = match newer {
            Some(_) => (MAX_COMPLETION_TOKENS.name, newer),
            None => (MAX_TOKENS.name, older),
        };
        sampling.check_min_tokens(max_tokens.1)?;
        let top = TOP_LOGPROBS.count(fields, i64::from(options.max_logprobs))?;
        let top_logprobs = LOGPROBS.is_set(fields)?.then_some(top.unwrap_or(0));
        if top.is_some_and(|top| top > 0) && top_logprobs.is_none() {
            return Err(ApiError::invalid(TOP_LOGPROBS.name, "`top_logprobs` is allowed with `logprobs: true` alone"));
        }
        sampling.request.logprobs = top_logprobs;
        let tools =
            ToolRequest::parse(fields.get(TOOLS.name), fields.get(TOOL_CHOICE.name), fields.get(PARALLEL.name))?;
        let named = options.tool_call_parser.as_deref().and_then(Format::named);
        let template = tokenizer.and_then(Tokenizer::chat_template);
        let format = named.or_else(|| template.and_then(|template| Format::detect(template.text())));
        let tool_plan = plan(&tools.tools, &tools.choice, tools.parallel, format)?;
        let mut constraint = constraint::read(fields)?;
        let held = match &tool_plan.constraint {
            // Calls are a form of their own: a format that is asked for is that of a reply's content.
            Some(Held::Json(schema)) => Some(Constraint::JsonSchema(schema.clone())),
            // In a text that has a form of its own there are no frames.
            Some(Held::Frames { opening, closing, schema, several }) if constraint.is_none() => {
                let (opening, closing) = ((*opening).to_owned(), (*closing).to_owned());
                Some(Constraint::Frames(Frames { opening, closing, schema: schema.clone(), several: *several }))
            }
            _ => None,
        };
        if let Some(held) = held {
            constraint = Some(Asked { constraint: held, field: TOOLS.name.to_owned() });
        }
        if tool_plan.keep_special {
            sampling.text.skip_special = false;
        }
        let encoding = Encoding::read(fields, false)?;
        let echo = ECHO.is_set(fields)?;
        Ok(ChatRequest {
            chat,
            sampling,
            encoding,
            constraint,
            max_tokens,
            top_logprobs,
            echo,
            tools,
            tool_plan,
            format,
        })
    }
}

/// Answers a conversation.
pub(super) async fn create(State(app): State<Arc<App>>, fields: Fields) -> Result<Response, ApiError> {
    let handle = app.engine()?;
    let model = handle.model();
    let asked = ChatRequest::read(&fields, &app, handle.info().vocab_size, model.tokenizer())?;
    drop(fields);
    let kept = keep(handle, &asked);
    let ChatRequest { chat, sampling, encoding, constraint, max_tokens, tools, .. } = asked;
    let (stream, n) = (sampling.stream, sampling.request.n);
    let tickets = admit(handle, 1)?;
    let plan = Plan { sampling, encoding, constraint, field: MESSAGES.name, max_tokens, default_max_tokens: None };
    let prompts = move |handle: &Handle| {
        let shown: Vec<Value> = tools.tools.into_iter().map(|tool| tool.raw).collect();
        let shown = (!shown.is_empty() && tools.choice != ToolChoice::None).then_some(shown);
        let text = chat.render(handle.model().tokenizer(), shown.as_deref())?;
        Ok(vec![Prompt::Text(text)])
    };
    let mut running = start(&app, handle, tickets, plan, prompts).await?;
    let prompt = running.prompts.first().cloned().unwrap_or_default();
    if stream {
        return stream::respond(running, Writer::new(kept, prompt), app.options.ping_interval).await;
    }
    let outcome = running.collect(n).await?.into_iter().next().unwrap_or_default();
    Ok(Json(kept.reply(&prompt, outcome)).into_response())
}

/// What the reply needs of the request.
fn keep(handle: &Handle, asked: &ChatRequest) -> Kept {
    let echo = if asked.echo { asked.chat.continued().map(str::to_owned) } else { None };
    Kept::new(handle, &asked.sampling, asked.top_logprobs, echo, (asked.tool_plan.parser.clone(), asked.format))
}
