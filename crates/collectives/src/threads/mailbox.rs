//! A queue of two messages from one rank to one other.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::block::Block;

/// Two, so that a sender may run one message ahead of its receiver.
const DEPTH: u64 = 2;

/// Only the sending rank calls `push`, only the receiving rank `take`; the counters say whose turn a block is, so its lock is
/// never waited for.
#[derive(Default)]
pub(super) struct Mailbox {
    blocks: [Mutex<Block>; DEPTH as usize],
    sent: AtomicU64,
    taken: AtomicU64,
}

impl Mailbox {
    pub(super) fn has_room(&self) -> bool {
        self.sent.load(Ordering::Relaxed) - self.taken.load(Ordering::Acquire) < DEPTH
    }

    pub(super) fn has_message(&self) -> bool {
        self.sent.load(Ordering::Acquire) > self.taken.load(Ordering::Relaxed)
    }

    /// Puts a message in; the caller has seen [`Self::has_room`].
    pub(super) fn push(&self, bytes: &[u8]) {
        let sent = self.sent.load(Ordering::Relaxed);
        self.blocks[(sent % DEPTH) as usize].lock().fill(bytes);
        self.sent.store(sent + 1, Ordering::Release);
    }

    /// Takes the oldest message out; the caller has seen [`Self::has_message`]. The length of a message that does not fit
    /// `bytes` is the error.
    pub(super) fn take(&self, bytes: &mut [u8]) -> Result<(), usize> {
        let taken = self.taken.load(Ordering::Relaxed);
        {
            let block = self.blocks[(taken % DEPTH) as usize].lock();
            if block.bytes().len() != bytes.len() {
                return Err(block.bytes().len());
            }
            bytes.copy_from_slice(block.bytes());
        }
        self.taken.store(taken + 1, Ordering::Release);
        Ok(())
    }
}
