//! How tokens are drawn: parameters, one step's sampling rows, and what comes of them.

use std::sync::Arc;

/// How one request draws its tokens. Order of the filters: penalties, bias, mask, temperature, top-k, top-p, min-p, typical.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the most likely tokens whose probabilities reach p together; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Keeps the most typical tokens whose probabilities reach p together (arXiv:2202.00666); 1 keeps all.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the history (arXiv:1909.05858); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of generated tokens.
    pub presence_penalty: f32,
    /// Subtracted from the logits of generated tokens as often as they occur.
    pub frequency_penalty: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Whether the history changes the logits.
    #[allow(clippy::float_cmp, reason = "the neutral values are exact")]
    pub fn uses_history(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// What one wanted row is to draw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingRow {
    /// The request's parameters.
    pub params: SamplingParams,
    /// Prompt and generated tokens, needed only when [`SamplingParams::uses_history`].
    pub history: Vec<u32>,
    /// Where the generated tokens start in `history`.
    pub generated_from: usize,
    /// Position of the token that is drawn; with the seed and the choice it names the random number.
    pub position: u32,
    /// Index of the choice among the request's completions.
    pub choice: u32,
    /// How many of the most likely tokens to report; `None` for no log-probabilities.
    pub logprobs: Option<u32>,
    /// Tokens and what is added to their logits after the penalties, in this order: a token that is listed twice gets both. Logits that
    /// are not finite stay, so a bias allows no token that the model forbids; biases are finite. Tokens outside the vocabulary count for
    /// nothing. Reported log-probabilities do not see it.
    pub bias: Vec<(u32, f32)>,
    /// Which tokens may be drawn, as a grammar's mask: token `t` may if bit `t % 32` of word `t / 32` is set, and words that are
    /// missing forbid. Reported log-probabilities do not see it. `None` allows all.
    ///
    /// # Shapes
    /// `[⌈V / 32⌉]`.
    pub allowed: Option<Arc<[u32]>>,
    /// The row draws nothing: this token is given in place of a drawn one, with its log-probability where `logprobs` asks for any. Of
    /// the parameters, the bias and the mask nothing is looked at. A token outside the vocabulary gives [`Drawn::NotFinite`].
    pub target: Option<u32>,
}

/// The sampling rows of one step, one for each wanted row of its batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingBatch {
    /// The rows, `[W]`.
    pub rows: Vec<SamplingRow>,
    /// Whether the logits are kept for a look from outside.
    pub keep_logits: bool,
}

/// A token with the natural logarithm of its probability under the raw logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Its log-probability, before temperature and penalties.
    pub logprob: f32,
}

/// What a row drew.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawn {
    /// A token.
    Token {
        /// The token.
        id: u32,
        /// The most likely tokens, best first, then the drawn one if it is not among them; empty unless asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// The row's logits hold a NaN or an infinity, or no finite value that is allowed, so nothing can be drawn.
    NotFinite,
}
