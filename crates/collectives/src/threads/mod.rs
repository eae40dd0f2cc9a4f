//! Ranks as threads of one process: blocks of memory under locks that are never contended, and counters that say whose turn
//! it is.
//!
//! In round `n` a rank fills block `n % 2` of its seat, then sets its `posted` to `n`, then waits until everybody's is at least
//! `n`, then reads the others' blocks. One meeting a round is enough: a rank that fills a block in round `n` has met the
//! others in round `n - 1`, which they entered only after they had read the block of round `n - 2`, the same memory.

mod block;
mod mailbox;
mod wait;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard};

pub(crate) use self::block::Block;
use self::mailbox::Mailbox;
use self::wait::{Interrupted, WaitingRoom};
use crate::{CollectiveError, Operation, ProcessGroup};

/// A longer deadline would only overflow the clock.
const LONGEST_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Ranks that are threads of one process.
#[derive(Debug)]
pub struct ThreadGroup;

impl ThreadGroup {
    /// One handle a rank, in rank order. Every operation gives up after `deadline`.
    ///
    /// # Panics
    /// If `size` is 0.
    #[allow(clippy::new_ret_no_self, reason = "a group is its handles: nothing is left that could own it")]
    pub fn new(size: usize, deadline: Duration) -> Vec<ProcessGroup> {
        assert!(size > 0, "a process group has at least one rank");
        let shared = Arc::new(Shared {
            seats: (0..size).map(|_| Seat::default()).collect(),
            mailboxes: (0..size * size).map(|_| Mailbox::default()).collect(),
            room: WaitingRoom::default(),
            deadline: deadline.min(LONGEST_DEADLINE),
        });
        (0..size).map(|rank| ProcessGroup::new(Place { rank, shared: shared.clone(), round: Cell::new(0) })).collect()
    }
}

struct Shared {
    seats: Vec<Seat>,
    /// From rank `i` to rank `j` at `i * size + j`.
    mailboxes: Vec<Mailbox>,
    room: WaitingRoom,
    deadline: Duration,
}

/// What one rank shows to the others. On cache lines of its own, so that polling one rank does not slow another.
#[repr(align(128))]
#[derive(Default)]
struct Seat {
    /// The last round this rank has filled a block for.
    posted: AtomicU64,
    posts: [RwLock<Post>; 2],
}

/// One rank's contribution to one round.
#[derive(Default)]
pub(crate) struct Post {
    /// What the rank believes that all are doing; `None` before the first round.
    operation: Option<Operation>,
    /// The length that has to agree between ranks, which is not always the block's.
    agreed_bytes: usize,
    pub(crate) block: Block,
}

/// One rank's place in a group of threads. Leaving it ends the group.
pub(crate) struct Place {
    rank: usize,
    shared: Arc<Shared>,
    /// Rounds begun. A `Cell`, so that two threads cannot speak for one rank.
    round: Cell<u64>,
}

/// A round in which everybody has arrived, and agrees on what it is.
pub(crate) struct Round<'a> {
    place: &'a Place,
    number: u64,
}

impl Round<'_> {
    /// What `rank` brought.
    pub(crate) fn post(&self, rank: usize) -> RwLockReadGuard<'_, Post> {
        self.place.shared.seats[rank].post(self.number).read()
    }
}

impl Seat {
    fn post(&self, round: u64) -> &RwLock<Post> {
        &self.posts[(round % 2) as usize]
    }
}

impl Place {
    pub(crate) fn rank(&self) -> usize {
        self.rank
    }

    pub(crate) fn size(&self) -> usize {
        self.shared.seats.len()
    }

    /// Shows `bytes` to the others and waits until they have done the same. `agreed_bytes` must be equal on all ranks.
    pub(crate) fn meet(
        &self,
        operation: Operation,
        agreed_bytes: usize,
        bytes: &[u8],
    ) -> Result<Round<'_>, CollectiveError> {
        let Shared { seats, room, deadline, .. } = &*self.shared;
        if let Some(ending) = room.ending() {
            return Err(self.interrupted(operation, Interrupted::Ended(ending), Vec::new()));
        }
        let number = self.round.get() + 1;
        self.round.set(number);
        {
            let mut post = seats[self.rank].post(number).write();
            post.operation = Some(operation);
            post.agreed_bytes = agreed_bytes;
            post.block.fill(bytes);
        }
        seats[self.rank].posted.store(number, Ordering::Release);
        room.announce();
        let arrived = |seat: &Seat| seat.posted.load(Ordering::Acquire) >= number;
        if let Err(why) = room.wait(*deadline, || seats.iter().all(arrived)) {
            let missing = (0..seats.len()).filter(|&rank| !arrived(&seats[rank])).collect();
            return Err(self.interrupted(operation, why, missing));
        }
        let round = Round { place: self, number };
        let agrees = |rank| {
            let post = round.post(rank);
            post.operation == Some(operation) && post.agreed_bytes == agreed_bytes
        };
        if (0..seats.len()).all(agrees) { Ok(round) } else { Err(self.fail(round.disagreement(operation))) }
    }

    /// Leaves `bytes` for rank `to`; waits only while two earlier messages lie there.
    pub(crate) fn send(&self, to: usize, bytes: &[u8]) -> Result<(), CollectiveError> {
        let (operation, room) = (Operation::Send { to }, &self.shared.room);
        if let Some(ending) = room.ending() {
            return Err(self.interrupted(operation, Interrupted::Ended(ending), Vec::new()));
        }
        let mailbox = self.mailbox(self.rank, to);
        room.wait(self.shared.deadline, || mailbox.has_room())
            .map_err(|why| self.interrupted(operation, why, vec![to]))?;
        mailbox.push(bytes);
        room.announce();
        Ok(())
    }

    /// Takes the oldest message of rank `from`, also when that rank has ended since.
    pub(crate) fn recv(&self, from: usize, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let (operation, room) = (Operation::Recv { from }, &self.shared.room);
        let mailbox = self.mailbox(from, self.rank);
        room.wait(self.shared.deadline, || mailbox.has_message())
            .map_err(|why| self.interrupted(operation, why, vec![from]))?;
        let len_bytes = bytes.len();
        mailbox.take(bytes).map_err(|sent_bytes| {
            let lengths_bytes = vec![(from, sent_bytes), (self.rank, len_bytes)];
            self.fail(CollectiveError::LengthMismatch { operation, lengths_bytes })
        })?;
        room.announce();
        Ok(())
    }

    /// Ends the group for everybody.
    pub(crate) fn end(&self, reason: impl Into<String>) {
        self.shared.room.end(self.rank, reason);
    }

    /// Ends the group because of `error`, which is handed back.
    pub(crate) fn fail(&self, error: CollectiveError) -> CollectiveError {
        self.end(error.to_string());
        error
    }

    fn mailbox(&self, from: usize, to: usize) -> &Mailbox {
        &self.shared.mailboxes[from * self.size() + to]
    }

    fn interrupted(&self, operation: Operation, why: Interrupted, missing: Vec<usize>) -> CollectiveError {
        let rank = self.rank;
        match why {
            Interrupted::Ended(ending) => {
                CollectiveError::Aborted { operation, rank, by: ending.by, reason: ending.reason }
            }
            Interrupted::TimedOut => {
                let waited = self.shared.deadline;
                self.fail(CollectiveError::TimedOut { operation, rank, waited, missing })
            }
        }
    }
}

impl Round<'_> {
    /// What the ranks do not agree about.
    #[cold]
    fn disagreement(&self, operation: Operation) -> CollectiveError {
        let ranks = 0..self.place.size();
        let operations: Vec<_> = ranks.clone().filter_map(|rank| Some((rank, self.post(rank).operation?))).collect();
        if operations.iter().any(|&(_, other)| other != operation) {
            return CollectiveError::OperationMismatch { operations };
        }
        let lengths_bytes = ranks.map(|rank| (rank, self.post(rank).agreed_bytes)).collect();
        CollectiveError::LengthMismatch { operation, lengths_bytes }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() { "its thread panicked" } else { "it dropped its handle" });
    }
}
