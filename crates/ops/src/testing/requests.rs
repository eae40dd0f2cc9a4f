//! Batches: random rows for ops without a cache, and requests that share KV blocks as a scheduler hands them out.

use super::random::Random;
use crate::batch::{Batch, Capture, GroupTables};
use crate::spec::KvSpec;

/// Two steps without a cache: one row alone, and several requests of several rows.
pub(super) fn batches(random: &mut Random, vocab_size: usize) -> Vec<Batch> {
    let several: Vec<usize> = (0..random.between(2, 4)).map(|_| random.between(1, 12)).collect();
    vec![batch(random, vocab_size, &[1]), batch(random, vocab_size, &several)]
}

/// One step of requests with `rows` rows each. Positions begin anywhere; some rows are wanted, the last always.
pub(super) fn batch(random: &mut Random, vocab_size: usize, rows: &[usize]) -> Batch {
    let mut batch = Batch { query_starts: vec![0], capture: Capture::Layers, ..Batch::default() };
    for &rows in rows {
        let first = random.between(0, 3000) as u32;
        for position in first..first + rows as u32 {
            batch.token_ids.push(random.between(0, vocab_size - 1) as u32);
            batch.positions.push(position);
        }
        batch.query_starts.push(batch.token_ids.len() as u32);
        batch.rope_lens.push(first + rows as u32);
    }
    let last = batch.num_tokens() as u32 - 1;
    batch.wanted = (0..last).filter(|_| random.unit() < 0.4).collect();
    batch.wanted.push(last);
    batch
}

/// A step on requests with a cache.
pub(super) struct Step {
    pub(super) batch: Batch,
    /// For each row the tokens of its request up to its own.
    pub(super) seen: Vec<Vec<u32>>,
}

/// Running requests and the blocks that they hold.
pub(super) struct Requests {
    block_size: usize,
    groups: Vec<Group>,
    requests: Vec<Request>,
}

struct Group {
    window: Option<usize>,
    /// Blocks that nobody holds; the last is handed out first, so that stale data comes back soon.
    free: Vec<u32>,
    /// How many requests hold each block.
    holders: Vec<u32>,
    /// Copies that the next step makes.
    copies: Vec<(u32, u32)>,
}

struct Request {
    tokens: Vec<u32>,
    /// Tokens whose K and V are stored.
    done: usize,
    /// For each group the logical index of the first block held, and the blocks.
    tables: Vec<(usize, Vec<u32>)>,
}

impl Requests {
    /// No requests, and `num_blocks` blocks for each group, in random order.
    pub(super) fn new(specs: &[KvSpec], num_blocks: usize, block_size: usize, random: &mut Random) -> Self {
        let group = |spec: &KvSpec| Group {
            window: spec.window,
            free: random.permutation(num_blocks),
            holders: vec![0; num_blocks],
            copies: Vec::new(),
        };
        Requests { block_size, groups: specs.iter().map(group).collect(), requests: Vec::new() }
    }

    /// A new request with these tokens.
    pub(super) fn admit(&mut self, tokens: Vec<u32>) -> usize {
        let tables = vec![(0, Vec::new()); self.groups.len()];
        self.requests.push(Request { tokens, done: 0, tables });
        self.requests.len() - 1
    }

    /// A new request that goes on with `tokens` where the full blocks of request `of` end, and shares these blocks.
    pub(super) fn fork(&mut self, of: usize, tokens: &[u32]) -> usize {
        let request = &self.requests[of];
        let blocks = request.done / self.block_size;
        let done = blocks * self.block_size;
        let mut tables = request.tables.clone();
        for ((first, table), group) in tables.iter_mut().zip(&mut self.groups) {
            table.truncate(blocks.saturating_sub(*first));
            for &block in table.iter() {
                group.holders[block as usize] += 1;
            }
        }
        let tokens = request.tokens[..done].iter().chain(tokens).copied().collect();
        self.requests.push(Request { tokens, done, tables });
        self.requests.len() - 1
    }

    /// A new request that goes on with `tokens` where request `of` stands: it shares the full blocks, and copies the one behind them.
    pub(super) fn branch(&mut self, of: usize, tokens: &[u32]) -> usize {
        let Request { tokens: known, done, tables } = &self.requests[of];
        let (done, full) = (*done, *done / self.block_size);
        let mut tables = tables.clone();
        for ((first, table), group) in tables.iter_mut().zip(&mut self.groups) {
            table.truncate((full + 1).saturating_sub(*first));
            for (i, block) in table.iter_mut().enumerate() {
                if *first + i < full {
                    group.holders[*block as usize] += 1;
                } else {
                    let copy = group.take();
                    group.copies.push((*block, copy));
                    *block = copy;
                }
            }
        }
        let tokens = known[..done].iter().chain(tokens).copied().collect();
        self.requests.push(Request { tokens, done, tables });
        self.requests.len() - 1
    }

    /// Gives back a request's blocks.
    pub(super) fn finish(&mut self, request: usize) {
        for ((_, table), group) in self.requests[request].tables.iter_mut().zip(&mut self.groups) {
            for block in table.drain(..) {
                group.release(block);
            }
        }
    }

    /// The step of `rows` next tokens of each request that is named.
    pub(super) fn step(&mut self, rows: &[(usize, usize)]) -> Step {
        let tables = || GroupTables { starts: vec![0], ..GroupTables::default() };
        let mut batch = Batch {
            query_starts: vec![0],
            groups: self.groups.iter().map(|_| tables()).collect(),
            capture: Capture::Layers,
            ..Batch::default()
        };
        let mut seen = Vec::new();
        for &(index, rows) in rows {
            let request = &mut self.requests[index];
            let end = request.done + rows;
            assert!(end <= request.tokens.len(), "request {index} has no {end} tokens");
            for position in request.done..end {
                batch.token_ids.push(request.tokens[position]);
                batch.positions.push(position as u32);
                seen.push(request.tokens[..=position].to_vec());
            }
            batch.query_starts.push(batch.token_ids.len() as u32);
            batch.rope_lens.push(request.tokens.len() as u32);
            batch.wanted.push(batch.token_ids.len() as u32 - 1);
            let of_groups = batch.groups.iter_mut().zip(&mut self.groups).zip(&mut request.tables);
            for ((tables, group), (first, held)) in of_groups {
                group.leave_behind(request.done, self.block_size, first, held);
                while (*first + held.len()) * self.block_size < end {
                    let block = group.take();
                    held.push(block);
                    tables.zero_blocks.push(block);
                }
                tables.blocks.extend(held.iter());
                tables.starts.push(tables.blocks.len() as u32);
                tables.first_blocks.push(*first as u32);
            }
            request.done = end;
        }
        for (tables, group) in batch.groups.iter_mut().zip(&mut self.groups) {
            tables.copy_blocks = std::mem::take(&mut group.copies);
        }
        Step { batch, seen }
    }
}

impl Group {
    fn take(&mut self) -> u32 {
        let block = self.free.pop().expect("the suite gives its requests enough blocks");
        self.holders[block as usize] = 1;
        block
    }

    fn release(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }

    /// Gives back the blocks that the row at `position` and later ones no longer see.
    fn leave_behind(&mut self, position: usize, block_size: usize, first: &mut usize, held: &mut Vec<u32>) {
        let Some(window) = self.window else { return };
        let oldest = (position + 1).saturating_sub(window) / block_size;
        while *first < oldest && !held.is_empty() {
            let block = held.remove(0);
            self.release(block);
            *first += 1;
        }
    }
}

/// A script of steps that has everything a cache must bear: chunks of prefills beside decode rows, requests in another order, shared
/// blocks, blocks given back and taken by others, rows on both sides of block borders.
///
/// Windows are of five tokens at least: a shorter one has left behind what the fork still sees.
pub(super) fn script(random: &mut Random, specs: &[KvSpec], num_blocks: usize, size: usize, vocab: usize) -> Vec<Step> {
    let mut requests = Requests::new(specs, num_blocks, size, random);
    let mut tokens = |count: usize| (0..count).map(|_| random.between(0, vocab - 1) as u32).collect::<Vec<_>>();
    let long = requests.admit(tokens(4 * size));
    let short = requests.admit(tokens(size + 1));
    let mut steps = vec![
        requests.step(&[(long, size + 3), (short, 1)]),
        // The short one ends at a border.
        requests.step(&[(short, size - 1), (long, 1)]),
    ];
    let fork = requests.fork(long, &tokens(size + 2));
    steps.push(requests.step(&[(long, 2 * size - 4), (fork, 3), (short, 1)]));
    requests.finish(short);
    let late = requests.admit(tokens(2 * size));
    steps.push(requests.step(&[(late, size / 2 + 1), (long, 1), (fork, size - 2)]));
    steps.push(requests.step(&[(fork, 1), (late, 1), (long, 1)]));
    requests.finish(long);
    let last = requests.admit(tokens(3 * size));
    steps.push(requests.step(&[(last, 2 * size + 2), (late, 2)]));
    requests.finish(fork);
    steps.push(requests.step(&[(last, 1)]));
    steps
}

/// A script of steps in which requests branch off others inside a block: several from one that writes on in the same step, a branch of a
/// branch that has not run, and one in a block that another has given back.
pub(super) fn branches(
    random: &mut Random,
    specs: &[KvSpec],
    num_blocks: usize,
    size: usize,
    vocab: usize,
) -> Vec<Step> {
    let mut requests = Requests::new(specs, num_blocks, size, random);
    let mut tokens = |count: usize| (0..count).map(|_| random.between(0, vocab - 1) as u32).collect::<Vec<_>>();
    let trunk = requests.admit(tokens(3 * size));
    let mut steps = vec![requests.step(&[(trunk, size + 3)])];
    let (first, second) = (requests.branch(trunk, &tokens(size)), requests.branch(trunk, &tokens(size)));
    steps.push(requests.step(&[(second, size - 2), (trunk, 1), (first, 2)]));
    let third = requests.branch(first, &tokens(size));
    let fourth = requests.branch(third, &tokens(size));
    steps.push(requests.step(&[(fourth, 3), (first, 1), (third, 1)]));
    requests.finish(second);
    let fifth = requests.branch(third, &tokens(4));
    steps.push(requests.step(&[(trunk, 1), (fifth, 1), (fourth, 1), (third, size - 6)]));
    steps.push(requests.step(&[(fifth, 3), (trunk, 2)]));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Values;
    use std::collections::BTreeSet;

    #[test]
    fn branches_copy_in_every_group_also_from_copies() {
        let full = KvSpec { num_kv_heads: 1, head_dim: 8, values: Values::Own, window: None };
        for (seed, size) in [(0, 8), (1, 16), (2, 32)] {
            let specs = [full, KvSpec { window: Some(size / 2 + 1), ..full }];
            let steps = branches(&mut Random::new(seed), &specs, 16, size, 50);
            for group in 0..specs.len() {
                let copies = |step: &Step| step.batch.groups[group].copy_blocks.clone();
                let copies: Vec<_> = steps.iter().map(copies).collect();
                assert_eq!(copies.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 2, 1, 0]);
                assert_eq!(copies[1][0].0, copies[1][1].0, "two branches of one trunk");
                assert_eq!(copies[2][0].1, copies[2][1].0, "a branch of a branch");
            }
            for step in &steps {
                step.batch.validate(50, &specs.map(|spec| (spec, 16)), size).unwrap();
            }
        }
    }

    #[test]
    fn the_script_has_what_it_promises() {
        let full = KvSpec { num_kv_heads: 1, head_dim: 8, values: Values::Own, window: None };
        for (seed, size) in [(0, 8), (1, 16), (2, 32)] {
            let specs = [full, KvSpec { window: Some(size / 2 + 1), ..full }];
            let steps = script(&mut Random::new(seed), &specs, 16, size, 50);
            let of_specs: Vec<_> = specs.iter().map(|&spec| (spec, 16)).collect();
            let (mut zeroed, mut reused, mut shared, mut mixed) = (BTreeSet::new(), 0, 0, 0);
            for Step { batch, seen } in &steps {
                batch.validate(50, &of_specs, size).unwrap();
                assert_eq!(seen.len(), batch.num_tokens());
                reused += batch.groups[0].zero_blocks.iter().filter(|&&block| !zeroed.insert(block)).count();
                let mut blocks = batch.groups[0].blocks.clone();
                blocks.sort_unstable();
                shared += blocks.windows(2).filter(|pair| pair[0] == pair[1]).count();
                let rows: Vec<_> = (0..batch.num_requests()).map(|r| batch.rows(r).len()).collect();
                mixed += usize::from(rows.contains(&1) && rows.iter().any(|&rows| rows > 1));
            }
            let freed = steps.iter().any(|step| step.batch.groups[1].first_blocks.iter().any(|&first| first > 0));
            assert!(reused > 0 && shared > 0 && mixed > 1 && freed, "{reused} {shared} {mixed} {freed}");
        }
    }
}
