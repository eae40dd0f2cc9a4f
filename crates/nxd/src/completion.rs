//! What comes of a prompt.

use nxd_engine::{FinishReason, Stats, TokenLogprob};

/// A finished completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The prompt's tokens.
    pub prompt_tokens: Vec<u32>,
    /// Every generated token, a stop id included.
    pub tokens: Vec<u32>,
    /// The generated text without special tokens, stop ids and stop strings; empty when the model has no tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// For each generated token the most likely ones, best first, then the generated one if it is not among them.
    pub logprobs: Option<Vec<Vec<TokenLogprob>>>,
    /// Engine steps that the completion took part in.
    pub steps: usize,
    /// Most completions that shared one of them.
    pub max_batch: usize,
    /// How long it took.
    pub timing: Timing,
}

/// How long a completion took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Seconds from the start of the first step to the first token.
    pub prefill_s: f64,
    /// Seconds from the first token to the last.
    pub decode_s: f64,
    /// Tokens of the prompt a second of prefill.
    pub prompt_tokens_per_s: f64,
    /// Tokens after the first a second of decode; 0 when there is only one.
    pub tokens_per_s: f64,
}

impl Timing {
    pub(crate) fn new(stats: &Stats, prompt_tokens: usize, tokens: usize) -> Self {
        let (prefill_s, decode_s) = (stats.prefill.as_secs_f64(), stats.decode.as_secs_f64());
        let rate = |tokens: usize, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
        Timing {
            prefill_s,
            decode_s,
            prompt_tokens_per_s: rate(prompt_tokens, prefill_s),
            tokens_per_s: rate(tokens.saturating_sub(1), decode_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rates_count_the_prompt_and_the_tokens_after_the_first() {
        let stats = Stats { prefill: Duration::from_millis(500), decode: Duration::from_secs(2), ..Stats::default() };
        let timing = Timing::new(&stats, 100, 9);
        assert_eq!(
            (timing.prompt_tokens_per_s.to_bits(), timing.tokens_per_s.to_bits()),
            (200f64.to_bits(), 4f64.to_bits())
        );
        assert_eq!(Timing::new(&Stats::default(), 1, 1), Timing::default());
    }
}
