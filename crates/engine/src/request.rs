//! What is asked of the engine, and what comes back.

use nxd_ops::{SamplingParams, TokenLogprob};
use std::time::Duration;

/// A prompt to continue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Token ids, taken as they are.
    pub prompt: Vec<u32>,
    /// How tokens are drawn.
    pub params: SamplingParams,
    /// Most tokens to generate; `None` for as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Tokens that end the request, and are its last token. Leave them out to go on after the model's end-of-text token.
    pub stop_ids: Vec<u32>,
    /// How many of the most likely tokens to report with each generated one; `None` for no log-probabilities.
    pub logprobs: Option<u32>,
    /// Index among the completions of one prompt: choices of one seed draw different random numbers.
    pub choice: u32,
}

impl Request {
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
    /// The new token; `None` when the request ended without one.
    pub token: Option<u32>,
    /// The most likely tokens, best first, then the new one if it is not among them; empty unless asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Set when this is the request's last output.
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
}

impl FinishReason {
    /// The name in results.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Abort => "abort",
            FinishReason::NotFinite => "error",
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
    /// From the start of its first step to its first token.
    pub prefill: Duration,
    /// From its first token to its last.
    pub decode: Duration,
}
