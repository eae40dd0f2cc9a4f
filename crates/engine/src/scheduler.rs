//! The scheduler: which tokens of which requests the next step computes.
//!
//! Requests are served by priority, then in the order of arrival. Each running request gets at least one token of every step, so none
//! starves; what the budget has left goes to the first prompt that is not computed yet, and no other prompt is begun before that one is
//! done. When blocks run out the last running request gives its own back and is computed again later, from its prompt and the tokens it
//! has. It also makes way for a waiting request that is more urgent.

use crate::blocks::BlockManager;
use crate::sequence::{Order, Sequence};
use nxd_ops::{AdapterId, Batch, SamplingBatch};
use std::collections::BTreeMap;

/// Queues and blocks.
#[derive(Debug)]
pub(crate) struct Scheduler {
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    pub(crate) blocks: BlockManager,
    pub(crate) waiting: BTreeMap<Order, Sequence>,
    /// By their order.
    pub(crate) running: Vec<Sequence>,
    pub(crate) counts: Counts,
}

/// What happened since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens that were looked for in the prefix cache.
    pub prefix_queries: usize,
    /// Tokens that were found there.
    pub prefix_hits: usize,
    /// Requests that gave their blocks back, to be computed again later.
    pub preemptions: usize,
}

/// The tokens that one step computes: how many of each running request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) chunks: Vec<usize>,
}

impl Scheduler {
    pub(crate) fn new(blocks: BlockManager, max_num_seqs: usize, max_num_batched_tokens: usize) -> Self {
        // Beyond this number a step's budget could not give each a token.
        let max_num_seqs = max_num_seqs.min(max_num_batched_tokens);
        let (waiting, running, counts) = (BTreeMap::new(), Vec::new(), Counts::default());
        Scheduler { max_num_seqs, max_num_batched_tokens, blocks, waiting, running, counts }
    }

    /// Decides the next step, handing out the blocks that it needs.
    pub(crate) fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut budget = self.max_num_batched_tokens;
        // Nobody is let in behind one who has to wait, nor where somebody has just been sent away.
        let mut closed = self.running.len() > self.max_num_seqs;
        loop {
            let index = plan.chunks.len();
            if !closed && self.is_next(index) {
                closed = !self.admit(index, budget);
                if closed && self.make_way(index) {
                    closed = false;
                    continue;
                }
            }
            let Some(sequence) = self.running.get(index) else { break };
            let pending = sequence.pending();
            // Each of those behind it needs one token.
            let most = budget.saturating_sub(self.running.len() - index - 1);
            match self.chunk(index, most) {
                0 => {
                    self.preempt_last();
                    closed = true;
                }
                tokens => {
                    plan.chunks.push(tokens);
                    budget -= tokens;
                    closed |= tokens < pending;
                }
            }
        }
        plan
    }

    /// Whether the first that waits is served before running request `index`.
    fn is_next(&self, index: usize) -> bool {
        let Some((order, _)) = self.waiting.first_key_value() else { return false };
        self.running.get(index).is_none_or(|running| *order < running.order())
    }

    /// Lets the first that waits run as number `index`, if there are a seat, a token of the budget and blocks for it.
    fn admit(&mut self, index: usize, budget: usize) -> bool {
        let behind = self.running.len() - index;
        if self.running.len() >= self.max_num_seqs || budget <= behind {
            return false;
        }
        let Some((order, mut next)) = self.waiting.pop_first() else { return false };
        let shared = self.share(&mut next);
        let (len, chunk) = (next.tokens.len(), next.pending().min(budget - behind));
        // Each that runs may soon need a block: one less than that, and the newcomer would be preempted at once.
        let spare = self.running.len();
        if !self.blocks.fits_now(&next.tables, len, chunk, spare) {
            self.blocks.release(&mut next.tables);
            next.computed = 0;
            self.waiting.insert(order, next);
            return false;
        }
        if next.stats.preemptions == 0 {
            next.stats.cached_tokens = shared;
        }
        self.counts.prefix_queries += len;
        self.counts.prefix_hits += shared;
        self.running.insert(index, next);
        true
    }

    /// Gives a request that holds nothing what is there of its tokens; returns how many that are.
    fn share(&mut self, next: &mut Sequence) -> usize {
        let tokens = next.tokens.len() - 1;
        let of_one_prompt = |s: &&Sequence| s.id == next.id && !s.is_sibling() && s.computed > tokens;
        let parent = if next.is_new_sibling() { self.running.iter().find(of_one_prompt) } else { None };
        next.computed = match parent.and_then(|parent| self.blocks.fork(&parent.tables, tokens)) {
            Some(tables) => {
                next.tables = tables;
                tokens
            }
            None => {
                let most = next.findable();
                self.blocks.find(&mut next.tables, &next.tokens, most)
            }
        };
        next.computed
    }

    /// Sends the last that runs away if the first that waits is more urgent and is to run as number `index`.
    fn make_way(&mut self, index: usize) -> bool {
        let Some((&(priority, ..), _)) = self.waiting.first_key_value() else { return false };
        // One that has its tokens of this step already keeps them.
        let last = self.running.last().filter(|_| self.running.len() > index);
        let less_urgent = last.is_some_and(|last| last.order().0 > priority);
        if less_urgent {
            self.preempt_last();
        }
        less_urgent
    }

    /// Tokens that running request `index` can compute, at most `most`; blocks for them are handed out.
    fn chunk(&mut self, index: usize, most: usize) -> usize {
        let sequence = &mut self.running[index];
        let end = sequence.computed + sequence.pending().min(most);
        self.blocks.grow(&mut sequence.tables, end).saturating_sub(sequence.computed)
    }

    /// Takes the blocks of the request that is served last.
    fn preempt_last(&mut self) {
        let Some(mut last) = self.running.pop() else { return };
        tracing::debug!(request = last.id.0, tokens = last.computed, "preempted");
        self.blocks.release(&mut last.tables);
        last.computed = 0;
        last.stats.preemptions += 1;
        self.counts.preemptions += 1;
        self.waiting.insert(last.order(), last);
    }

    /// The batch of `plan`, and what its wanted rows draw.
    pub(crate) fn batch(&mut self, plan: &Plan) -> (Batch, SamplingBatch) {
        let mut batch = Batch { query_starts: vec![0], ..Batch::default() };
        let mut sampling = SamplingBatch::default();
        for (sequence, &tokens) in self.running.iter_mut().zip(&plan.chunks) {
            let rows = sequence.computed..sequence.computed + tokens;
            let first = batch.token_ids.len() as u32;
            batch.token_ids.extend_from_slice(&sequence.tokens[rows.clone()]);
            batch.positions.extend(rows.map(|position| position as u32));
            batch.query_starts.push(batch.token_ids.len() as u32);
            batch.rope_lens.push(sequence.rope_len as u32);
            for (row, draw) in sequence.wanted(tokens) {
                batch.wanted.push(first + row as u32);
                sampling.rows.push(draw);
            }
        }
        let running = self.running.iter().take(plan.chunks.len());
        if running.clone().any(|s| s.request.adapter.is_some()) {
            batch.adapters = running.map(|s| s.request.adapter).collect();
        }
        batch.groups = self.blocks.batch_tables(self.running.iter().take(plan.chunks.len()).map(|s| &s.tables));
        (batch, sampling)
    }

    /// Whether a request that runs or waits has the adapter.
    pub(crate) fn uses(&self, adapter: AdapterId) -> bool {
        self.running.iter().chain(self.waiting.values()).any(|s| s.request.adapter == Some(adapter))
    }

    /// Takes a sequence out, wherever it is, and gives its blocks back.
    pub(crate) fn remove(&mut self, which: impl Fn(&Sequence) -> bool) -> Option<Sequence> {
        let mut sequence = match self.running.iter().position(&which) {
            Some(index) => self.running.remove(index),
            None => {
                let order = *self.waiting.iter().find(|(_, s)| which(s))?.0;
                self.waiting.remove(&order)?
            }
        };
        self.blocks.release(&mut sequence.tables);
        Some(sequence)
    }
}
