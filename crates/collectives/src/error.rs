//! What can go wrong between ranks, and whose fault it was.

use std::fmt;
use std::time::Duration;

/// An operation between ranks, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`ProcessGroup::all_reduce_sum`](crate::ProcessGroup::all_reduce_sum)
    AllReduceSum,
    /// [`ProcessGroup::all_gather`](crate::ProcessGroup::all_gather)
    AllGather,
    /// [`ProcessGroup::reduce_scatter_sum`](crate::ProcessGroup::reduce_scatter_sum)
    ReduceScatterSum,
    /// [`ProcessGroup::all_to_all`](crate::ProcessGroup::all_to_all)
    AllToAll,
    /// [`ProcessGroup::broadcast`](crate::ProcessGroup::broadcast)
    Broadcast {
        /// The rank whose values everybody gets.
        root: usize,
    },
    /// [`ProcessGroup::send`](crate::ProcessGroup::send)
    Send {
        /// The receiver.
        to: usize,
    },
    /// [`ProcessGroup::recv`](crate::ProcessGroup::recv)
    Recv {
        /// The sender.
        from: usize,
    },
    /// [`ProcessGroup::barrier`](crate::ProcessGroup::barrier)
    Barrier,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduceSum => f.write_str("`all_reduce_sum`"),
            Self::AllGather => f.write_str("`all_gather`"),
            Self::ReduceScatterSum => f.write_str("`reduce_scatter_sum`"),
            Self::AllToAll => f.write_str("`all_to_all`"),
            Self::Broadcast { root } => write!(f, "`broadcast` from rank {root}"),
            Self::Send { to } => write!(f, "`send` to rank {to}"),
            Self::Recv { from } => write!(f, "`recv` from rank {from}"),
            Self::Barrier => f.write_str("`barrier`"),
        }
    }
}

/// Why an operation between ranks failed. After any of these the group is over: every rank's next operation fails too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Some ranks did not come in time.
    #[error(
        "rank {rank}: {operation} gave up after {waited:?}: {} did not arrive; find out what held it up, or allow more time",
        Ranks(missing)
    )]
    TimedOut {
        /// What was tried.
        operation: Operation,
        /// The rank that waited.
        rank: usize,
        /// How long it waited: the group's deadline.
        waited: Duration,
        /// The ranks it waited for.
        missing: Vec<usize>,
    },
    /// A rank ended, panicked, called `abort`, or failed.
    #[error("rank {rank}: {operation} cannot complete, rank {by} ended the group: {reason}")]
    Aborted {
        /// What was tried.
        operation: Operation,
        /// The rank that tried.
        rank: usize,
        /// The rank that ended the group.
        by: usize,
        /// Its reason.
        reason: String,
    },
    /// The ranks brought buffers of different lengths.
    #[error("{operation} needs the same length on every rank, found {}", Listed(lengths_bytes, " bytes"))]
    LengthMismatch {
        /// What was tried.
        operation: Operation,
        /// Each rank with its length in bytes.
        lengths_bytes: Vec<(usize, usize)>,
    },
    /// The ranks called different operations.
    #[error("the ranks of a group must call the same operations in the same order, found {}", Listed(operations, ""))]
    OperationMismatch {
        /// Each rank with what it called.
        operations: Vec<(usize, Operation)>,
    },
    /// A rank's part does not fit the whole that it gave with it.
    #[error("rank {rank}: {operation} got a part of {found} values, its share of the whole is {expected}")]
    PartLength {
        /// What was tried.
        operation: Operation,
        /// The rank that tried.
        rank: usize,
        /// The part's length.
        found: usize,
        /// What follows from the whole's length.
        expected: usize,
    },
    /// An operation named a rank that the group does not have.
    #[error("rank {rank}: {operation} names a rank outside the group, which has ranks 0 to {}", size - 1)]
    NoSuchRank {
        /// What was tried, with the rank named.
        operation: Operation,
        /// The rank that tried.
        rank: usize,
        /// The group's size.
        size: usize,
    },
}

/// `rank 1`, or `ranks 1, 3`.
struct Ranks<'a>(&'a [usize]);

impl fmt::Display for Ranks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "rank" } else { "ranks" })?;
        for (i, rank) in self.0.iter().enumerate() {
            write!(f, "{} {rank}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// `rank 0: 16 bytes, rank 1: 12 bytes`.
struct Listed<'a, T>(&'a [(usize, T)], &'static str);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (rank, value)) in self.0.iter().enumerate() {
            write!(f, "{}rank {rank}: {value}{}", if i == 0 { "" } else { ", " }, self.1)?;
        }
        Ok(())
    }
}
