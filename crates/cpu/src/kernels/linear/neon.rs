//! Cells as NEON reads them, both to multiply (`int8`) and to dequantise: a quarter of a unit, 4 values of K by 4 outputs, is a vector.
//!
//! A kind of cell is an implementation of [`Packed`] and a line in [`visit`].

use super::PANEL;
use super::cell::{Cell, UNIT};
use std::arch::aarch64::*;
use std::arch::asm;

/// A kind of cell.
pub(super) trait Packed {
    /// The cell's size.
    const BYTES: usize;
    /// Groups a cell: 1 or 2.
    const GROUPS: usize;
    /// Whether groups have a minimum.
    const MIN: bool;
    /// By how much integers are read too large.
    const OFFSET: i8;
    /// The largest magnitude of an integer as it is read.
    const LARGEST: usize;

    /// Integers of `unit` for the outputs from `4 * quarter` on, `[4 outputs][4 values of K]`.
    ///
    /// # Safety
    /// `cell` points at a cell; `unit` is below 8 and `quarter` below 4.
    unsafe fn quarter(cell: *const u8, unit: usize, quarter: usize) -> int8x16_t;

    /// Factor `index` of the outputs from `4 * quarter` on: scales of all groups, then minima of all groups.
    ///
    /// # Safety
    /// `cell` points at a cell that has this factor; `quarter` is below 4.
    unsafe fn factor(cell: *const u8, index: usize, quarter: usize) -> float32x4_t;
}

/// What is done with cells of any kind.
pub(super) trait Visitor {
    /// Does it with cells of kind `C`.
    ///
    /// # Safety
    /// The visitor's cells are of this kind, and the duties of whoever made it hold.
    unsafe fn cells<C: Packed>(self);
}

/// Picks the kind.
///
/// # Safety
/// The visitor's cells are of kind `cell`, and the duties of whoever made it hold.
#[inline(always)]
pub(super) unsafe fn visit(cell: Cell, visitor: impl Visitor) {
    // SAFETY: by the caller's duties.
    unsafe {
        match cell {
            Cell::Bytes => visitor.cells::<Bytes>(),
            Cell::Nibbles { min: false } => visitor.cells::<Nibbles<false>>(),
            Cell::Nibbles { min: true } => visitor.cells::<Nibbles<true>>(),
            Cell::Wide { groups: 1, min: false } => visitor.cells::<Wide<1, false>>(),
            Cell::Wide { groups: 1, min: true } => visitor.cells::<Wide<1, true>>(),
            Cell::Wide { groups: _, min: false } => visitor.cells::<Wide<2, false>>(),
            Cell::Wide { groups: _, min: true } => visitor.cells::<Wide<2, true>>(),
        }
    }
}

/// [`Cell::Bytes`].
struct Bytes;

impl Packed for Bytes {
    const BYTES: usize = Cell::Bytes.bytes();
    const GROUPS: usize = 1;
    const MIN: bool = false;
    const OFFSET: i8 = 0;
    const LARGEST: usize = 128;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn quarter(cell: *const u8, unit: usize, quarter: usize) -> int8x16_t {
        // SAFETY: 8 units, by the duties of `quarter`.
        unsafe { vld1q_s8(cell.add(unit * UNIT + quarter * 16).cast()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factor(cell: *const u8, index: usize, quarter: usize) -> float32x4_t {
        // SAFETY: the factors follow 8 units.
        unsafe { halves(cell.add(8 * UNIT + index * 2 * PANEL), quarter) }
    }
}

/// [`Cell::Nibbles`].
struct Nibbles<const MIN: bool>;

impl<const MIN: bool> Packed for Nibbles<MIN> {
    const BYTES: usize = Cell::Nibbles { min: MIN }.bytes();
    const GROUPS: usize = 1;
    const MIN: bool = MIN;
    const OFFSET: i8 = if MIN { 0 } else { 8 };
    const LARGEST: usize = 15;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn quarter(cell: *const u8, unit: usize, quarter: usize) -> int8x16_t {
        // SAFETY: 4 units, by the duties of `quarter`.
        let both = unsafe { vld1q_u8(cell.add(unit % 4 * UNIT + quarter * 16)) };
        let nibbles = if unit < 4 { vandq_u8(both, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(both) };
        vreinterpretq_s8_u8(nibbles)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factor(cell: *const u8, index: usize, quarter: usize) -> float32x4_t {
        // SAFETY: the factors follow 4 units.
        unsafe { halves(cell.add(4 * UNIT + index * 2 * PANEL), quarter) }
    }
}

/// [`Cell::Wide`].
struct Wide<const GROUPS: usize, const MIN: bool>;

impl<const GROUPS: usize, const MIN: bool> Packed for Wide<GROUPS, MIN> {
    const BYTES: usize = Cell::Wide { groups: GROUPS, min: MIN }.bytes();
    const GROUPS: usize = GROUPS;
    const MIN: bool = MIN;
    const OFFSET: i8 = 0;
    const LARGEST: usize = 128;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn quarter(cell: *const u8, unit: usize, quarter: usize) -> int8x16_t {
        // SAFETY: 8 units, by the duties of `quarter`.
        unsafe { vld1q_s8(cell.add(unit * UNIT + quarter * 16).cast()) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn factor(cell: *const u8, index: usize, quarter: usize) -> float32x4_t {
        // SAFETY: the factors follow 8 units.
        unsafe { vld1q_f32(cell.add(8 * UNIT + index * 4 * PANEL + quarter * 16).cast()) }
    }
}

/// Four of 16 halves.
///
/// # Safety
/// `at` points at 16 halves; `quarter` is below 4.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn halves(at: *const u8, quarter: usize) -> float32x4_t {
    // SAFETY: by the caller's duties.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(at.add(quarter * 8).cast()) }))
}

/// Asks for the cache line at `at`, which need not be valid.
#[inline(always)]
pub(super) fn prefetch(at: *const u8) {
    // SAFETY: prefetching reads nothing.
    unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags)) }
}
