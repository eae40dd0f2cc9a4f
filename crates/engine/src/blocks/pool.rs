//! The blocks of one KV group: who holds them, which of them the prefix cache knows, which are free.

use std::collections::HashMap;

/// Ends the list of free blocks.
const NONE: u32 = u32::MAX;

/// What a block of the prefix cache holds: the tokens behind the prefix `parent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content<'t> {
    /// Names this block and, by way of `parent`, all tokens before it.
    pub(super) key: u128,
    /// The key of the block before.
    pub(super) parent: u128,
    /// The block's tokens.
    pub(super) tokens: &'t [u32],
}

/// All blocks of a group. A free block may still hold what the prefix cache knows; it is forgotten when it is handed out.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) window: Option<usize>,
    blocks: Vec<Block>,
    /// Ends of the list of free blocks, the one to be handed out next first: those that hold nothing, the one given back last in front,
    /// while the machine's caches still have it; then those that the prefix cache knows, the least recently used in front.
    first_free: u32,
    last_free: u32,
    num_free: usize,
    known: HashMap<u128, u32>,
    /// Handed out since the last batch: they hold other values until the device has zeroed them.
    pub(super) fresh: Vec<u32>,
    /// Copies that the next batch asks for. Their sources are held until then.
    pub(super) copies: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Block {
    /// Tables that have it.
    refs: u32,
    known_as: Option<Known>,
    /// Neighbours in the list of free blocks.
    before: u32,
    after: u32,
}

#[derive(Debug)]
struct Known {
    key: u128,
    parent: u128,
    tokens: Box<[u32]>,
}

impl Pool {
    pub(super) fn new(window: Option<usize>, num_blocks: usize) -> Self {
        let mut pool = Pool {
            window,
            blocks: Vec::with_capacity(num_blocks),
            first_free: NONE,
            last_free: NONE,
            num_free: 0,
            known: HashMap::new(),
            fresh: Vec::new(),
            copies: Vec::new(),
        };
        for id in 0..num_blocks as u32 {
            pool.blocks.push(Block { refs: 0, known_as: None, before: NONE, after: NONE });
            pool.put_last(id);
        }
        pool
    }

    pub(super) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn num_free(&self) -> usize {
        self.num_free
    }

    /// Hands out a block that holds nothing of anybody's.
    pub(super) fn take(&mut self) -> Option<u32> {
        let id = self.take_to_overwrite()?;
        self.fresh.push(id);
        Some(id)
    }

    /// Hands out a block that a copy will fill.
    fn take_to_overwrite(&mut self) -> Option<u32> {
        let id = Some(self.first_free).filter(|&id| id != NONE)?;
        self.unlink(id);
        self.forget(id);
        self.blocks[id as usize].refs = 1;
        // A copy whose taker gave it back before the batch was made is no longer wanted.
        if let Some(at) = self.copies.iter().position(|&(_, to)| to == id) {
            let (source, _) = self.copies.remove(at);
            self.give_back(source);
        }
        Some(id)
    }

    /// Hands out a copy of `source`, which the next batch asks the device to make.
    pub(super) fn take_copy(&mut self, source: u32) -> Option<u32> {
        let id = self.take_to_overwrite()?;
        self.hold(source);
        self.copies.push((source, id));
        Some(id)
    }

    /// One more table has the block, free until now or not.
    pub(super) fn hold(&mut self, id: u32) {
        if self.blocks[id as usize].refs == 0 {
            self.unlink(id);
        }
        self.blocks[id as usize].refs += 1;
    }

    /// One table less has the block. Without any it is free, and the prefix cache knows it for a while longer.
    pub(super) fn give_back(&mut self, id: u32) {
        let block = &mut self.blocks[id as usize];
        block.refs -= 1;
        match (block.refs, &block.known_as) {
            (0, None) => self.put_first(id),
            (0, Some(_)) => self.put_last(id),
            _ => {}
        }
    }

    /// The block that holds `content`. Its tokens are compared: two contents with one key cost time, never correctness.
    pub(super) fn find(&self, content: &Content<'_>) -> Option<u32> {
        let id = *self.known.get(&content.key)?;
        let known = self.blocks[id as usize].known_as.as_ref()?;
        (known.parent == content.parent && *known.tokens == *content.tokens).then_some(id)
    }

    /// Tells the prefix cache what a block that somebody holds contains, unless another block holds the same.
    pub(super) fn publish(&mut self, id: u32, content: &Content<'_>) {
        let block = &mut self.blocks[id as usize];
        if block.known_as.is_none() && !self.known.contains_key(&content.key) {
            let Content { key, parent, tokens } = *content;
            block.known_as = Some(Known { key, parent, tokens: tokens.into() });
            self.known.insert(key, id);
        }
    }

    /// Takes a block's content out of the prefix cache.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some(known) = self.blocks[id as usize].known_as.take() {
            self.known.remove(&known.key);
        }
    }

    /// Blocks that the prefix cache knows.
    #[cfg(test)]
    pub(super) fn num_known(&self) -> usize {
        self.known.len()
    }

    /// How many tables have the block.
    #[cfg(test)]
    pub(super) fn refs(&self, id: u32) -> u32 {
        self.blocks[id as usize].refs
    }

    /// The free blocks, the one to be handed out next first.
    #[cfg(test)]
    pub(super) fn free(&self) -> Vec<u32> {
        let next = |&id: &u32| Some(self.blocks[id as usize].after).filter(|&id| id != NONE);
        std::iter::successors(Some(self.first_free).filter(|&id| id != NONE), next).collect()
    }

    fn put_first(&mut self, id: u32) {
        let after = std::mem::replace(&mut self.first_free, id);
        self.link(id, NONE, after);
    }

    fn put_last(&mut self, id: u32) {
        let before = std::mem::replace(&mut self.last_free, id);
        self.link(id, before, NONE);
    }

    /// Puts a block between two neighbours; an end that has none is the list's end.
    fn link(&mut self, id: u32, before: u32, after: u32) {
        (self.blocks[id as usize].before, self.blocks[id as usize].after) = (before, after);
        match before {
            NONE => self.first_free = id,
            _ => self.blocks[before as usize].after = id,
        }
        match after {
            NONE => self.last_free = id,
            _ => self.blocks[after as usize].before = id,
        }
        self.num_free += 1;
    }

    fn unlink(&mut self, id: u32) {
        let Block { before, after, .. } = self.blocks[id as usize];
        match before {
            NONE => self.first_free = after,
            _ => self.blocks[before as usize].after = after,
        }
        match after {
            NONE => self.last_free = before,
            _ => self.blocks[after as usize].before = before,
        }
        self.num_free -= 1;
    }
}
