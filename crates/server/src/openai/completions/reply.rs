//! Replies of completions, whole and in chunks.

use crate::openai::generate::{Completion, Outcome, Prepared, StopReason};
use crate::openai::ids;
use crate::openai::logprobs::{CompletionLogprobs, Ordered, PromptEntry, Spelling, of_prompt};
use crate::openai::params::Sampling;
use crate::openai::stream::{self, Chunks};
use crate::openai::usage::Usage;
use nxd_engine::TokenLogprob;
use nxd_engine::service::{End, Event, Handle, Piece};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A reply.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::openai) struct CompletionReply {
    id: String,
    /// `text_completion`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    /// In the order of `index`, which is the prompt's × `n` + the completion's.
    choices: Vec<CompletionChoice>,
    usage: Usage,
}

/// A part of a reply.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::openai) struct CompletionChunk {
    id: String,
    /// `text_completion`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    /// One completion; none in the last chunk, which has the usage.
    choices: Vec<CompletionChoice>,
    /// There when asked for; null in all chunks but the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
}

/// A completion, or a part of one.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(in crate::openai) struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    /// `stop`, `length` or `abort`; null while it goes on.
    finish_reason: Option<&'static str>,
    /// What of the request stopped it.
    stop_reason: Option<StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<std::collections::BTreeMap<String, PromptEntry>>>>)]
    prompt_logprobs: Option<Vec<Option<Ordered<PromptEntry>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
}

/// What a reply needs to know of its request.
pub(super) struct Kept {
    id: String,
    created: u64,
    model: String,
    spelling: Spelling,
    n: usize,
    echo: bool,
    logprobs: bool,
    prompt_logprobs: Option<u32>,
    include_usage: bool,
    continuous_usage: bool,
    token_ids: bool,
    /// The model's own ends of text that the request does not name.
    silent_ids: Vec<u32>,
}

impl Kept {
    pub(super) fn new(
        handle: &Handle,
        sampling: &Sampling,
        echo: bool,
        logprobs: Option<u32>,
        prompt_logprobs: Option<u32>,
    ) -> Kept {
        let eos_ids = handle.model().eos_ids();
        let named = &sampling.request.stop_ids;
        Kept {
            id: ids::reply_id("cmpl-"),
            created: ids::now(),
            model: sampling.model.clone(),
            spelling: Spelling { model: Arc::clone(handle.model()), as_ids: sampling.tokens_as_ids },
            n: sampling.request.n as usize,
            echo,
            logprobs: logprobs.is_some(),
            prompt_logprobs,
            include_usage: sampling.include_usage,
            continuous_usage: sampling.continuous_usage,
            token_ids: sampling.token_ids,
            silent_ids: eos_ids.iter().copied().filter(|id| !named.contains(id)).collect(),
        }
    }

    /// The whole reply.
    pub(super) fn reply(self, prompts: &[Prepared], outcomes: Vec<Outcome>) -> CompletionReply {
        let mut usage = (0, 0);
        let mut choices = Vec::new();
        for (prompt, outcome) in prompts.iter().zip(outcomes) {
            usage.0 += prompt.ids.len();
            let of_prompt = outcome.prompt_logprobs.unwrap_or_default();
            for completion in outcome.completions {
                usage.1 += completion.tokens.len();
                choices.push(self.choice(choices.len(), prompt, &of_prompt, completion));
            }
        }
        let usage = Usage::new(usage.0, usage.1);
        CompletionReply {
            id: self.id,
            object: "text_completion",
            created: self.created,
            model: self.model,
            choices,
            usage,
        }
    }

    fn choice(
        &self,
        index: usize,
        prompt: &Prepared,
        scored: &[Vec<TokenLogprob>],
        done: Completion,
    ) -> CompletionChoice {
        let mut choice = CompletionChoice { index, text: done.text, ..CompletionChoice::default() };
        let mut offset = 0;
        let mut logprobs = CompletionLogprobs::default();
        if self.echo {
            choice.text.insert_str(0, &self.prompt_text(prompt));
            offset = logprobs.push_prompt(&self.spelling, &prompt.ids, scored, 0);
        }
        for (&token, scored) in done.tokens.iter().zip(&done.logprobs) {
            offset = logprobs.push(&self.spelling, token, scored, offset);
        }
        choice.logprobs = self.logprobs.then_some(logprobs);
        choice.prompt_logprobs = self.prompt_logprobs.map(|top| of_prompt(&self.spelling, scored, top as usize));
        choice.finish_reason = done.end.as_ref().map(|end| end.reason.name());
        choice.stop_reason = done.end.as_ref().and_then(|end| StopReason::of(end, &self.silent_ids));
        if self.token_ids {
            (choice.token_ids, choice.prompt_token_ids) = (Some(done.tokens), Some(prompt.ids.clone()));
        }
        choice
    }

    fn prompt_text(&self, prompt: &Prepared) -> String {
        let decoded = || self.spelling.model.tokenizer().map(|tokenizer| tokenizer.decode(&prompt.ids, true));
        prompt.text.clone().or_else(decoded).unwrap_or_default()
    }
}

/// Writes a reply's chunks: one for each piece of text, and the reason of the end on the last one.
pub(super) struct Writer {
    kept: Kept,
    prompts: Vec<Prepared>,
    choices: Vec<Choice>,
}

#[derive(Clone, Default)]
struct Choice {
    tokens: usize,
    /// Characters of the tokens so far, for the offsets of log-probabilities.
    offset: usize,
    /// A piece after which the end is sure to come.
    last: Option<Piece>,
    /// Whether its prompt's ids have been told.
    told: bool,
}

impl Writer {
    pub(super) fn new(kept: Kept, prompts: Vec<Prepared>) -> Writer {
        let choices = vec![Choice::default(); prompts.len() * kept.n];
        Writer { kept, prompts, choices }
    }

    /// Repeats the prompt, before each of its completions.
    fn echo(&mut self, prompt: usize, scored: Option<&[Vec<TokenLogprob>]>, out: &mut Chunks) {
        let Some(sent) = self.prompts.get(prompt) else { return };
        let text = self.kept.prompt_text(sent);
        let mut offset = 0;
        let logprobs = scored.map(|scored| {
            let mut logprobs = CompletionLogprobs::default();
            offset = logprobs.push_prompt(&self.kept.spelling, &sent.ids, scored, 0);
            logprobs
        });
        for index in prompt * self.kept.n..(prompt + 1) * self.kept.n {
            if let Some(state) = self.choices.get_mut(index) {
                state.offset = offset;
            }
            let (text, logprobs) = (text.clone(), logprobs.clone());
            self.chunk(CompletionChoice { index, text, logprobs, ..CompletionChoice::default() }, out);
        }
    }

    fn piece(&mut self, index: usize, piece: Piece, end: Option<&End>, out: &mut Chunks) {
        let Some(state) = self.choices.get_mut(index) else { return };
        let logprobs = self.kept.logprobs.then(|| {
            let mut logprobs = CompletionLogprobs::default();
            state.offset = logprobs.push(&self.kept.spelling, piece.token, &piece.logprobs, state.offset);
            logprobs
        });
        let text = piece.text + end.map_or("", |end| end.text.as_str());
        if text.is_empty() && logprobs.is_none() && end.is_none() && !self.kept.token_ids {
            return;
        }
        let token_ids = self.kept.token_ids.then(|| vec![piece.token]);
        self.chunk(CompletionChoice { index, text, logprobs, token_ids, ..self.ended(end) }, out);
    }

    fn ended(&self, end: Option<&End>) -> CompletionChoice {
        CompletionChoice {
            finish_reason: end.map(|end| end.reason.name()),
            stop_reason: end.and_then(|end| StopReason::of(end, &self.kept.silent_ids)),
            ..CompletionChoice::default()
        }
    }

    fn chunk(&mut self, mut choice: CompletionChoice, out: &mut Chunks) {
        let index = choice.index;
        let prompt = self.prompts.get(index / self.kept.n.max(1));
        if let Some(state) = self.choices.get_mut(index)
            && self.kept.token_ids
            && !std::mem::replace(&mut state.told, true)
        {
            choice.prompt_token_ids = prompt.map(|prompt| prompt.ids.clone());
        }
        let tokens = self.choices.get(index).map_or(0, |state| state.tokens);
        let so_far =
            self.kept.continuous_usage.then(|| Usage::new(prompt.map_or(0, |prompt| prompt.ids.len()), tokens));
        let usage = self.kept.include_usage.then_some(so_far);
        out.push(&self.empty(vec![choice], usage));
    }

    fn empty(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> CompletionChunk {
        let Kept { id, created, model, .. } = &self.kept;
        let (id, model) = (id.clone(), model.clone());
        CompletionChunk { id, object: "text_completion", created: *created, model, choices, usage }
    }
}

impl stream::Writer for Writer {
    fn event(&mut self, prompt: usize, event: Event, out: &mut Chunks) {
        let index = |choice: u32| prompt * self.kept.n + choice as usize;
        match event {
            Event::Started if self.kept.echo && !self.kept.logprobs => self.echo(prompt, None, out),
            Event::PromptLogprobs(scored) if self.kept.echo && self.kept.logprobs => {
                self.echo(prompt, Some(&scored), out);
            }
            Event::Piece(piece) => {
                let index = index(piece.choice);
                let most = self.prompts.get(prompt).map_or(0, |prompt| prompt.max_tokens);
                let Some(state) = self.choices.get_mut(index) else { return };
                state.tokens += 1;
                // Its end stands behind it, and goes out with it.
                if state.tokens >= most || piece.stops {
                    state.last = Some(piece);
                } else {
                    self.piece(index, piece, None, out);
                }
            }
            Event::End(end) => {
                let index = index(end.choice);
                match self.choices.get_mut(index).and_then(|state| state.last.take()) {
                    Some(piece) => self.piece(index, piece, Some(&end), out),
                    None => {
                        let text = end.text.clone();
                        self.chunk(CompletionChoice { index, text, ..self.ended(Some(&end)) }, out);
                    }
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, out: &mut Chunks) {
        if self.kept.include_usage {
            let prompts = self.prompts.iter().map(|prompt| prompt.ids.len()).sum();
            let usage = Usage::new(prompts, self.choices.iter().map(|choice| choice.tokens).sum());
            out.push(&self.empty(Vec::new(), Some(Some(usage))));
        }
    }
}
