//! Replies of chat, whole and in chunks, with the calls that are found in them.

use crate::openai::generate::{Completion, Outcome, Prepared, StopReason};
use crate::openai::ids;
use crate::openai::logprobs::{ChatLogprobs, Ordered, PromptEntry, Spelling, of_prompt};
use crate::openai::params::Sampling;
use crate::openai::stream::{self, Chunks};
use crate::openai::usage::Usage;
use crate::tools::{Delta, Format, ToolParser, call_id};
use nxd_engine::FinishReason;
use nxd_engine::service::{End, Event, Handle, Piece, Stop};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A reply.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::openai) struct ChatReply {
    id: String,
    /// `chat.completion`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    /// In the order of `index`.
    choices: Vec<ChatChoice>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<std::collections::BTreeMap<String, PromptEntry>>>>)]
    prompt_logprobs: Option<Vec<Option<Ordered<PromptEntry>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// One of the replies.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::openai) struct ChatChoice {
    index: usize,
    message: ReplyMessage,
    logprobs: Option<ChatLogprobs>,
    /// `stop`, `length`, `tool_calls` or `abort`.
    finish_reason: Option<&'static str>,
    /// What of the request stopped it.
    stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// What the model says.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::openai) struct ReplyMessage {
    /// `assistant`.
    role: &'static str,
    /// Text; null beside calls when there is none.
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// A call of a function.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::openai) struct ToolCall {
    id: String,
    /// `function`.
    r#type: &'static str,
    function: Function,
}

/// A function and its arguments.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::openai) struct Function {
    name: String,
    /// JSON, as the model wrote it.
    arguments: String,
}

/// A part of a reply.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::openai) struct ChatChunk {
    id: String,
    /// `chat.completion.chunk`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    /// One reply; none in the last chunk, which has the usage.
    choices: Vec<ChunkChoice>,
    /// There when asked for; null in all chunks but the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// A part of one of the replies.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(in crate::openai) struct ChunkChoice {
    index: usize,
    delta: ChunkDelta,
    logprobs: Option<ChatLogprobs>,
    /// Set in the last chunk of a reply.
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// What is new.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(in crate::openai) struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Null in the first chunk, which says who speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    content: Option<Option<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallDelta>,
}

/// What is new of a call.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(in crate::openai) struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta,
}

/// What is new of a call's function.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(in crate::openai) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

/// What a reply needs to know of its request.
pub(super) struct Kept {
    id: String,
    created: u64,
    model: String,
    spelling: Spelling,
    n: usize,
    top_logprobs: Option<u32>,
    prompt_logprobs: Option<u32>,
    /// Text that stands before each reply.
    echo: Option<String>,
    include_usage: bool,
    continuous_usage: bool,
    token_ids: bool,
    include_stop: bool,
    /// The model's own ends of text that the request does not name.
    silent_ids: Vec<u32>,
    parser: Option<ToolParser>,
    format: Option<Format>,
}

impl Kept {
    pub(super) fn new(
        handle: &Handle,
        sampling: &Sampling,
        top_logprobs: Option<u32>,
        echo: Option<String>,
        (parser, format): (Option<ToolParser>, Option<Format>),
    ) -> Kept {
        let named = &sampling.request.stop_ids;
        let eos_ids = handle.model().eos_ids();
        Kept {
            id: ids::reply_id("chatcmpl-"),
            created: ids::now(),
            model: sampling.model.clone(),
            spelling: Spelling { model: Arc::clone(handle.model()), as_ids: sampling.tokens_as_ids },
            n: sampling.request.n as usize,
            top_logprobs,
            prompt_logprobs: sampling.request.prompt_logprobs,
            echo,
            include_usage: sampling.include_usage,
            continuous_usage: sampling.continuous_usage,
            token_ids: sampling.token_ids,
            include_stop: sampling.text.include_stop,
            silent_ids: eos_ids.iter().copied().filter(|id| !named.contains(id)).collect(),
            parser,
            format,
        }
    }

    /// The whole reply.
    pub(super) fn reply(self, prompt: &Prepared, outcome: Outcome) -> ChatReply {
        let scored = outcome.prompt_logprobs.unwrap_or_default();
        let prompt_logprobs = self.prompt_logprobs.map(|top| of_prompt(&self.spelling, &scored, top as usize));
        let tokens = outcome.completions.iter().map(|completion| completion.tokens.len()).sum();
        let choices = outcome.completions.into_iter().enumerate();
        ChatReply {
            choices: choices.map(|(index, completion)| self.choice(index, completion)).collect(),
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            usage: Usage::new(prompt.ids.len(), tokens),
            prompt_logprobs,
            prompt_token_ids: self.token_ids.then(|| prompt.ids.clone()),
        }
    }

    fn choice(&self, index: usize, done: Completion) -> ChatChoice {
        let ended_by = done.end.as_ref().and_then(|end| self.hidden_stop(end));
        let logprobs = self.top_logprobs.map(|top| {
            let mut logprobs = ChatLogprobs::default();
            let shown = done.tokens.len() - usize::from(ended_by.is_some() && ended_by == done.tokens.last().copied());
            for (&token, scored) in done.tokens.iter().zip(&done.logprobs).take(shown) {
                logprobs.push(&self.spelling, token, scored, top as usize);
            }
            logprobs
        });
        let mut found = Found::new(self.parser.clone(), self.format);
        let mut content = self.echo.clone().unwrap_or_default();
        let mut tool_calls: Vec<ToolCall> = Vec::new();
        for delta in found.push(&done.text).into_iter().chain(found.finish()) {
            content.push_str(delta.content.flatten().as_deref().unwrap_or_default());
            for call in delta.tool_calls {
                if let (Some(id), Some(name)) = (call.id, call.function.name) {
                    let function = Function { name, arguments: String::new() };
                    tool_calls.push(ToolCall { id, r#type: "function", function });
                }
                if let Some(begun) = tool_calls.get_mut(call.index) {
                    begun.function.arguments.push_str(&call.function.arguments);
                }
            }
        }
        ChatChoice {
            index,
            logprobs,
            finish_reason: done.end.as_ref().map(|end| found.finish_reason(end)),
            stop_reason: done.end.as_ref().and_then(|end| StopReason::of(end, &self.silent_ids)),
            message: ReplyMessage {
                role: "assistant",
                content: (tool_calls.is_empty() || !content.is_empty()).then_some(content),
                tool_calls,
            },
            token_ids: self.token_ids.then_some(done.tokens),
        }
    }

    /// The token that ended a reply without being part of its text.
    fn hidden_stop(&self, end: &End) -> Option<u32> {
        match end.stop {
            Some(Stop::Id(id)) if !self.include_stop => Some(id),
            _ => None,
        }
    }
}

/// The calls of one reply.
#[derive(Clone)]
struct Found {
    parser: Option<ToolParser>,
    format: Option<Format>,
}

impl Found {
    fn new(parser: Option<ToolParser>, format: Option<Format>) -> Found {
        Found { parser, format }
    }

    /// What a piece of text adds.
    fn push(&mut self, text: &str) -> Option<ChunkDelta> {
        match &mut self.parser {
            None if text.is_empty() => None,
            None => Some(ChunkDelta { content: Some(Some(text.to_owned())), ..ChunkDelta::default() }),
            Some(parser) => {
                let deltas = parser.push(text);
                self.delta(deltas)
            }
        }
    }

    /// What the end of the text adds.
    fn finish(&mut self) -> Option<ChunkDelta> {
        let deltas = self.parser.as_mut()?.finish();
        self.delta(deltas)
    }

    fn delta(&self, deltas: Vec<Delta>) -> Option<ChunkDelta> {
        if deltas.is_empty() {
            return None;
        }
        let mut all = ChunkDelta::default();
        for delta in deltas {
            match delta {
                Delta::Content(text) => all.content.get_or_insert(None).get_or_insert_default().push_str(&text),
                Delta::Call { index, name } => all.tool_calls.push(CallDelta {
                    index,
                    id: Some(call_id(self.format)),
                    r#type: Some("function"),
                    function: FunctionDelta { name: Some(name), arguments: String::new() },
                }),
                Delta::Arguments { index, text } => match all.tool_calls.iter_mut().find(|call| call.index == index) {
                    Some(call) => call.function.arguments.push_str(&text),
                    None => {
                        let function = FunctionDelta { name: None, arguments: text };
                        all.tool_calls.push(CallDelta { index, function, ..CallDelta::default() });
                    }
                },
            }
        }
        Some(all)
    }

    fn finish_reason(&self, end: &End) -> &'static str {
        let calls = self.parser.as_ref().map_or(0, ToolParser::calls);
        if calls > 0 && end.reason == FinishReason::Stop { "tool_calls" } else { end.reason.name() }
    }
}

/// Writes a reply's chunks: who speaks, what is said, and why it ended, each in chunks of their own.
pub(super) struct Writer {
    kept: Kept,
    prompt: Prepared,
    choices: Vec<Choice>,
}

#[derive(Clone)]
struct Choice {
    found: Found,
    tokens: usize,
    /// Log-probabilities of tokens whose text is not sent yet.
    waiting: ChatLogprobs,
    /// Tokens that are not told of yet.
    ids: Vec<u32>,
}

impl Writer {
    pub(super) fn new(kept: Kept, prompt: Prepared) -> Writer {
        let found = Found::new(kept.parser.clone(), kept.format);
        let choice = Choice { found, tokens: 0, waiting: ChatLogprobs::default(), ids: Vec::new() };
        let choices = vec![choice; kept.n];
        Writer { kept, prompt, choices }
    }

    /// Says who speaks, for each reply.
    fn open(&mut self, out: &mut Chunks) {
        for index in 0..self.choices.len() {
            let delta = ChunkDelta { role: Some("assistant"), content: Some(None), ..ChunkDelta::default() };
            let mut chunk = self.chunk(ChunkChoice { index, delta, ..ChunkChoice::default() });
            chunk.prompt_token_ids = self.kept.token_ids.then(|| self.prompt.ids.clone());
            out.push(&chunk);
            if let Some(text) = self.kept.echo.clone() {
                let delta = ChunkDelta { content: Some(Some(text)), ..ChunkDelta::default() };
                out.push(&self.chunk(ChunkChoice { index, delta, ..ChunkChoice::default() }));
            }
        }
    }

    fn piece(&mut self, piece: &Piece, out: &mut Chunks) {
        let index = piece.choice as usize;
        let Some(choice) = self.choices.get_mut(index) else { return };
        choice.tokens += 1;
        let hidden = piece.stops && !self.kept.include_stop;
        if let (Some(top), false) = (self.kept.top_logprobs, hidden) {
            choice.waiting.push(&self.kept.spelling, piece.token, &piece.logprobs, top as usize);
        }
        if self.kept.token_ids {
            choice.ids.push(piece.token);
        }
        let delta = choice.found.push(&piece.text);
        self.delta(index, delta, out);
    }

    /// Sends what is new of a reply, if anything is.
    fn delta(&mut self, index: usize, delta: Option<ChunkDelta>, out: &mut Chunks) {
        let Some(choice) = self.choices.get_mut(index) else { return };
        let logprobs = (!choice.waiting.content.is_empty()).then(|| std::mem::take(&mut choice.waiting));
        let token_ids = (!choice.ids.is_empty()).then(|| std::mem::take(&mut choice.ids));
        if delta.is_none() && logprobs.is_none() && token_ids.is_none() {
            return;
        }
        // Clients concatenate contents, so that one which only carries log-probabilities is empty and not absent.
        let nothing = || ChunkDelta { content: Some(Some(String::new())), ..ChunkDelta::default() };
        let delta = delta.unwrap_or_else(nothing);
        out.push(&self.chunk(ChunkChoice { index, delta, logprobs, token_ids, ..ChunkChoice::default() }));
    }

    fn ended(&mut self, end: &End, out: &mut Chunks) {
        let index = end.choice as usize;
        let Some(choice) = self.choices.get_mut(index) else { return };
        let rest = choice.found.push(&end.text);
        let last = choice.found.finish();
        let finish_reason = Some(choice.found.finish_reason(end));
        self.delta(index, rest, out);
        self.delta(index, last, out);
        let stop_reason = StopReason::of(end, &self.kept.silent_ids);
        out.push(&self.chunk(ChunkChoice { index, finish_reason, stop_reason, ..ChunkChoice::default() }));
    }

    fn chunk(&self, choice: ChunkChoice) -> ChatChunk {
        let tokens = self.choices.get(choice.index).map_or(0, |choice| choice.tokens);
        let so_far = self.kept.continuous_usage.then(|| Usage::new(self.prompt.ids.len(), tokens));
        self.framed(vec![choice], self.kept.include_usage.then_some(so_far))
    }

    fn framed(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>) -> ChatChunk {
        let Kept { id, created, model, .. } = &self.kept;
        ChatChunk {
            id: id.clone(),
            object: "chat.completion.chunk",
            created: *created,
            model: model.clone(),
            choices,
            usage,
            prompt_token_ids: None,
        }
    }
}

impl stream::Writer for Writer {
    fn event(&mut self, _prompt: usize, event: Event, out: &mut Chunks) {
        match event {
            Event::Started => self.open(out),
            Event::Piece(piece) => self.piece(&piece, out),
            Event::End(end) => self.ended(&end, out),
            _ => {}
        }
    }

    fn end(&mut self, out: &mut Chunks) {
        if self.kept.include_usage {
            let usage = Usage::new(self.prompt.ids.len(), self.choices.iter().map(|choice| choice.tokens).sum());
            out.push(&self.framed(Vec::new(), Some(Some(usage))));
        }
    }
}
