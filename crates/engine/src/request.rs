//! What is asked of the engine, and what comes back.

use crate::blocks;
use crate::error::EngineError;
use crate::grammar::Grammar;
use nxd_executor::ModelInfo;
use nxd_ops::{AdapterId, SamplingParams, TokenLogprob};
use std::time::Duration;

/// A prompt to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, taken as they are.
    pub prompt: Vec<u32>,
    /// What is asked of it.
    pub task: Task,
    /// How tokens are drawn.
    pub params: SamplingParams,
    /// Most tokens to generate; `None` for as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Tokens before which none of the stop ids is drawn.
    pub min_tokens: usize,
    /// Tokens that end the request, and are its last token. Leave them out to go on after the model's end-of-text token.
    pub stop_ids: Vec<u32>,
    /// How many of the most likely tokens to report with each generated one; `None` for no log-probabilities.
    pub logprobs: Option<u32>,
    /// How many of the most likely tokens to report with each token of the prompt after the first; `None` for none.
    pub prompt_logprobs: Option<u32>,
    /// How many completions of the prompt are drawn; 0 counts as 1.
    pub n: u32,
    /// Index of the first completion among those of one prompt: choices of one seed draw different random numbers.
    pub choice: u32,
    /// Lower ones are served first; equal ones in the order of arrival.
    pub priority: i64,
    /// Added to the logits of these tokens. Reported log-probabilities do not see it.
    pub logit_bias: Vec<(u32, f32)>,
    /// The only tokens that may be drawn; `None` for all.
    pub allowed_ids: Option<Vec<u32>>,
    /// What the completions' texts must be, each on its own; `None` for any text. It stands at their first token.
    pub grammar: Option<Grammar>,
    /// Blocks of the prefix cache are shared among requests with the same salt alone.
    pub cache_salt: Option<String>,
    /// The adapter that its tokens are computed with; `None` for the model as it is.
    pub adapter: Option<AdapterId>,
}

/// What is asked of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// Tokens that continue it.
    #[default]
    Generate,
    /// The final-norm row of its last token, as an embedding of the text. No token is drawn.
    Embed,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            prompt: Vec::new(),
            task: Task::default(),
            params: SamplingParams::default(),
            max_tokens: None,
            min_tokens: 0,
            stop_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            n: 1,
            choice: 0,
            priority: 0,
            logit_bias: Vec::new(),
            allowed_ids: None,
            grammar: None,
            cache_salt: None,
            adapter: None,
        }
    }
}

impl Request {
    /// Checks what can be known before the request runs.
    ///
    /// # Errors
    /// When the request can never be served: an empty or too long prompt, a token outside the vocabulary, no token asked for, a
    /// parameter outside its range, or more than the KV cache holds.
    pub fn check(&self, info: &ModelInfo) -> Result<(), EngineError> {
        let (prompt_len, max_model_len, vocab_size) = (self.prompt.len(), info.max_model_len, info.vocab_size);
        if prompt_len == 0 {
            return Err(EngineError::EmptyPrompt);
        }
        // An embedding leaves no room for an answer, as there is none.
        let longest = if self.task == Task::Embed { max_model_len } else { max_model_len.saturating_sub(1) };
        if prompt_len > longest {
            return Err(EngineError::PromptTooLong { found: prompt_len, max_model_len });
        }
        let outside = |ids: &mut dyn Iterator<Item = u32>| ids.enumerate().find(|&(_, id)| id as usize >= vocab_size);
        if let Some((index, id)) = outside(&mut self.prompt.iter().copied()) {
            return Err(EngineError::TokenOutsideVocabulary { id, index, vocab_size });
        }
        let biased = self.logit_bias.iter().map(|&(id, _)| id);
        let lists: [(&'static str, &mut dyn Iterator<Item = u32>); 3] = [
            ("stop_ids", &mut self.stop_ids.iter().copied()),
            ("logit_bias", &mut biased.clone()),
            ("allowed_ids", &mut self.allowed_ids.iter().flatten().copied()),
        ];
        for (name, ids) in lists {
            if let Some((_, id)) = outside(ids) {
                return Err(EngineError::ListOutsideVocabulary { name, id, vocab_size });
            }
        }
        if self.max_tokens == Some(0) && self.task == Task::Generate && self.prompt_logprobs.is_none() {
            return Err(EngineError::NoTokensAsked);
        }
        if let Some((name, found, allowed)) = self.bad_parameter() {
            return Err(EngineError::Parameter { name, found, allowed });
        }
        if let Some(&(id, bias)) = self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            return Err(EngineError::LogitBias { id, bias });
        }
        if self.allowed_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(EngineError::NothingAllowed);
        }
        let tokens = self.stored_len(max_model_len);
        match blocks::never_fits(info, tokens) {
            Some((needed, blocks)) => Err(EngineError::NeverFits { tokens, needed, blocks }),
            None => Ok(()),
        }
    }

    /// Tokens at which a completion ends: prompt and `max_tokens`, within the context.
    pub(crate) fn max_len(&self, max_model_len: usize) -> usize {
        let room = max_model_len.saturating_sub(self.prompt.len());
        self.prompt.len() + self.max_tokens.map_or(room, |asked| asked.min(room))
    }

    /// Tokens that stand in the cache when a completion ends: the last one drawn is never computed.
    pub(crate) fn stored_len(&self, max_model_len: usize) -> usize {
        match self.task {
            Task::Generate => self.max_len(max_model_len).saturating_sub(1).max(self.prompt.len()),
            Task::Embed => self.prompt.len(),
        }
    }

    /// The sampling parameter that cannot be meant, with what is allowed.
    pub(crate) fn bad_parameter(&self) -> Option<(&'static str, f32, &'static str)> {
        let p = &self.params;
        let fraction = |x: f32| x > 0.0 && x <= 1.0;
        let checks = [
            ("temperature", p.temperature, p.temperature.is_finite() && p.temperature >= 0.0, "a number from 0 up"),
            ("top_p", p.top_p, fraction(p.top_p), "above 0, at most 1"),
            ("min_p", p.min_p, (0.0..=1.0).contains(&p.min_p), "from 0 to 1"),
            ("typical_p", p.typical_p, fraction(p.typical_p), "above 0, at most 1"),
            (
                "repetition_penalty",
                p.repetition_penalty,
                p.repetition_penalty.is_finite() && p.repetition_penalty > 0.0,
                "a number above 0",
            ),
            ("presence_penalty", p.presence_penalty, p.presence_penalty.is_finite(), "a finite number"),
            ("frequency_penalty", p.frequency_penalty, p.frequency_penalty.is_finite(), "a finite number"),
        ];
        checks.into_iter().find(|(_, _, good, _)| !good).map(|(name, found, _, allowed)| (name, found, allowed))
    }
}

/// Names a request of one engine. Ids ascend in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

/// What a step gave one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The request.
    pub id: RequestId,
    /// Which of the request's completions.
    pub choice: u32,
    /// The new token; `None` when the request ended without one.
    pub token: Option<u32>,
    /// The most likely tokens, best first, then the new one if it is not among them; empty unless asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Where asked for, once a request and before or with its first token: for each token of the prompt after the first, the most likely
    /// ones, best first, then the prompt's own if it is not among them.
    pub prompt_logprobs: Option<Vec<Vec<TokenLogprob>>>,
    /// The row of [`Task::Embed`], `[E]`.
    pub embedding: Option<Vec<f32>>,
    /// Set when this is the completion's last output.
    pub finished: Option<Finished>,
}

/// The end of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub stats: Stats,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// It drew one of its stop ids, or its text came to a stop string.
    Stop,
    /// It has all the tokens that were asked for, or fills the context.
    Length,
    /// It was taken out.
    Abort,
    /// Its logits became NaN, or none of them was finite, so that nothing could be drawn.
    NotFinite,
    /// Its grammar failed.
    Grammar,
}

impl FinishReason {
    /// The name in results.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Abort => "abort",
            FinishReason::NotFinite | FinishReason::Grammar => "error",
        }
    }
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Engine steps it took part in.
    pub steps: usize,
    /// Most requests that shared one of them, itself included.
    pub max_batch: usize,
    /// How often its blocks were taken away and recomputed.
    pub preemptions: usize,
    /// Tokens of the prompt whose keys and values were found in the prefix cache when it first ran.
    pub cached_tokens: usize,
    /// From its arrival to the start of its first step.
    pub queue: Duration,
    /// From the start of its first step to its first token.
    pub prefill: Duration,
    /// From its first token to its last.
    pub decode: Duration,
}
