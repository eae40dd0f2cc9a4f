//! One buffer that several members write at once, each its own part.
#![allow(unsafe_code, reason = "which member owns which range is known to the kernel and not to the borrow checker")]

use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

/// A borrowed slice that the members of a team share while a job runs. Bounds are checked, overlap is not.
///
/// The duties of whoever takes slices out of it, between two meetings of the members (job start, barriers, job end):
///
/// 1. an element that one member takes with [`Self::slice`] is not taken by another, by either method;
/// 2. a member's own slices do not overlap while they are in use, unless all of them are from [`Self::read`];
/// 3. no slice is used beyond the next barrier, except those of elements that nobody writes after it.
///
/// A cut by [`Member::share`](super::Member::share), or numbers from [`Chunks`](super::Chunks), fulfil the first.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, which may go to another thread where `T` may.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: through a shared one, members get `&mut T` (hence `Send`) and `&T` of the same element at different times or `&T`
// at the same time (hence `Sync`); that they do not overlap is the duty of the callers of `slice` and `read`.
unsafe impl<T: Send + Sync> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Borrows `all` for as long as members use it.
    pub(crate) fn new(all: &'a mut [T]) -> Self {
        Self { start: all.as_mut_ptr(), len: all.len(), borrow: PhantomData }
    }

    /// The elements at `range`, to write.
    ///
    /// # Panics
    /// If `range` is not within the buffer.
    ///
    /// # Safety
    /// The duties of [`Disjoint`].
    #[allow(clippy::mut_from_ref, reason = "members share `self`; that their ranges differ is the caller's duty")]
    #[inline]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        self.check(&range);
        // SAFETY: within the borrowed slice by the check; nobody else uses these elements, by the caller's duties.
        unsafe { slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The elements at `range`, to read, also by several members.
    ///
    /// # Panics
    /// If `range` is not within the buffer.
    ///
    /// # Safety
    /// The duties of [`Disjoint`].
    #[inline]
    pub(crate) unsafe fn read(&self, range: Range<usize>) -> &[T] {
        self.check(&range);
        // SAFETY: within the borrowed slice by the check; nobody writes these elements, by the caller's duties.
        unsafe { slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    #[inline]
    fn check(&self, range: &Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is outside a buffer of {}", self.len);
    }
}
