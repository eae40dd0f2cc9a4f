//! `POST /v1/completions`.

mod reply;

use super::constraint::{self, Asked};
use super::fields::{Field, Fields, Flag, Integer, Other, wrong};
use super::generate::{Plan, admit, start};
use super::params::{self, Sampling};
use super::prompt::{self, Encoding, Prompt};
use super::stream;
use crate::error::ApiError;
use crate::state::App;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use nxd_engine::service::Handle;
use reply::{Kept, Writer};
use serde_json::Value;
use std::sync::Arc;

pub(super) use reply::{CompletionChunk, CompletionReply};

/// OpenAI's default.
const DEFAULT_MAX_TOKENS: u32 = 16;

const PROMPT: Other =
    Other { name: "prompt", about: "A text, token ids, or a list of one of these.", schema: prompt::schema };
const MAX_TOKENS: Integer = Integer {
    name: "max_tokens",
    about: "Most tokens of a completion; 16 where absent. 0 is allowed with `echo`.",
    min: 0,
    max: i64::MAX,
};
const ECHO: Flag = Flag { name: "echo", about: "Repeat the prompt before the completion." };
const LOGPROBS: Integer = Integer {
    name: "logprobs",
    about: "Report the log-probability of each token, and so many of the most likely ones with it.",
    min: 0,
    max: 20,
};

/// The fields of a request.
pub(super) fn fields() -> Vec<&'static dyn Field> {
    let own: [&dyn Field; 4] = [&PROMPT, &MAX_TOKENS, &ECHO, &LOGPROBS];
    [&own[..], params::FIELDS, prompt::FIELDS, constraint::FIELDS].concat()
}

/// A request that has been read.
struct CompletionRequest {
    prompts: Vec<Prompt>,
    sampling: Sampling,
    encoding: Encoding,
    constraint: Option<Asked>,
    max_tokens: Option<u32>,
    echo: bool,
    logprobs: Option<u32>,
}

impl CompletionRequest {
    fn read(fields: &Fields, app: &App, vocab_size: usize) -> Result<Self, ApiError> {
        let options = &app.options;
        let mut sampling = Sampling::read(fields, app, vocab_size)?;
        // More than the queue holds would be refused for ever.
        let max_prompts = options.max_prompts.min(options.queue.max_queued_requests);
        let prompts = prompt::read(fields, PROMPT.name, max_prompts, vocab_size)?;
        let completions = prompts.len().saturating_mul(sampling.request.n as usize);
        let most = options.max_prompts.max(options.max_n as usize);
        if completions > most {
            let message = format!("`n` for each prompt makes {completions} completions; at most {most} are allowed");
            return Err(ApiError::invalid("n", message));
        }
        let echo = ECHO.is_set(fields)?;
        let max_tokens = MAX_TOKENS.count(fields, i64::MAX)?;
        if let (Some(0), false, Some(value)) = (max_tokens, echo, fields.get(MAX_TOKENS.name)) {
            return Err(wrong(MAX_TOKENS.name, value, "at least 1, or 0 with `echo`,"));
        }
        if fields.get("logprobs").is_some_and(Value::is_boolean) {
            return Err(ApiError::invalid(
                "logprobs",
                "`logprobs` is a boolean; for completions a whole number is allowed",
            ));
        }
        let logprobs = LOGPROBS.count(fields, i64::from(options.max_logprobs))?;
        sampling.check_min_tokens(Some(max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)))?;
        sampling.request.logprobs = logprobs;
        let of_prompt =
            if echo { sampling.request.prompt_logprobs.max(logprobs) } else { sampling.request.prompt_logprobs };
        // The prompt alone is computed by asking for its log-probabilities.
        let needed = (max_tokens == Some(0)).then_some(0);
        sampling.request.prompt_logprobs = of_prompt.or(needed);
        let encoding = Encoding::read(fields, true)?;
        let constraint = constraint::read(fields)?;
        Ok(CompletionRequest { prompts, sampling, encoding, constraint, max_tokens, echo, logprobs })
    }
}

/// Continues prompts.
pub(super) async fn create(State(app): State<Arc<App>>, fields: Fields) -> Result<Response, ApiError> {
    let handle = app.engine()?;
    let asked_prompt_logprobs = fields.get("prompt_logprobs").is_some();
    let asked = CompletionRequest::read(&fields, &app, handle.info().vocab_size)?;
    drop(fields);
    let kept = keep(handle, &asked, asked_prompt_logprobs);
    let CompletionRequest { prompts, sampling, encoding, constraint, max_tokens, .. } = asked;
    let (stream, n) = (sampling.stream, sampling.request.n);
    let tickets = admit(handle, prompts.len())?;
    let plan = Plan {
        sampling,
        encoding,
        constraint,
        field: PROMPT.name,
        max_tokens: (MAX_TOKENS.name, max_tokens),
        default_max_tokens: Some(DEFAULT_MAX_TOKENS as usize),
    };
    let mut running = start(&app, handle, tickets, plan, |_| Ok(prompts)).await?;
    if stream {
        let writer = Writer::new(kept, running.prompts.clone());
        return stream::respond(running, writer, app.options.ping_interval).await;
    }
    let outcomes = running.collect(n).await?;
    Ok(Json(kept.reply(&running.prompts, outcomes)).into_response())
}

/// What the reply needs of the request.
fn keep(handle: &Handle, asked: &CompletionRequest, prompt_logprobs: bool) -> Kept {
    let sampling = &asked.sampling;
    let prompt_logprobs = if prompt_logprobs { sampling.request.prompt_logprobs } else { None };
    Kept::new(handle, sampling, asked.echo, asked.logprobs, prompt_logprobs)
}
