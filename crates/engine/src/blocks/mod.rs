//! The block manager: which request holds which blocks of the paged KV cache.

use nxd_executor::ModelInfo;
use nxd_ops::GroupTables;

/// The free blocks of every KV group.
#[derive(Debug)]
pub(crate) struct BlockManager {
    block_size: usize,
    pools: Vec<Pool>,
}

/// The blocks of one KV group.
#[derive(Debug)]
struct Pool {
    window: Option<usize>,
    num_blocks: usize,
    /// A stack: the block given back last is handed out first, while the caches of the machine still hold it.
    free: Vec<u32>,
    /// Handed out since the last batch: they hold another request's values until the device has zeroed them.
    fresh: Vec<u32>,
}

/// The blocks that one request holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BlockTables {
    groups: Vec<Table>,
}

/// Blocks of one request in one group, from its first live logical block on.
#[derive(Clone, Debug, Default, PartialEq)]
struct Table {
    first_block: usize,
    blocks: Vec<u32>,
}

impl BlockManager {
    pub(crate) fn new(info: &ModelInfo) -> Self {
        let pool = |&(spec, num_blocks): &(nxd_ops::KvSpec, usize)| Pool {
            window: spec.window,
            num_blocks,
            free: (0..num_blocks as u32).rev().collect(),
            fresh: Vec::new(),
        };
        BlockManager { block_size: info.block_size, pools: info.kv_groups.iter().map(pool).collect() }
    }

    /// Tables of a request that holds nothing yet.
    pub(crate) fn tables(&self) -> BlockTables {
        BlockTables { groups: vec![Table::default(); self.pools.len()] }
    }

    /// Whether a request can run up to `len` tokens in chunks of `chunk` with the blocks that are free now, leaving `spare` of them.
    pub(crate) fn fits_now(&self, len: usize, chunk: usize, spare: usize) -> bool {
        self.pools.iter().all(|pool| {
            let needed = most_blocks(pool.window, len, chunk, self.block_size);
            pool.free.len() >= (needed + spare).min(pool.num_blocks)
        })
    }

    /// Hands out blocks for the positions before `end`, as far as they go; returns the end of the positions that are covered now.
    pub(crate) fn grow(&mut self, tables: &mut BlockTables, end: usize) -> usize {
        let block_size = self.block_size;
        let mut covered = end;
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            while table.end() < end.div_ceil(block_size) {
                let Some(block) = pool.free.pop() else { break };
                table.blocks.push(block);
                pool.fresh.push(block);
            }
            covered = covered.min(table.end() * block_size);
        }
        covered
    }

    /// Gives back the blocks that the row at position `next` and later ones cannot see.
    pub(crate) fn trim(&mut self, tables: &mut BlockTables, next: usize) {
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            let Some(window) = pool.window else { continue };
            let oldest_block = (next + 1).saturating_sub(window) / self.block_size;
            let behind = oldest_block.saturating_sub(table.first_block).min(table.blocks.len());
            pool.free.extend(table.blocks.drain(..behind));
            table.first_block += behind;
        }
    }

    /// Gives back all blocks of a request, which starts from position 0 if it goes on.
    pub(crate) fn release(&mut self, tables: &mut BlockTables) {
        for (pool, table) in self.pools.iter_mut().zip(&mut tables.groups) {
            pool.free.append(&mut table.blocks);
            table.first_block = 0;
        }
    }

    /// The tables of a batch's requests, in their order; the blocks handed out since the last call are listed to be zeroed.
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
            tables
        };
        self.pools.iter_mut().enumerate().map(fill).collect()
    }

    /// Blocks in use and blocks in all, over all groups.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let all = self.pools.iter().map(|p| p.num_blocks).sum::<usize>();
        (all - self.pools.iter().map(|p| p.free.len()).sum::<usize>(), all)
    }
}

/// The blocks needed and had in a group that can never hold `len` tokens of one request, if there is one.
pub(crate) fn never_fits(info: &ModelInfo, len: usize) -> Option<(usize, usize)> {
    // A token at a time is the least that a step can do.
    let groups = info.kv_groups.iter().map(|(spec, had)| (most_blocks(spec.window, len, 1, info.block_size), *had));
    groups.into_iter().find(|(needed, had)| needed > had)
}

/// Blocks that a request of `len` tokens holds at most in a group, when its steps compute up to `chunk` tokens.
fn most_blocks(window: Option<usize>, len: usize, chunk: usize, block_size: usize) -> usize {
    let whole = len.div_ceil(block_size);
    match window {
        // The first row sees `window - 1` older tokens; both ends of the stretch may lie inside a block.
        Some(window) => {
            whole.min(window.saturating_add(chunk).saturating_add(block_size).saturating_sub(3) / block_size + 1)
        }
        None => whole,
    }
}

impl Table {
    /// The logical block after the last one.
    fn end(&self) -> usize {
        self.first_block + self.blocks.len()
    }
}

#[cfg(test)]
mod tests;
