//! What a member asks memory for while it has nothing to do.

use crate::prefetch::{Cache, LINE, ask};
use std::ptr::without_provenance;

/// Most bytes that are worth asking for: a part of the second-level cache.
const MOST: usize = 256 << 10;
/// Lines between two looks for a job.
const LINES: usize = 4;

/// Bytes that a member will read.
#[derive(Clone, Copy, Default)]
pub(super) struct Ahead {
    /// An address, through which nobody reads.
    at: usize,
    left: usize,
}

impl Ahead {
    pub(super) fn of(bytes: *const [u8]) -> Self {
        Ahead { at: bytes.cast::<u8>().addr(), left: bytes.len().min(MOST) }
    }

    /// Asks for the next few lines; false when there are none.
    #[inline]
    pub(super) fn ask_a_little(&mut self) -> bool {
        let len = self.left.min(LINES * LINE);
        (0..len).step_by(LINE).for_each(|line| ask(without_provenance(self.at.wrapping_add(line)), Cache::Second));
        *self = Ahead { at: self.at.wrapping_add(len), left: self.left - len };
        len > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_asked_for_once_up_to_a_limit() {
        for (len, looks) in [(0, 0), (1, 1), (LINES * LINE, 1), (LINES * LINE + 1, 2), (1 << 30, MOST / LINE / LINES)] {
            // Nobody reads through it.
            let mut ahead = Ahead::of(std::ptr::slice_from_raw_parts(std::ptr::without_provenance(4096), len));
            assert_eq!(std::iter::repeat_with(|| ahead.ask_a_little()).take_while(|&asked| asked).count(), looks);
        }
    }
}
