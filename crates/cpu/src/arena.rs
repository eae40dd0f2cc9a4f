//! Where a step's tensors live: slots that are reused, so that a warm step allocates nothing.
//!
//! A device owns the slots between steps. An open step borrows them behind an [`Arena`]; its tensors count their references there, and a
//! dropped tensor's slot is free at once for the next op.

use crate::floats::Floats;
use std::cell::{Ref, RefCell};
use std::rc::Rc;

/// One tensor's memory.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    data: Floats,
    references: usize,
}

/// The slots of an open step.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    slots: RefCell<Vec<Slot>>,
}

/// A row-major f32 tensor `[rows, cols]` of an open step.
#[derive(Debug)]
pub struct Tensor {
    arena: Rc<Arena>,
    slot: usize,
    rows: usize,
    cols: usize,
}

/// Memory taken out of the arena for an op to write; [`Buffer::finish`] makes it a tensor.
pub(crate) struct Buffer {
    arena: Rc<Arena>,
    slot: usize,
    rows: usize,
    cols: usize,
    data: Floats,
}

impl Arena {
    /// An arena over the slots of earlier steps.
    pub(crate) fn new(slots: Vec<Slot>) -> Rc<Self> {
        Rc::new(Arena { slots: RefCell::new(slots) })
    }

    /// The slots, for the next step.
    pub(crate) fn into_slots(self: Rc<Self>) -> Vec<Slot> {
        self.slots.take()
    }

    /// Memory for `[rows, cols]` whose values an op is to write; what it holds before is arbitrary but initialised.
    pub(crate) fn take(self: &Rc<Self>, rows: usize, cols: usize) -> Buffer {
        let len = rows * cols;
        let mut slots = self.slots.borrow_mut();
        let free = slots.iter().map(|slot| (slot.references == 0).then_some(slot.data.len()));
        let slot = match fitting(free, len) {
            Some(slot) => slot,
            None => {
                slots.push(Slot::default());
                slots.len() - 1
            }
        };
        slots[slot].references = 1;
        let mut data = std::mem::take(&mut slots[slot].data);
        data.grown(len);
        Buffer { arena: Rc::clone(self), slot, rows, cols, data }
    }
}

/// Which of the slots is taken for `len` values; `slots` gives the size of each that is free. The smallest that is large enough, else the
/// largest, which then grows.
pub(crate) fn fitting(slots: impl Iterator<Item = Option<usize>>, len: usize) -> Option<usize> {
    let free = slots.enumerate().filter_map(|(slot, size)| Some((slot, size?)));
    let best = free.min_by_key(|&(_, size)| if size >= len { (false, size) } else { (true, usize::MAX - size) });
    best.map(|(slot, _)| slot)
}

impl Buffer {
    /// The values to write, `[rows, cols]`.
    pub(crate) fn values(&mut self) -> &mut [f32] {
        self.data.first_mut(self.rows * self.cols)
    }

    /// The written tensor.
    pub(crate) fn finish(self) -> Tensor {
        let Buffer { arena, slot, rows, cols, data } = self;
        arena.slots.borrow_mut()[slot].data = data;
        Tensor { arena, slot, rows, cols }
    }
}

impl Tensor {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values, `[rows, cols]`.
    pub fn values(&self) -> Ref<'_, [f32]> {
        Ref::map(self.arena.slots.borrow(), |slots| slots[self.slot].data.first(self.rows * self.cols))
    }

    /// The same values for writing: in place when nobody else holds the tensor, else in a copy.
    pub(crate) fn into_buffer(self) -> Buffer {
        let (rows, cols, slot) = (self.rows, self.cols, self.slot);
        if self.arena.slots.borrow()[slot].references > 1 {
            let mut copy = self.arena.take(rows, cols);
            copy.values().copy_from_slice(&self.values());
            return copy;
        }
        let mut slots = self.arena.slots.borrow_mut();
        let data = std::mem::take(&mut slots[slot].data);
        // The tensor's own reference goes when it is dropped; this one is the buffer's.
        slots[slot].references += 1;
        drop(slots);
        Buffer { arena: Rc::clone(&self.arena), slot, rows, cols, data }
    }
}

impl Clone for Tensor {
    fn clone(&self) -> Self {
        self.arena.slots.borrow_mut()[self.slot].references += 1;
        Tensor { arena: Rc::clone(&self.arena), slot: self.slot, rows: self.rows, cols: self.cols }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // A tensor that outlives its step finds the slots gone.
        if let Some(slot) = self.arena.slots.borrow_mut().get_mut(self.slot) {
            slot.references -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(arena: &Rc<Arena>, values: &[f32]) -> Tensor {
        let mut buffer = arena.take(1, values.len());
        buffer.values().copy_from_slice(values);
        buffer.finish()
    }

    #[test]
    fn a_dropped_tensor_frees_its_slot() {
        let arena = Arena::new(Vec::new());
        let first = tensor(&arena, &[1.0, 2.0]);
        drop(first);
        let second = tensor(&arena, &[3.0]);
        assert_eq!(arena.slots.borrow().len(), 1);
        assert_eq!(*second.values(), [3.0]);
    }

    #[test]
    fn a_shared_tensor_is_copied_before_it_is_written() {
        let arena = Arena::new(Vec::new());
        let first = tensor(&arena, &[1.0, 2.0]);
        let second = first.clone();
        let mut buffer = first.into_buffer();
        buffer.values()[0] = 9.0;
        assert_eq!(*buffer.finish().values(), [9.0, 2.0]);
        assert_eq!(*second.values(), [1.0, 2.0]);
    }

    #[test]
    fn an_unshared_tensor_is_written_in_place() {
        let arena = Arena::new(Vec::new());
        let slot = {
            let tensor = tensor(&arena, &[1.0]);
            let slot = tensor.slot;
            let written = tensor.into_buffer().finish();
            assert_eq!(written.slot, slot);
            assert_eq!(arena.slots.borrow()[slot].references, 1);
            slot
        };
        assert_eq!(arena.slots.borrow()[slot].references, 0);
    }
}
