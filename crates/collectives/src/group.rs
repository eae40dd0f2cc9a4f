//! The operations: how buffers are cut between ranks, and the order of every sum.

use std::fmt;
use std::ops::Range;

use bytemuck::{Pod, cast_slice, cast_slice_mut};

use crate::threads::{Place, Round};
use crate::{CollectiveError, Operation};

/// Up to this many bytes over all ranks, every rank sums everything itself: less work than a second meeting.
const SUM_ALONE_BYTES: usize = 32 << 10;

/// Rank `rank`'s share of `len` values in a group of `size`: contiguous, in rank order, the first `len % size` shares one
/// value longer than the others.
pub fn share_of(len: usize, rank: usize, size: usize) -> Range<usize> {
    let (each, longer) = (len / size, len % size);
    let start = |rank: usize| rank * each + rank.min(longer);
    start(rank)..start(rank + 1)
}

/// One rank's handle on its group. All ranks call the same operations in the same order.
///
/// After an error the group is over: every later call on every rank fails. Dropping a handle, also by a panic of its thread,
/// ends the group for the others; ranks whose last words are messages meet at a [`Self::barrier`] before they leave. The
/// handle may move between threads but not be shared by them.
pub struct ProcessGroup {
    place: Place,
}

impl ProcessGroup {
    pub(crate) fn new(place: Place) -> Self {
        Self { place }
    }

    /// This handle's rank, below [`Self::size`].
    pub fn rank(&self) -> usize {
        self.place.rank()
    }

    /// How many ranks the group has.
    pub fn size(&self) -> usize {
        self.place.size()
    }

    /// This rank's share of `len` values, see [`share_of`].
    pub fn share(&self, len: usize) -> Range<usize> {
        share_of(len, self.rank(), self.size())
    }

    /// Replaces `values` by the sum over ranks, element by element, added in rank order.
    ///
    /// # Errors
    /// When the ranks' lengths differ, and see [`CollectiveError`].
    pub fn all_reduce_sum(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let (operation, size, whole_bytes) = (Operation::AllReduceSum, self.size(), size_of_val(values));
        let all = self.place.meet(operation, whole_bytes, cast_slice(values))?;
        // With two ranks the second meeting would save half an addition and cost half a copy.
        if size <= 2 || whole_bytes.saturating_mul(size) <= SUM_ALONE_BYTES {
            sum_in_rank_order(&all, size, 0..values.len(), values);
            return Ok(());
        }
        let own = self.share(values.len());
        sum_in_rank_order(&all, size, own.clone(), &mut values[own.clone()]);
        let sums = self.place.meet(operation, whole_bytes, cast_slice(&values[own]))?;
        for rank in (0..size).filter(|&rank| rank != self.rank()) {
            let share = share_of(values.len(), rank, size);
            values[share].copy_from_slice(sums.post(rank).block.floats());
        }
        Ok(())
    }

    /// Adds the `values` of all ranks in rank order and gives this rank its share of the sums.
    ///
    /// # Errors
    /// When `part` is not as long as [`Self::share`] of `values`, the ranks' lengths differ, and see [`CollectiveError`].
    pub fn reduce_scatter_sum(&self, values: &[f32], part: &mut [f32]) -> Result<(), CollectiveError> {
        let (operation, own) = (Operation::ReduceScatterSum, self.share(values.len()));
        self.expect_part(operation, part.len(), own.len())?;
        let all = self.place.meet(operation, size_of_val(values), cast_slice(values))?;
        sum_in_rank_order(&all, self.size(), own, part);
        Ok(())
    }

    /// Puts the ranks' parts one after the other, in rank order, into everybody's `whole`.
    ///
    /// # Errors
    /// When `part` is not as long as [`Self::share`] of `whole`, the ranks' lengths differ, and see [`CollectiveError`].
    pub fn all_gather<T: Pod>(&self, part: &[T], whole: &mut [T]) -> Result<(), CollectiveError> {
        let (operation, len) = (Operation::AllGather, whole.len());
        self.expect_part(operation, part.len(), self.share(len).len())?;
        let parts = self.place.meet(operation, size_of_val(whole), cast_slice(part))?;
        for rank in 0..self.size() {
            let share = &mut whole[share_of(len, rank, self.size())];
            cast_slice_mut(share).copy_from_slice(parts.post(rank).block.bytes());
        }
        Ok(())
    }

    /// Sends to each rank its share of `outgoing`; `incoming` gets what the ranks sent here, in rank order.
    ///
    /// # Errors
    /// When `incoming` is not [`Self::size`] times as long as [`Self::share`] of `outgoing`, the ranks' lengths differ, and
    /// see [`CollectiveError`].
    pub fn all_to_all<T: Pod>(&self, outgoing: &[T], incoming: &mut [T]) -> Result<(), CollectiveError> {
        let (operation, own) = (Operation::AllToAll, self.share(outgoing.len()));
        self.expect_part(operation, incoming.len(), own.len() * self.size())?;
        let all = self.place.meet(operation, size_of_val(outgoing), cast_slice(outgoing))?;
        let own_bytes = own.start * size_of::<T>()..own.end * size_of::<T>();
        for rank in 0..self.size() {
            let piece = &mut incoming[rank * own.len()..(rank + 1) * own.len()];
            cast_slice_mut(piece).copy_from_slice(&all.post(rank).block.bytes()[own_bytes.clone()]);
        }
        Ok(())
    }

    /// Replaces everybody's `values` by those of rank `root`.
    ///
    /// # Errors
    /// When there is no such rank, the ranks' lengths or roots differ, and see [`CollectiveError`].
    pub fn broadcast<T: Pod>(&self, values: &mut [T], root: usize) -> Result<(), CollectiveError> {
        let operation = Operation::Broadcast { root };
        self.expect_rank(operation, root)?;
        let is_root = self.rank() == root;
        let shown: &[u8] = if is_root { cast_slice(values) } else { &[] };
        let all = self.place.meet(operation, size_of_val(values), shown)?;
        if !is_root {
            cast_slice_mut(values).copy_from_slice(all.post(root).block.bytes());
        }
        Ok(())
    }

    /// Leaves `values` for rank `to`, in the order of the calls. Waits only while two earlier messages have not been taken.
    ///
    /// # Errors
    /// When there is no such rank, and see [`CollectiveError`].
    pub fn send<T: Pod>(&self, values: &[T], to: usize) -> Result<(), CollectiveError> {
        self.expect_rank(Operation::Send { to }, to)?;
        self.place.send(to, cast_slice(values))
    }

    /// Takes the next message of rank `from`; one that was sent before the group ended is still delivered.
    ///
    /// # Errors
    /// When there is no such rank, the message is not as long as `values`, and see [`CollectiveError`].
    pub fn recv<T: Pod>(&self, values: &mut [T], from: usize) -> Result<(), CollectiveError> {
        self.expect_rank(Operation::Recv { from }, from)?;
        self.place.recv(from, cast_slice_mut(values))
    }

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    pub fn barrier(&self) -> Result<(), CollectiveError> {
        self.place.meet(Operation::Barrier, 0, &[]).map(|_| ())
    }

    /// Ends the group: everybody's current and later operations fail with this rank's number and `reason`.
    pub fn abort(&self, reason: impl Into<String>) {
        self.place.end(reason);
    }

    fn expect_part(&self, operation: Operation, found: usize, expected: usize) -> Result<(), CollectiveError> {
        if found == expected {
            return Ok(());
        }
        Err(self.place.fail(CollectiveError::PartLength { operation, rank: self.rank(), found, expected }))
    }

    fn expect_rank(&self, operation: Operation, named: usize) -> Result<(), CollectiveError> {
        let size = self.size();
        if named < size {
            return Ok(());
        }
        Err(self.place.fail(CollectiveError::NoSuchRank { operation, rank: self.rank(), size }))
    }
}

impl fmt::Debug for ProcessGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessGroup").field("rank", &self.rank()).field("size", &self.size()).finish_non_exhaustive()
    }
}

/// `sums[i] = ((r0 + r1) + r2) + …` with `r` the ranks' values at `range`. It starts from rank 0's value and not from 0,
/// which would turn a sum of -0 into +0.
fn sum_in_rank_order(all: &Round<'_>, size: usize, range: Range<usize>, sums: &mut [f32]) {
    sums.copy_from_slice(&all.post(0).block.floats()[range.clone()]);
    for rank in 1..size {
        let post = all.post(rank);
        for (sum, value) in sums.iter_mut().zip(&post.block.floats()[range.clone()]) {
            *sum += value;
        }
    }
}
