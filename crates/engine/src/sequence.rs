//! One completion on its way: its tokens, what it may draw, and what it took.

use crate::blocks::BlockTables;
use crate::grammar::Grammar;
use crate::request::{FinishReason, Finished, Output, Request, RequestId, Stats, Task};
use nxd_ops::{Drawn, SamplingRow, TokenLogprob};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who is served before whom: priority, arrival, choice.
pub(crate) type Order = (i64, RequestId, u32);

/// One completion of a request.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) choice: u32,
    pub(crate) request: Arc<Request>,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<u32>,
    /// Tokens at which it ends: prompt and `max_tokens`, within the context.
    pub(crate) max_len: usize,
    /// The length that rotations follow, where they follow one.
    pub(crate) rope_len: usize,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed: usize,
    pub(crate) tables: BlockTables,
    /// Further completions of the prompt, which begin when it is computed.
    pub(crate) siblings: u32,
    /// What may be drawn, as far as that never changes.
    allowed: Limits,
    grammar: Option<Grammar>,
    /// Log-probabilities of the prompt so far.
    prompt_logprobs: Vec<Vec<TokenLogprob>>,
    pub(crate) stats: Stats,
    arrived: Instant,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
}

/// Masks that hold for a whole request, in the form of [`SamplingRow::allowed`].
#[derive(Clone, Debug, Default)]
struct Limits {
    /// While no stop id may be drawn.
    at_first: Option<Arc<[u32]>>,
    /// From then on.
    later: Option<Arc<[u32]>>,
}

impl Limits {
    fn new(request: &Request, vocab_size: usize) -> Self {
        let words = vocab_size.div_ceil(32);
        let later = request.allowed_ids.as_ref().map(|ids| {
            let mut mask = vec![0; words];
            ids.iter().for_each(|&id| mask[id as usize / 32] |= 1 << (id % 32));
            mask
        });
        let at_first = (request.min_tokens > 0 && !request.stop_ids.is_empty()).then(|| {
            let mut mask = later.clone().unwrap_or_else(|| vec![u32::MAX; words]);
            request.stop_ids.iter().for_each(|&id| mask[id as usize / 32] &= !(1 << (id % 32)));
            mask
        });
        Limits { at_first: at_first.map(Arc::from), later: later.map(Arc::from) }
    }
}

impl Sequence {
    /// The first completion of a request that has been checked.
    pub(crate) fn new(
        id: RequestId,
        request: Request,
        tables: BlockTables,
        max_model_len: usize,
        vocab_size: usize,
    ) -> Self {
        Sequence {
            id,
            choice: request.choice,
            tokens: request.prompt.clone(),
            max_len: request.max_len(max_model_len),
            rope_len: request.stored_len(max_model_len),
            computed: 0,
            tables,
            siblings: if request.task == Task::Embed { 0 } else { request.n.saturating_sub(1) },
            allowed: Limits::new(&request, vocab_size),
            grammar: request.grammar.clone(),
            prompt_logprobs: Vec::new(),
            stats: Stats::default(),
            arrived: Instant::now(),
            first_step: None,
            first_token: None,
            request: Arc::new(request),
        }
    }

    /// The further completions of the prompt, which this one has computed. Their tables are empty.
    pub(crate) fn take_siblings(&mut self, tables: &BlockTables) -> Vec<Sequence> {
        let count = std::mem::take(&mut self.siblings);
        let sibling = |choice| Sequence {
            id: self.id,
            choice: self.request.choice + choice,
            request: Arc::clone(&self.request),
            tokens: self.request.prompt.clone(),
            max_len: self.max_len,
            rope_len: self.rope_len,
            computed: 0,
            tables: tables.clone(),
            siblings: 0,
            allowed: self.allowed.clone(),
            grammar: self.request.grammar.clone(),
            prompt_logprobs: Vec::new(),
            stats: Stats::default(),
            arrived: self.arrived,
            first_step: None,
            first_token: None,
        };
        (1..=count).map(sibling).collect()
    }

    pub(crate) fn order(&self) -> Order {
        (self.request.priority, self.id, self.choice)
    }

    /// Whether it begins with the prompt of another completion, which has computed it.
    pub(crate) fn is_sibling(&self) -> bool {
        self.choice > self.request.choice
    }

    /// Whether it is a sibling that has drawn nothing yet.
    pub(crate) fn is_new_sibling(&self) -> bool {
        self.is_sibling() && self.tokens.len() == self.request.prompt.len()
    }

    /// Tokens that are known but not computed.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens that may come from the prefix cache: the last known one is always computed, as its row is what the next one is drawn from,
    /// and so are those whose log-probabilities are asked for.
    pub(crate) fn findable(&self) -> usize {
        let whole = self.tokens.len() - 1;
        if self.wants_prompt_logprobs() { self.prompt_logprobs.len() } else { whole }
    }

    fn wants_prompt_logprobs(&self) -> bool {
        self.request.prompt_logprobs.is_some()
            && !self.is_sibling()
            && self.prompt_logprobs.len() + 1 < self.request.prompt.len()
    }

    pub(crate) fn starts(&mut self, at: Instant) -> bool {
        if self.first_step.is_some() {
            return false;
        }
        self.first_step = Some(at);
        self.stats.queue = at - self.arrived;
        true
    }

    pub(crate) fn finished(&self, reason: FinishReason) -> Finished {
        Finished { reason, stats: self.stats }
    }

    /// How many rows of a chunk of `count` tokens are wanted.
    pub(crate) fn num_wanted(&self, count: usize) -> usize {
        let draws = self.computed + count == self.tokens.len() && self.draws();
        self.scored(count).len() + usize::from(draws)
    }

    /// Positions in a chunk of `count` tokens whose rows say how likely the prompt's next token is.
    fn scored(&self, count: usize) -> Range<usize> {
        let chunk = self.computed..self.computed + count;
        match self.wants_prompt_logprobs() {
            true => self.prompt_logprobs.len().max(chunk.start)..chunk.end.min(self.request.prompt.len() - 1),
            false => 0..0,
        }
    }

    /// What the rows of a chunk of `count` tokens are wanted for: (index of the row in the chunk, what it draws).
    pub(crate) fn wanted(&mut self, count: usize) -> Vec<(usize, SamplingRow)> {
        let mut wanted = Vec::new();
        for position in self.scored(count) {
            let (target, logprobs) = (Some(self.tokens[position + 1]), self.request.prompt_logprobs);
            let next = position as u32 + 1;
            let draw = SamplingRow { target, logprobs, position: next, choice: self.choice, ..SamplingRow::default() };
            wanted.push((position - self.computed, draw));
        }
        if self.computed + count == self.tokens.len() && self.draws() {
            wanted.push((count - 1, self.sampling_row()));
        }
        wanted
    }

    /// Whether its last row draws a token or is an embedding: not so for a prompt whose log-probabilities are all that is asked for.
    fn draws(&self) -> bool {
        self.request.task == Task::Embed || self.max_len > self.request.prompt.len()
    }

    fn sampling_row(&mut self) -> SamplingRow {
        let position = self.tokens.len() as u32;
        if self.request.task == Task::Embed {
            // The hidden row is what is wanted; that nothing is drawn from it costs one row of the head.
            return SamplingRow { target: Some(0), position, choice: self.choice, ..SamplingRow::default() };
        }
        let params = self.request.params;
        SamplingRow {
            params,
            history: if params.uses_history() { self.tokens.clone() } else { Vec::new() },
            generated_from: self.request.prompt.len(),
            position,
            choice: self.choice,
            logprobs: self.request.logprobs,
            allowed: self.mask(),
            bias: self.request.logit_bias.clone(),
            target: None,
        }
    }

    /// What may be drawn now. A grammar that fails allows nothing, so that nothing is drawn.
    fn mask(&mut self) -> Option<Arc<[u32]>> {
        let generated = self.tokens.len() - self.request.prompt.len();
        let limits = &self.allowed;
        let limit = if generated < self.request.min_tokens {
            limits.at_first.as_ref().or(limits.later.as_ref())
        } else {
            limits.later.as_ref()
        };
        let Some(grammar) = &mut self.grammar else { return limit.cloned() };
        let mask = match grammar.mask() {
            Ok(mask) => mask,
            Err(error) => {
                tracing::warn!(request = self.id.0, %error, "the grammar failed");
                return Some(Arc::from([]));
            }
        };
        match limit {
            None => Some(mask),
            Some(limit) => Some(mask.iter().zip(limit.iter()).map(|(a, b)| a & b).collect()),
        }
    }

    /// Books a chunk of `count` tokens that a step has computed in a batch of `batch` requests, and what its wanted rows gave; returns
    /// what there is to tell.
    pub(crate) fn take(
        &mut self,
        count: usize,
        batch: usize,
        drawn: &mut impl Iterator<Item = Drawn>,
        embedding: Option<Vec<f32>>,
        now: Instant,
    ) -> Option<Output> {
        let scored = self.scored(count).len();
        let mut finite = true;
        for row in drawn.by_ref().take(scored) {
            match row {
                Drawn::Token { logprobs, .. } => self.prompt_logprobs.push(logprobs),
                Drawn::NotFinite => finite = false,
            }
        }
        self.computed += count;
        self.stats.steps += 1;
        self.stats.max_batch = self.stats.max_batch.max(batch);
        if self.computed < self.tokens.len() {
            return (!finite).then(|| self.output(None, Vec::new(), Some(FinishReason::NotFinite)));
        }
        let row = if self.draws() { drawn.next() } else { None };
        let first = self.first_token.is_none();
        match self.first_token {
            Some(first) => self.stats.decode = now - first,
            None => {
                self.first_token = Some(now);
                self.stats.prefill = self.first_step.map_or(Duration::ZERO, |start| now - start);
            }
        }
        let mut output = match row {
            _ if !finite => self.output(None, Vec::new(), Some(FinishReason::NotFinite)),
            None => self.output(None, Vec::new(), Some(FinishReason::Length)),
            Some(Drawn::Token { .. }) if self.request.task == Task::Embed => {
                let reason = match &embedding {
                    Some(row) if row.iter().all(|x| x.is_finite()) => FinishReason::Length,
                    _ => FinishReason::NotFinite,
                };
                Output { embedding, ..self.output(None, Vec::new(), Some(reason)) }
            }
            Some(Drawn::Token { id, logprobs }) => {
                let reason = self.draw(id);
                self.output(Some(id), logprobs, reason)
            }
            Some(Drawn::NotFinite) => self.output(None, Vec::new(), Some(FinishReason::NotFinite)),
        };
        if first && self.request.prompt_logprobs.is_some() && !self.is_sibling() {
            output.prompt_logprobs = Some(std::mem::take(&mut self.prompt_logprobs));
        }
        Some(output)
    }

    /// Takes a token that was drawn; says whether it is the last one.
    fn draw(&mut self, token: u32) -> Option<FinishReason> {
        self.tokens.push(token);
        if self.request.stop_ids.contains(&token) {
            return Some(FinishReason::Stop);
        }
        if let Some(grammar) = &mut self.grammar {
            if let Err(error) = grammar.take(token) {
                tracing::warn!(request = self.id.0, %error, "the grammar failed");
                return Some(FinishReason::Grammar);
            }
            if grammar.is_over() {
                return Some(FinishReason::Stop);
            }
        }
        (self.tokens.len() >= self.max_len).then_some(FinishReason::Length)
    }

    fn output(&self, token: Option<u32>, logprobs: Vec<TokenLogprob>, reason: Option<FinishReason>) -> Output {
        Output {
            id: self.id,
            choice: self.choice,
            token,
            logprobs,
            prompt_logprobs: None,
            embedding: None,
            finished: reason.map(|reason| self.finished(reason)),
        }
    }
}
