//! Work that members take one piece at a time.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Hands out `0..n` in order, each number once, to whoever asks next: for pieces of unequal length, the longest first.
/// Results must not depend on who did which piece.
#[derive(Debug)]
pub struct Chunks {
    next: AtomicUsize,
    n: usize,
}

impl Chunks {
    /// Pieces `0..n`, none of them handed out.
    pub fn new(n: usize) -> Self {
        Self { next: AtomicUsize::new(0), n }
    }

    /// The next piece; `None` when all are handed out.
    #[inline]
    pub fn next(&self) -> Option<usize> {
        // The look before the step keeps late askers from turning the counter over.
        if self.next.load(Ordering::Relaxed) >= self.n {
            return None;
        }
        // Relaxed: the number alone is shared; the job's start and its barriers publish the data.
        let piece = self.next.fetch_add(1, Ordering::Relaxed);
        (piece < self.n).then_some(piece)
    }
}
