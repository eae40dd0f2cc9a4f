//! The engine: requests in, tokens out, one executor step at a time.

use crate::blocks::BlockManager;
use crate::error::EngineError;
use crate::request::{FinishReason, Finished, Output, Request, RequestId, Task};
use crate::scheduler::{Counts, Plan, Scheduler};
use crate::sequence::Sequence;
use nxd_executor::{Executor, ExecutorError, ModelInfo};
use nxd_ops::{AdapterId, Drawn, LowRank};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Limits of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most requests that run at once; 0 counts as 1.
    pub max_num_seqs: usize,
    /// Most tokens a step; 0 counts as 1. A longer prompt is computed in chunks.
    pub max_num_batched_tokens: usize,
    /// Whether keys and values of earlier requests are kept while there is room, and found by their tokens.
    pub enable_prefix_caching: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { max_num_seqs: 64, max_num_batched_tokens: 256, enable_prefix_caching: true }
    }
}

/// Many requests on one executor. Owned by one thread; nothing in it waits.
pub struct Engine {
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    next_id: u64,
    started: Vec<RequestId>,
    computed: (usize, usize),
    /// The loaded adapters, and whether each is to go once no request has it.
    adapters: BTreeMap<AdapterId, bool>,
}

impl Engine {
    /// An engine without requests.
    pub fn new(executor: Box<dyn Executor>, options: EngineOptions) -> Self {
        let blocks = BlockManager::new(executor.info(), options.enable_prefix_caching);
        let scheduler = Scheduler::new(blocks, options.max_num_seqs.max(1), options.max_num_batched_tokens.max(1));
        Engine { executor, scheduler, next_id: 0, started: Vec::new(), computed: (0, 0), adapters: BTreeMap::new() }
    }

    /// The loaded model.
    pub fn info(&self) -> &ModelInfo {
        self.executor.info()
    }

    /// Takes an adapter, which requests may name from now on.
    ///
    /// # Errors
    /// When the device has no adapters, or this one does not fit the model.
    pub fn load_adapter(&mut self, parts: &Arc<[LowRank]>) -> Result<AdapterId, EngineError> {
        let id = self.executor.load_adapter(parts).map_err(of_adapter)?;
        self.adapters.insert(id, false);
        Ok(id)
    }

    /// Refuses further requests with an adapter, and gives its memory back when the last one that has it ends.
    ///
    /// # Errors
    /// When it is not loaded, or a rank failed.
    pub fn unload_adapter(&mut self, id: AdapterId) -> Result<(), EngineError> {
        match self.adapters.get_mut(&id) {
            Some(goes) if !*goes => *goes = true,
            _ => return Err(EngineError::NoAdapter),
        }
        self.let_adapters_go()
    }

    fn let_adapters_go(&mut self) -> Result<(), EngineError> {
        let unused = |(id, goes): (&AdapterId, &bool)| (*goes && !self.scheduler.uses(*id)).then_some(*id);
        for id in self.adapters.iter().filter_map(unused).collect::<Vec<_>>() {
            self.adapters.remove(&id);
            self.executor.unload_adapter(id).map_err(of_adapter)?;
        }
        Ok(())
    }

    /// Queues a request; it is computed by later steps.
    ///
    /// # Errors
    /// When the request can never be served: an empty or too long prompt, a token outside the vocabulary, no token asked for, a
    /// sampling parameter outside its range, an adapter that is not loaded, or more than the KV cache holds.
    pub fn add_request(&mut self, mut request: Request) -> Result<RequestId, EngineError> {
        let info = self.executor.info();
        request.check(info)?;
        if request.adapter.is_some_and(|id| self.adapters.get(&id) != Some(&false)) {
            return Err(EngineError::NoAdapter);
        }
        // No more can be reported than there are.
        let most = |count: u32| count.min(info.vocab_size as u32);
        request.logprobs = request.logprobs.map(most);
        request.prompt_logprobs = request.prompt_logprobs.map(most);
        let (max_model_len, vocab_size) = (info.max_model_len, info.vocab_size);
        let salt = request.cache_salt.as_deref().unwrap_or_default();
        let tables = self.scheduler.blocks.tables(salt, request.adapter, request.stored_len(max_model_len));
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let sequence = Sequence::new(id, request, tables, max_model_len, vocab_size);
        self.scheduler.waiting.insert(sequence.order(), sequence);
        Ok(id)
    }

    /// Whether there is something for a step to do: a request runs or waits, or an adapter is to go.
    pub fn has_work(&self) -> bool {
        !self.scheduler.running.is_empty()
            || !self.scheduler.waiting.is_empty()
            || self.adapters.values().any(|goes| *goes)
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
        if let Err(error) = self.let_adapters_go() {
            self.abort_all();
            return Err(error);
        }
        let plan = self.scheduler.plan();
        if plan.chunks.is_empty() {
            self.scheduler.blocks.drop_copies();
            return Ok(Vec::new());
        }
        let started = Instant::now();
        match self.run(&plan) {
            Ok((drawn, embeddings)) => Ok(self.apply(&plan, started, drawn, embeddings)),
            Err(error) => {
                self.abort_all();
                Err(error)
            }
        }
    }

    /// Runs a step; gives what its wanted rows drew, and the rows of embeddings in the order of their requests.
    fn run(&mut self, plan: &Plan) -> Result<(Vec<Drawn>, Vec<Vec<f32>>), EngineError> {
        let (batch, sampling) = self.scheduler.batch(plan);
        let step = self.executor.forward(&batch).map_err(EngineError::Executor)?;
        let scheduled = self.scheduler.running.iter().zip(&plan.chunks);
        let embedded = scheduled.filter(|(s, count)| s.request.task == Task::Embed && s.pending() == **count).count();
        let mut embeddings = Vec::with_capacity(embedded);
        if embedded > 0 {
            let hidden = self.executor.hidden(step).map_err(EngineError::Executor)?;
            let mut row = 0;
            for (sequence, &count) in self.scheduler.running.iter_mut().zip(&plan.chunks) {
                let wanted = sequence.num_wanted(count);
                if sequence.request.task == Task::Embed && wanted > 0 {
                    embeddings.push(hidden.row(row + wanted - 1).to_vec());
                }
                row += wanted;
            }
        }
        let output = self.executor.sample(step, &sampling).map_err(EngineError::Executor)?;
        Ok((output.drawn, embeddings))
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

    /// What happened since this was last asked.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.scheduler.counts)
    }

    /// Takes all requests out.
    pub fn abort_all(&mut self) {
        let ids: Vec<_> = self.scheduler.running.iter().chain(self.scheduler.waiting.values()).map(|s| s.id).collect();
        for id in ids {
            self.abort(id);
        }
    }

    /// Books what a step computed and drew.
    fn apply(&mut self, plan: &Plan, started: Instant, drawn: Vec<Drawn>, embeddings: Vec<Vec<f32>>) -> Vec<Output> {
        let now = Instant::now();
        let (mut drawn, mut embeddings) = (drawn.into_iter(), embeddings.into_iter());
        let (mut outputs, mut siblings) = (Vec::new(), Vec::new());
        let batch = plan.chunks.len();
        self.computed = (0, 0);
        for (sequence, &count) in self.scheduler.running.iter_mut().zip(&plan.chunks) {
            let of_prompt = sequence.request.prompt.len().saturating_sub(sequence.computed).min(count);
            self.computed = (self.computed.0 + count, self.computed.1 + of_prompt);
            if sequence.starts(started) {
                self.started.push(sequence.id);
            }
            let is_last = sequence.request.task == Task::Embed && sequence.pending() == count;
            let embedding = if is_last { embeddings.next() } else { None };
            let output = sequence.take(count, batch, &mut drawn, embedding, now);
            let blocks = &mut self.scheduler.blocks;
            if output.as_ref().and_then(|o| o.finished).is_some_and(|f| f.reason == FinishReason::NotFinite) {
                blocks.forget(&sequence.tables);
            } else {
                blocks.publish(&mut sequence.tables, &sequence.tokens, sequence.computed);
                blocks.trim(&mut sequence.tables, sequence.computed);
            }
            if output.is_some() && sequence.siblings > 0 {
                let salt = sequence.request.cache_salt.as_deref().unwrap_or_default();
                siblings.extend(sequence.take_siblings(&blocks.tables(
                    salt,
                    sequence.request.adapter,
                    sequence.rope_len,
                )));
            }
            outputs.extend(output);
        }
        for output in outputs.iter().filter(|output| output.finished.is_some()) {
            self.scheduler.remove(|s| s.id == output.id && s.choice == output.choice);
        }
        self.scheduler.waiting.extend(siblings.into_iter().map(|s| (s.order(), s)));
        outputs
    }
}

fn of_adapter(error: ExecutorError) -> EngineError {
    EngineError::Adapter(Box::new(error))
}
