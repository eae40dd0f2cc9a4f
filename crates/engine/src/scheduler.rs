//! The scheduler: which tokens of which requests the next step computes.
//!
//! Requests run in the order of arrival. Each running request gets at least one token of every step, so none starves; what the budget has
//! left goes to the oldest prompt that is not computed yet. No other prompt is begun before that one is done. When blocks run out the newest running request gives its own back and is
//! computed again later, from its prompt and the tokens it has.

use crate::blocks::{BlockManager, BlockTables};
use crate::request::{FinishReason, Finished, Request, RequestId, Stats};
use nxd_ops::{Batch, SamplingBatch, SamplingRow};
use std::collections::VecDeque;
use std::time::Instant;

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) choice: u32,
    pub(crate) request: Request,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<u32>,
    /// Tokens at which it ends: prompt and `max_tokens`, within the context.
    pub(crate) max_len: usize,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed: usize,
    pub(crate) tables: BlockTables,
    pub(crate) stats: Stats,
    pub(crate) first_step: Option<Instant>,
    pub(crate) first_token: Option<Instant>,
}

/// Queues and blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    pub(crate) blocks: BlockManager,
    /// Oldest first, and all older than those that run.
    pub(crate) waiting: VecDeque<Sequence>,
    /// Oldest first.
    pub(crate) running: Vec<Sequence>,
}

/// The tokens that one step computes: for the first running requests, how many each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) chunks: Vec<usize>,
}

impl Sequence {
    /// Tokens that are known but not computed.
    fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens that stand in the cache when the request ends: the last one drawn is never computed.
    pub(crate) fn stored_len(&self) -> usize {
        self.max_len - 1
    }

    pub(crate) fn finished(&self, reason: FinishReason) -> Finished {
        Finished { reason, stats: self.stats }
    }
}

impl Scheduler {
    pub(crate) fn new(blocks: BlockManager, max_num_seqs: usize, max_num_batched_tokens: usize) -> Self {
        Scheduler { max_num_seqs, max_num_batched_tokens, blocks, waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Decides the next step, handing out the blocks that it needs.
    pub(crate) fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut budget = self.max_num_batched_tokens;
        let mut preempted = false;
        while plan.chunks.len() < self.running.len() {
            // All but the newest need one token each, for which the budget is large enough: only the newest can have more to compute.
            match self.chunk(plan.chunks.len(), budget) {
                0 => {
                    self.preempt_newest();
                    preempted = true;
                }
                tokens => {
                    plan.chunks.push(tokens);
                    budget -= tokens;
                }
            }
        }
        // A prompt that has to go on in the next step stays the newest.
        let all_served = !preempted && self.running.iter().zip(&plan.chunks).all(|(s, &tokens)| tokens == s.pending());
        if all_served {
            self.admit(&mut plan, budget);
        }
        plan
    }

    /// Tokens that running request `index` can compute, at most `most`; blocks for them are handed out.
    fn chunk(&mut self, index: usize, most: usize) -> usize {
        let sequence = &mut self.running[index];
        let end = sequence.computed + sequence.pending().min(most);
        self.blocks.grow(&mut sequence.tables, end).saturating_sub(sequence.computed)
    }

    /// Takes the blocks of the request that has run for the shortest time.
    fn preempt_newest(&mut self) {
        let Some(mut newest) = self.running.pop() else { return };
        tracing::debug!(request = newest.id.0, tokens = newest.computed, "preempted: no KV block is free");
        self.blocks.release(&mut newest.tables);
        newest.computed = 0;
        newest.stats.preemptions += 1;
        // It is older than all that wait.
        self.waiting.push_front(newest);
    }

    /// Lets waiting requests run while budget, seats and blocks last.
    fn admit(&mut self, plan: &mut Plan, mut budget: usize) {
        // Beyond this number a step's budget could not give each a token.
        let seats = self.max_num_seqs.min(self.max_num_batched_tokens);
        while budget > 0
            && self.running.len() < seats
            && let Some(next) = self.waiting.front()
        {
            // Each that runs may soon need a block: one less than that, and the newcomer would be preempted at once.
            let spare = self.running.len();
            if !self.blocks.fits_now(next.tokens.len(), next.tokens.len().min(budget), spare) {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            self.running.push(next);
            let tokens = self.chunk(self.running.len() - 1, budget);
            if tokens == 0 {
                self.preempt_newest();
                break;
            }
            plan.chunks.push(tokens);
            budget -= tokens;
            if self.running.last().is_some_and(|s| tokens < s.pending()) {
                break;
            }
        }
    }

    /// The batch of `plan`, and a sampling row for each request whose last known token is in it.
    pub(crate) fn batch(&mut self, plan: &Plan) -> (Batch, SamplingBatch) {
        let scheduled = self.running.iter().zip(&plan.chunks);
        let mut batch = Batch { query_starts: vec![0], ..Batch::default() };
        let mut sampling = SamplingBatch::default();
        for (sequence, &tokens) in scheduled.clone() {
            let rows = sequence.computed..sequence.computed + tokens;
            batch.token_ids.extend_from_slice(&sequence.tokens[rows.clone()]);
            batch.positions.extend(rows.clone().map(|position| position as u32));
            batch.query_starts.push(batch.token_ids.len() as u32);
            batch.rope_lens.push(sequence.stored_len() as u32);
            if rows.end == sequence.tokens.len() {
                batch.wanted.push(batch.token_ids.len() as u32 - 1);
                sampling.rows.push(sequence.sampling_row());
            }
        }
        batch.groups = self.blocks.batch_tables(scheduled.map(|(sequence, _)| &sequence.tables));
        (batch, sampling)
    }

    /// Takes a sequence out, wherever it is, and gives its blocks back.
    pub(crate) fn remove(&mut self, which: impl Fn(&Sequence) -> bool) -> Option<Sequence> {
        let mut sequence = match self.running.iter().position(&which) {
            Some(index) => self.running.remove(index),
            None => {
                let index = self.waiting.iter().position(&which)?;
                self.waiting.remove(index)?
            }
        };
        self.blocks.release(&mut sequence.tables);
        Some(sequence)
    }
}

impl Sequence {
    fn sampling_row(&self) -> SamplingRow {
        let params = self.request.params;
        SamplingRow {
            params,
            history: if params.uses_history() { self.tokens.clone() } else { Vec::new() },
            generated_from: self.request.prompt.len(),
            position: self.tokens.len() as u32,
            choice: self.choice,
            logprobs: self.request.logprobs,
            bias: Vec::new(),
            allowed: None,
            target: None,
        }
    }
}
