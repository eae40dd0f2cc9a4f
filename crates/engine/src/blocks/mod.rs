//! The block manager: which request holds which blocks of the paged KV cache, and which prefixes are in it. See `README.md`.

mod pool;

use nxd_executor::ModelInfo;
use nxd_executor::kv::blocks_of_one;
use nxd_ops::{AdapterId, GroupTables};
use pool::{Content, Pool};
use std::hash::{BuildHasher, RandomState};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The blocks of every KV group.
#[derive(Debug)]
pub(crate) struct BlockManager {
    block_size: usize,
    pools: Vec<Pool>,
    caching: bool,
    rope_lens_differ_from: Option<usize>,
    /// Nobody outside the process can make two prefixes with one key.
    secret: u64,
}

/// The blocks that one request holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BlockTables {
    groups: Vec<Table>,
    /// Keys of the request's full blocks, as far as they were needed; the first one is that of the empty prefix.
    keys: Vec<u128>,
    /// Full blocks that the prefix cache was told of, or came from it.
    published: usize,
}

/// Blocks of one request in one group, from its first live logical block on.
#[derive(Clone, Debug, Default, PartialEq)]
struct Table {
    first_block: usize,
    blocks: Vec<u32>,
}

impl BlockManager {
    pub(crate) fn new(info: &ModelInfo, caching: bool) -> Self {
        BlockManager {
            block_size: info.block_size,
            pools: info.kv_groups.iter().map(|(spec, num_blocks)| Pool::new(spec.window, *num_blocks)).collect(),
            caching,
            rope_lens_differ_from: info.rope_lens_differ_from,
            secret: RandomState::new().hash_one(0),
        }
    }

    /// Tables of a request that holds nothing yet. Prefixes are found among requests with the same salt and adapter, and with the same
    /// rotations: where these depend on a request's length, `rope_len` does.
    pub(crate) fn tables(&self, salt: &str, adapter: Option<AdapterId>, rope_len: usize) -> BlockTables {
        let rotations = self.rope_lens_differ_from.map_or(0, |from| rope_len.max(from)) as u64;
        let adapter = adapter.map_or(0, |id| u64::from(id.0) + 1);
        let root = [&rotations.to_le_bytes(), &adapter.to_le_bytes(), salt.as_bytes()].concat();
        let keys = vec![xxh3_128_with_seed(&root, self.secret)];
        BlockTables { groups: vec![Table::default(); self.pools.len()], keys, published: 0 }
    }

    /// Whether a request can run up to `len` tokens in chunks of `chunk` with the blocks that it has and those that are free now, leaving
    /// `spare` of them.
    pub(crate) fn fits_now(&self, tables: &BlockTables, len: usize, chunk: usize, spare: usize) -> bool {
        self.pools.iter().zip(&tables.groups).all(|(pool, table)| {
            let needed = blocks_of_one(pool.window, len, chunk, self.block_size);
            let had = table.blocks.len().min(needed);
            pool.num_free() >= (needed - had + spare).min(pool.num_blocks() - had)
        })
    }

    /// Gives a request that holds nothing the blocks of the longest prefix of `tokens` that is in the cache, at most `most` tokens of it;
    /// returns how many tokens that is.
    pub(crate) fn find(&mut self, tables: &mut BlockTables, tokens: &[u32], most: usize) -> usize {
        if !self.caching {
            return 0;
        }
        let block_size = self.block_size;
        let whole = most.min(tokens.len()) / block_size;
        self.extend_keys(tables, tokens, whole);
        let found = |pool: &Pool| -> Vec<Option<u32>> {
            (0..whole).map(|index| pool.find(&content(tables, tokens, index, block_size))).collect()
        };
        let found: Vec<Vec<Option<u32>>> = self.pools.iter().map(found).collect();
        // Blocks that the row behind a prefix of `end` blocks sees, in each group.
        let seen = |pool: &Pool, end: usize| oldest_block(pool.window, end * block_size, block_size)..end;
        let complete = |end: usize| {
            self.pools.iter().zip(&found).all(|(pool, found)| found[seen(pool, end)].iter().all(Option::is_some))
        };
        // Behind the first block that a group without a window lacks there is nothing to look for.
        let gap = |(pool, found): (&Pool, &Vec<Option<u32>>)| match pool.window {
            None => found.iter().position(Option::is_none).unwrap_or(whole),
            Some(_) => whole,
        };
        let most_blocks = self.pools.iter().zip(&found).map(gap).min().unwrap_or(0);
        let end = (1..=most_blocks).rev().find(|&end| complete(end)).unwrap_or(0);
        for ((pool, table), found) in self.pools.iter_mut().zip(&mut tables.groups).zip(&found) {
            let seen = oldest_block(pool.window, end * block_size, block_size)..end;
            table.first_block = seen.start;
            table.blocks.extend(found[seen].iter().flatten());
            table.blocks.iter().for_each(|&block| pool.hold(block));
        }
        tables.published = end;
        end * block_size
    }

    /// Tables of a request that shares its first `tokens` tokens with one that has computed them: full blocks are shared, the last one is
    /// copied. `None` where blocks are gone or used up.
    pub(crate) fn fork(&mut self, parent: &BlockTables, tokens: usize) -> Option<BlockTables> {
        let (full, begun) = (tokens / self.block_size, !tokens.is_multiple_of(self.block_size));
        let first = |pool: &Pool| oldest_block(pool.window, tokens, self.block_size);
        let there = |(pool, table): (&Pool, &Table)| {
            table.first_block <= first(pool)
                && table.end() >= tokens.div_ceil(self.block_size)
                && (!begun || pool.num_free() > 0)
        };
        if !self.pools.iter().zip(&parent.groups).all(there) {
            return None;
        }
        let block_size = self.block_size;
        let groups = self.pools.iter_mut().zip(&parent.groups).map(|(pool, table)| {
            let first_block = oldest_block(pool.window, tokens, block_size);
            let mut blocks = table.blocks[first_block - table.first_block..full - table.first_block].to_vec();
            blocks.iter().for_each(|&block| pool.hold(block));
            if begun {
                blocks.extend(pool.take_copy(table.blocks[full - table.first_block]));
            }
            Table { first_block, blocks }
        });
        let keys = parent.keys[..parent.keys.len().min(full + 1)].to_vec();
        Some(BlockTables { groups: groups.collect(), keys, published: parent.published.min(full) })
    }

    /// Hands out blocks for the positions before `end`, as far as they go; returns the end of the positions that are covered now.
    pub(crate) fn grow(&mut self, tables: &mut BlockTables, end: usize) -> usize {
        let block_size = self.block_size;
        let mut covered = end;
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            while table.end() < end.div_ceil(block_size) {
                let Some(block) = pool.take() else { break };
                table.blocks.push(block);
            }
            covered = covered.min(table.end() * block_size);
        }
        covered
    }

    /// Tells the prefix cache of the full blocks among the first `computed` of a request's tokens.
    pub(crate) fn publish(&mut self, tables: &mut BlockTables, tokens: &[u32], computed: usize) {
        let full = computed / self.block_size;
        if !self.caching || full <= tables.published {
            return;
        }
        self.extend_keys(tables, tokens, full);
        for index in tables.published..full {
            for (pool, table) in self.pools.iter_mut().zip(&tables.groups) {
                let block = index.checked_sub(table.first_block).and_then(|at| table.blocks.get(at));
                if let Some(&block) = block {
                    pool.publish(block, &content(tables, tokens, index, self.block_size));
                }
            }
        }
        tables.published = full;
    }

    /// Takes a request's blocks out of the prefix cache: what they hold is not sound.
    pub(crate) fn forget(&mut self, tables: &BlockTables) {
        for (pool, table) in self.pools.iter_mut().zip(&tables.groups) {
            table.blocks.iter().for_each(|&block| pool.forget(block));
        }
    }

    /// Gives back the blocks that the row at position `next` and later ones cannot see.
    pub(crate) fn trim(&mut self, tables: &mut BlockTables, next: usize) {
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            let oldest = oldest_block(pool.window, next, self.block_size);
            let behind = oldest.saturating_sub(table.first_block).min(table.blocks.len());
            table.blocks.drain(..behind).rev().for_each(|block| pool.give_back(block));
            table.first_block += behind;
        }
    }

    /// Gives back all blocks of a request, which starts from position 0 if it goes on.
    pub(crate) fn release(&mut self, tables: &mut BlockTables) {
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            // The end of a prefix is of no use without its start, so it is forgotten first.
            table.blocks.drain(..).rev().for_each(|block| pool.give_back(block));
            table.first_block = 0;
        }
        tables.published = 0;
    }

    /// The tables of a batch's requests, in their order; blocks handed out since the last call are listed to be zeroed or copied to.
    pub(crate) fn batch_tables<'a>(
        &mut self,
        requests: impl Iterator<Item = &'a BlockTables> + Clone,
    ) -> Vec<GroupTables> {
        let fill = |(group, pool): (usize, &mut Pool)| {
            let mut tables = GroupTables { starts: vec![0], ..GroupTables::default() };
            for request in requests.clone() {
                let table = &request.groups[group];
                tables.blocks.extend_from_slice(&table.blocks);
                tables.starts.push(tables.blocks.len() as u32);
                tables.first_blocks.push(table.first_block as u32);
            }
            tables.zero_blocks = std::mem::take(&mut pool.fresh);
            tables.copy_blocks = std::mem::take(&mut pool.copies);
            tables.copy_blocks.iter().for_each(|&(source, _)| pool.give_back(source));
            tables
        };
        self.pools.iter_mut().enumerate().map(fill).collect()
    }

    /// Forgets copies that were asked for: there is no batch to make them.
    pub(crate) fn drop_copies(&mut self) {
        for pool in &mut self.pools {
            std::mem::take(&mut pool.copies).into_iter().for_each(|(source, _)| pool.give_back(source));
        }
    }

    /// Blocks in use and blocks in all, over all groups.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let all = self.pools.iter().map(Pool::num_blocks).sum::<usize>();
        (all - self.pools.iter().map(Pool::num_free).sum::<usize>(), all)
    }

    /// Names the first `blocks` full blocks of `tokens`. Tokens of a request never change, so names that were made stay.
    fn extend_keys(&self, tables: &mut BlockTables, tokens: &[u32], blocks: usize) {
        let named = tables.keys.len() - 1;
        let mut bytes = Vec::with_capacity(16 + 4 * self.block_size);
        for block in tokens.chunks_exact(self.block_size).take(blocks).skip(named) {
            let parent = tables.keys[tables.keys.len() - 1];
            bytes.clear();
            bytes.extend_from_slice(&parent.to_le_bytes());
            bytes.extend(block.iter().flat_map(|token| token.to_le_bytes()));
            tables.keys.push(xxh3_128_with_seed(&bytes, self.secret));
        }
    }
}

/// What full block `index` of `tokens` holds; its key has been made.
fn content<'t>(tables: &BlockTables, tokens: &'t [u32], index: usize, block_size: usize) -> Content<'t> {
    let tokens = &tokens[index * block_size..(index + 1) * block_size];
    Content { key: tables.keys[index + 1], parent: tables.keys[index], tokens }
}

/// The first block that the row at position `next` sees.
fn oldest_block(window: Option<usize>, next: usize, block_size: usize) -> usize {
    window.map_or(0, |window| (next + 1).saturating_sub(window) / block_size)
}

/// The blocks needed and had in a group that can never hold `len` tokens of one request, if there is one.
pub(crate) fn never_fits(info: &ModelInfo, len: usize) -> Option<(usize, usize)> {
    // A token at a time is the least that a step can do.
    let groups = info.kv_groups.iter().map(|(spec, had)| (blocks_of_one(spec.window, len, 1, info.block_size), *had));
    groups.into_iter().find(|(needed, had)| needed > had)
}

impl Table {
    /// The logical block after the last one.
    fn end(&self) -> usize {
        self.first_block + self.blocks.len()
    }
}

#[cfg(test)]
mod tests;
