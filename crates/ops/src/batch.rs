//! One step's input: a ragged batch of prefill chunks and decode rows.

use crate::adapter::AdapterId;
use crate::spec::KvSpec;

/// The rows of one step. Request `r` owns the rows `query_starts[r]..query_starts[r + 1]`; nothing is padded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token of each row, `[T]`.
    pub token_ids: Vec<u32>,
    /// Position of each row in its request, `[T]`; consecutive within a request.
    pub positions: Vec<u32>,
    /// Where each request's rows start, and the end of the last, `[R + 1]`.
    pub query_starts: Vec<u32>,
    /// The length that dynamic-NTK and longrope frequencies follow, fixed when a request is admitted, `[R]`.
    pub rope_lens: Vec<u32>,
    /// The adapter of each request, `[R]`; empty where none has one.
    pub adapters: Vec<Option<AdapterId>>,
    /// Block tables of each KV group.
    pub groups: Vec<GroupTables>,
    /// Rows whose final hidden state is wanted, ascending, `[W]`.
    pub wanted: Vec<u32>,
    /// Which inner tensors are kept for a look from outside.
    pub capture: Capture,
}

/// Which inner tensors a step keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// None.
    #[default]
    Nothing,
    /// The embedding and the output of every layer.
    Layers,
}

/// The block tables of one KV group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupTables {
    /// Where each request's table starts in `blocks`, and the end of the last, `[R + 1]`.
    pub starts: Vec<u32>,
    /// Physical block of each logical one, from the request's first live block on.
    pub blocks: Vec<u32>,
    /// The logical index of each request's first entry, `[R]`: blocks before it are given back.
    pub first_blocks: Vec<u32>,
    /// Blocks handed out since the last step, to be zeroed before it.
    pub zero_blocks: Vec<u32>,
    /// Blocks to copy, as (from, to): after blocks are zeroed and before the step writes anything, one after the other in this order.
    pub copy_blocks: Vec<(u32, u32)>,
}

/// A batch that does not fit the model or the cache.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Two fields disagree about the number of rows, requests or groups.
    #[error("batch field `{field}` has {found} entries, expected {expected}")]
    Length {
        /// The field.
        field: &'static str,
        /// Its length.
        found: usize,
        /// The length that the other fields imply.
        expected: usize,
    },
    /// `query_starts`, `starts` or `wanted` are not ascending or leave the rows.
    #[error("batch field `{field}` is not ascending within 0..={end}")]
    Order {
        /// The field.
        field: &'static str,
        /// The largest allowed value.
        end: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens")]
    Token {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// Positions of one request that do not follow each other, or lie beyond its blocks.
    #[error(
        "request {request} of the batch: position {position} is not covered by its {blocks} blocks of group {group}"
    )]
    Position {
        /// Index of the request.
        request: usize,
        /// The position.
        position: u32,
        /// Index of the KV group.
        group: usize,
        /// Entries of its table.
        blocks: usize,
    },
    /// Positions of one request that do not follow each other.
    #[error("request {request} of the batch: position {found} follows {previous}")]
    Gap {
        /// Index of the request.
        request: usize,
        /// A position.
        previous: u32,
        /// The next one.
        found: u32,
    },
    /// A block that the cache does not have.
    #[error("batch names block {block} of group {group}, the cache has {blocks}")]
    Block {
        /// Index of the KV group.
        group: usize,
        /// The block.
        block: u32,
        /// Blocks of the group.
        blocks: usize,
    },
}

impl Batch {
    /// Tokens of the step.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Requests that have rows in the step.
    pub fn num_requests(&self) -> usize {
        self.query_starts.len().saturating_sub(1)
    }

    /// The rows of request `r`.
    pub fn rows(&self, r: usize) -> std::ops::Range<usize> {
        self.query_starts[r] as usize..self.query_starts[r + 1] as usize
    }

    /// Checks everything that a device relies on: lengths, order, ids within the vocabulary, positions covered by blocks that exist.
    ///
    /// `groups` are the model's KV groups with their number of blocks.
    ///
    /// # Errors
    /// The first [`BatchError`] found.
    pub fn validate(&self, vocab_size: usize, groups: &[(KvSpec, usize)], block_size: usize) -> Result<(), BatchError> {
        let (tokens, requests) = (self.num_tokens(), self.num_requests());
        let length = |field, found, expected| {
            if found == expected { Ok(()) } else { Err(BatchError::Length { field, found, expected }) }
        };
        length("positions", self.positions.len(), tokens)?;
        length("query_starts", self.query_starts.len(), requests + 1)?;
        length("rope_lens", self.rope_lens.len(), requests)?;
        if !self.adapters.is_empty() {
            length("adapters", self.adapters.len(), requests)?;
        }
        length("groups", self.groups.len(), groups.len())?;
        ascending("query_starts", &self.query_starts, 0, tokens)?;
        if self.wanted.windows(2).any(|w| w[0] >= w[1]) || self.wanted.last().is_some_and(|&w| w as usize >= tokens) {
            return Err(BatchError::Order { field: "wanted", end: tokens.saturating_sub(1) });
        }
        if let Some(&id) = self.token_ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(BatchError::Token { id, vocab_size });
        }
        for r in 0..requests {
            let positions = &self.positions[self.rows(r)];
            if let Some(w) = positions.windows(2).find(|w| w[0].checked_add(1) != Some(w[1])) {
                return Err(BatchError::Gap { request: r, previous: w[0], found: w[1] });
            }
        }
        for (g, (tables, &(spec, num_blocks))) in self.groups.iter().zip(groups).enumerate() {
            length("starts", tables.starts.len(), requests + 1)?;
            length("first_blocks", tables.first_blocks.len(), requests)?;
            ascending("starts", &tables.starts, 0, tables.blocks.len())?;
            let copied = tables.copy_blocks.iter().flat_map(|(from, to)| [from, to]);
            let mut named = tables.blocks.iter().chain(&tables.zero_blocks).chain(copied);
            if let Some(&block) = named.find(|&&b| b as usize >= num_blocks) {
                return Err(BatchError::Block { group: g, block, blocks: num_blocks });
            }
            for r in 0..requests {
                let positions = &self.positions[self.rows(r)];
                let (Some(&first), Some(&last)) = (positions.first(), positions.last()) else { continue };
                let blocks = (tables.starts[r + 1] - tables.starts[r]) as usize;
                let first_block = tables.first_blocks[r] as usize;
                // The oldest token that the first row may look at.
                let oldest = spec.window.map_or(0, |w| (first as usize + 1).saturating_sub(w));
                let bad = |position| Err(BatchError::Position { request: r, position, group: g, blocks });
                if oldest / block_size < first_block {
                    return bad(oldest as u32);
                }
                if last as usize / block_size >= first_block + blocks {
                    return bad(last);
                }
            }
        }
        Ok(())
    }
}

/// Checks that `values` ascend from `start` to `end`.
fn ascending(field: &'static str, values: &[u32], start: usize, end: usize) -> Result<(), BatchError> {
    let ends = values.first().is_none_or(|&v| v as usize == start) && values.last().is_none_or(|&v| v as usize == end);
    if ends && values.windows(2).all(|w| w[0] <= w[1]) { Ok(()) } else { Err(BatchError::Order { field, end }) }
}
