//! Buckets: the static shapes that a batch's requests are padded to.

use std::fmt;

/// The shape of a forward program: requests side by side, each with as many rows and blocks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForwardBucket {
    /// Requests, `R`.
    pub requests: usize,
    /// New tokens a request, `Q`; the program has `R * Q` rows.
    pub tokens: usize,
    /// Entries of a request's block table, for each KV group.
    pub blocks: Vec<usize>,
    /// Rows whose final hidden state is a result, `W`.
    pub wanted: usize,
    /// Whether inner tensors are results too.
    pub capture: bool,
}

impl ForwardBucket {
    /// Rows of the program.
    pub fn rows(&self) -> usize {
        self.requests * self.tokens
    }
}

impl fmt::Display for ForwardBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forward_r{}_q{}_w{}", self.requests, self.tokens, self.wanted)?;
        for blocks in &self.blocks {
            write!(f, "_b{blocks}")?;
        }
        if self.capture { f.write_str("_capture") } else { Ok(()) }
    }
}

/// The shape of a program that copies blocks within the caches of a KV group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CopyBucket {
    /// The KV group.
    pub group: usize,
    /// Blocks that are copied in every layer.
    pub blocks: usize,
}

impl fmt::Display for CopyBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "copy_g{}_b{}", self.group, self.blocks)
    }
}

/// The smallest power of two that holds `len`, and `least`: few sizes, none more than twice what it must be.
pub fn round_up(len: usize, least: usize) -> usize {
    len.max(least).max(1).next_power_of_two()
}
