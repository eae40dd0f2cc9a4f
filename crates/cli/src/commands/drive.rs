//! Batches made by hand, for commands that drive the executor without the engine's scheduler.

use nxd_executor::ModelInfo;
use nxd_ops::{Batch, GroupTables};

/// Neighbouring tokens of one sequence that run in a step.
#[derive(Clone, Debug)]
pub(crate) struct Chunk<'a> {
    /// Index of the sequence.
    pub(crate) sequence: usize,
    /// Position of its first token.
    pub(crate) start: usize,
    pub(crate) tokens: &'a [u32],
    /// How many of the last tokens want an output.
    pub(crate) wanted: usize,
    /// Length that length-dependent rotations follow.
    pub(crate) rope_len: usize,
}

/// A step of `chunks`, each sequence owning `blocks_each` neighbouring blocks of every KV group.
pub(crate) fn batch(info: &ModelInfo, blocks_each: usize, chunks: &[Chunk<'_>]) -> Batch {
    let mut batch = Batch { query_starts: vec![0], ..Batch::default() };
    let mut tables = GroupTables { starts: vec![0], ..GroupTables::default() };
    for chunk in chunks {
        let end = chunk.start + chunk.tokens.len();
        batch.token_ids.extend(chunk.tokens);
        batch.positions.extend(chunk.start as u32..end as u32);
        let rows = batch.token_ids.len() as u32;
        batch.wanted.extend(rows - chunk.wanted as u32..rows);
        batch.query_starts.push(rows);
        batch.rope_lens.push(chunk.rope_len as u32);
        let block = |index: usize| (chunk.sequence * blocks_each + index) as u32;
        let (had, has) = (chunk.start.div_ceil(info.block_size), end.div_ceil(info.block_size));
        tables.blocks.extend((0..has).map(block));
        tables.zero_blocks.extend((had..has).map(block));
        tables.starts.push(tables.blocks.len() as u32);
        tables.first_blocks.push(0);
    }
    batch.groups = vec![tables; info.kv_groups.len()];
    batch
}
