//! The engine: requests in, tokens out, one executor step at a time.

use crate::blocks::BlockManager;
use crate::error::EngineError;
use crate::request::{FinishReason, Finished, Output, Request, RequestId, Stats};
use crate::scheduler::{Plan, Scheduler, Sequence};
use nxd_executor::{Executor, ModelInfo};
use nxd_ops::{Drawn, TokenLogprob};
use std::time::Instant;

/// Limits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most requests that run at once; 0 counts as 1.
    pub max_num_seqs: usize,
    /// Most tokens a step; 0 counts as 1. A longer prompt is computed in chunks.
    pub max_num_batched_tokens: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { max_num_seqs: 64, max_num_batched_tokens: 512 }
    }
}

/// Many requests on one executor. Owned by one thread; nothing in it waits.
pub struct Engine {
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    next_id: u64,
    started: Vec<RequestId>,
    computed: (usize, usize),
    counts: (usize, usize, usize),
}

impl Engine {
    /// An engine without requests.
    pub fn new(executor: Box<dyn Executor>, options: EngineOptions) -> Self {
        let blocks = BlockManager::new(executor.info());
        let scheduler = Scheduler::new(blocks, options.max_num_seqs.max(1), options.max_num_batched_tokens.max(1));
        Engine { executor, scheduler, next_id: 0, started: Vec::new(), computed: (0, 0), counts: (0, 0, 0) }
    }

    /// The loaded model.
    pub fn info(&self) -> &ModelInfo {
        self.executor.info()
    }

    /// Queues a request; it is computed by later steps.
    ///
    /// # Errors
    /// When the request can never be served: an empty or too long prompt, a token outside the vocabulary, no token asked for, a
    /// sampling parameter outside its range, or more than the KV cache holds.
    pub fn add_request(&mut self, mut request: Request) -> Result<RequestId, EngineError> {
        let info = self.executor.info();
        request.check(info)?;
        // No more can be reported than there are.
        request.logprobs = request.logprobs.map(|count| count.min(info.vocab_size as u32));
        let id = RequestId(self.next_id);
        self.next_id += 1;
        for choice in 0..request.n.max(1) {
            self.scheduler.waiting.push_back(Sequence {
                id,
                choice: request.choice + choice,
                tokens: request.prompt.clone(),
                request: request.clone(),
                max_len: request.max_len(info.max_model_len),
                computed: 0,
                tables: self.scheduler.blocks.tables(),
                stats: Stats::default(),
                first_step: None,
                first_token: None,
            });
        }
        Ok(id)
    }

    /// Whether a request runs or waits.
    pub fn has_work(&self) -> bool {
        !self.scheduler.running.is_empty() || !self.scheduler.waiting.is_empty()
    }

    /// Requests that run and requests that wait.
    pub fn num_requests(&self) -> (usize, usize) {
        (self.scheduler.running.len(), self.scheduler.waiting.len())
    }

    /// KV blocks that requests hold, and blocks in all. Without work none is held.
    pub fn kv_blocks(&self) -> (usize, usize) {
        self.scheduler.blocks.usage()
    }

    /// Runs one step: a token of each running request, and chunks of prompts. Requests whose prompt is not computed yet have no output.
    ///
    /// # Errors
    /// When the executor fails. All requests have ended then, without output.
    pub fn step(&mut self) -> Result<Vec<Output>, EngineError> {
        let plan = self.scheduler.plan();
        if plan.chunks.is_empty() {
            return Ok(Vec::new());
        }
        let (batch, sampling) = self.scheduler.batch(&plan);
        let started = Instant::now();
        let drawn = match self.executor.step(&batch, &sampling) {
            Ok(output) => output.drawn,
            Err(error) => {
                self.abort_all();
                return Err(EngineError::Executor(error));
            }
        };
        Ok(self.apply(&plan, started, drawn))
    }

    /// Takes a request out, all its completions, and frees its blocks; `None` when it has ended already.
    pub fn abort(&mut self, id: RequestId) -> Option<Finished> {
        let mut ended = None;
        while let Some(sequence) = self.scheduler.remove(|s| s.id == id) {
            ended = Some(sequence.finished(FinishReason::Abort));
        }
        ended
    }

    /// Takes one completion of a request out; `None` when it has ended already.
    pub fn abort_choice(&mut self, id: RequestId, choice: u32) -> Option<Finished> {
        let sequence = self.scheduler.remove(|s| s.id == id && s.choice == choice)?;
        Some(sequence.finished(FinishReason::Abort))
    }

    /// Requests whose first step has run since this was last asked.
    pub fn take_started(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.started)
    }

    /// Tokens of the newest step, and tokens of prompts among them.
    pub fn computed(&self) -> (usize, usize) {
        self.computed
    }

    /// Since this was last asked: tokens looked for in the prefix cache, tokens found there, and preemptions.
    pub fn take_counts(&mut self) -> (usize, usize, usize) {
        std::mem::take(&mut self.counts)
    }

    /// Takes all requests out.
    pub fn abort_all(&mut self) {
        let ids: Vec<_> = self.scheduler.running.iter().chain(&self.scheduler.waiting).map(|s| s.id).collect();
        for id in ids {
            self.abort(id);
        }
    }

    /// Books what a step computed and drew.
    fn apply(&mut self, plan: &Plan, started: Instant, drawn: Vec<Drawn>) -> Vec<Output> {
        let now = Instant::now();
        let mut drawn = drawn.into_iter();
        let mut outputs = Vec::new();
        for (sequence, &tokens) in self.scheduler.running.iter_mut().zip(&plan.chunks) {
            sequence.computed += tokens;
            sequence.stats.steps += 1;
            sequence.stats.max_batch = sequence.stats.max_batch.max(plan.chunks.len());
            if sequence.first_step.replace(sequence.first_step.unwrap_or(started)).is_none() {
                self.started.push(sequence.id);
            }
            self.scheduler.blocks.trim(&mut sequence.tables, sequence.computed);
            if sequence.computed == sequence.tokens.len() {
                let drawn = drawn.next().expect("an executor draws for every wanted row");
                outputs.push(sequence.take(drawn, now));
            }
        }
        for output in outputs.iter().filter(|output| output.finished.is_some()) {
            self.scheduler.remove(|s| s.id == output.id && s.choice == output.choice);
        }
        outputs
    }
}

impl Sequence {
    /// Takes what was drawn, and says so.
    fn take(&mut self, drawn: Drawn, now: Instant) -> Output {
        let (token, logprobs): (_, Vec<TokenLogprob>) = match drawn {
            Drawn::Token { id, logprobs } => (Some(id), logprobs),
            Drawn::NotFinite => (None, Vec::new()),
        };
        let reason = match token {
            None => Some(FinishReason::NotFinite),
            Some(id) => {
                self.tokens.push(id);
                if self.request.stop_ids.contains(&id) {
                    Some(FinishReason::Stop)
                } else {
                    (self.tokens.len() >= self.max_len).then_some(FinishReason::Length)
                }
            }
        };
        match self.first_token {
            Some(first) => self.stats.decode = now - first,
            None => {
                self.first_token = Some(now);
                self.stats.prefill = self.first_step.map_or_else(Default::default, |start| now - start);
            }
        }
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
