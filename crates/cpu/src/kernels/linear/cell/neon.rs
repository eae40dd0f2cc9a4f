//! NEON: a quarter of a unit, 4 values of K by 4 outputs, is one vector.

use super::forms::Form;
use super::{Cell, Integers, Stored, UNIT};
use std::arch::aarch64::*;

/// By how much integers are read too large.
pub(in crate::kernels::linear) const fn offset<F: Form>() -> i8 {
    match F::CELL.integers {
        Integers::Less(zero) => zero.cast_signed(),
        Integers::Signed | Integers::Codes(_) => 0,
    }
}

/// The largest magnitude of an integer as it is read.
pub(in crate::kernels::linear) const fn largest<F: Form>() -> usize {
    match F::CELL.integers {
        Integers::Less(_) => (1 << (F::CELL.low + F::CELL.high)) - 1,
        Integers::Signed | Integers::Codes(_) => 128,
    }
}

/// The two units of a pair for the outputs from `4 * quarter` on, [`offset`] too large.
///
/// # Safety
/// `lines` points at the integers of a cell; `pair` and `quarter` are below 4.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::kernels::linear) unsafe fn pair<F: Form>(
    lines: *const u8,
    pair: usize,
    quarter: usize,
) -> [int8x16_t; 2] {
    let cell = const { F::CELL };
    // SAFETY: by the caller's duties: a cell has as many lines as bits.
    let line = |line: usize| unsafe { vld1q_u8(lines.add(line * UNIT + quarter * 16)) };
    if cell.low == 8 {
        let first = cell.first_of(pair);
        return [line(first), line(first + 4 / cell.groups)].map(|unit| vreinterpretq_s8_u8(unit));
    }
    let (pairs, mask) = (Cell::pairs_a_line(cell.low), vdupq_n_u8((1 << cell.low) - 1));
    let (bits, at) = (line(pair / pairs), pair % pairs * cell.low);
    let mut units = [vandq_u8(right(bits, at), mask), vandq_u8(right(bits, at + 4), mask)];
    if cell.high > 0 {
        let (pairs, mask) = (Cell::pairs_a_line(cell.high), vdupq_n_u8(((1 << cell.high) - 1) << cell.low));
        let (bits, at) = (line(cell.low + pair / pairs), pair % pairs * cell.high);
        for (unit, at) in units.iter_mut().zip([at, at + 4]) {
            let placed = if at < cell.low { left(bits, cell.low - at) } else { right(bits, at - cell.low) };
            *unit = vorrq_u8(*unit, vandq_u8(placed, mask));
        }
    }
    if let Integers::Codes(values) = cell.integers {
        // SAFETY: 16 bytes.
        let values = unsafe { vld1q_s8(values.as_ptr()) };
        return units.map(|codes| vqtbl1q_s8(values, codes));
    }
    units.map(|unit| vreinterpretq_s8_u8(unit))
}

/// A factor of the outputs from `4 * quarter` on: a half-precision one, or a multiple of it.
///
/// # Safety
/// `block` points at a block that has this group; `quarter` is below 4.
#[inline]
#[target_feature(enable = "neon")]
pub(in crate::kernels::linear) unsafe fn factor<F: Form>(
    block: *const u8,
    group: usize,
    min: bool,
    quarter: usize,
) -> float32x4_t {
    let (half, small) = F::CELL.factors_at(group, min);
    match const { F::CELL.factors } {
        // SAFETY: 4 of 16 bf16 of the block's factors.
        Stored::Power => unsafe {
            let upper = vld1_u16(block.add(half + quarter * 8).cast());
            return vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(upper)));
        },
        // SAFETY: 4 of 16 f32, and 4 of 16 integers in 16 bits, of the block's factors.
        Stored::Single => unsafe {
            let scale = vld1q_f32(block.add(half + quarter * 16).cast());
            let Some(small) = small else { return scale };
            let multiples = vmovl_s16(vld1_s16(block.add(small + quarter * 8).cast()));
            return vmulq_f32(scale, vcvtq_f32_s32(multiples));
        },
        Stored::Half => {}
    }
    // SAFETY: 8 of 32 bytes of the block's factors.
    let half = vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(block.add(half + quarter * 8).cast()) }));
    let Some(small) = small else { return half };
    // SAFETY: 4 of 16 bytes of the block's factors.
    let multiples = unsafe { block.add(small + quarter * 4).cast::<u32>().read_unaligned() };
    let multiples = vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(multiples)))));
    vmulq_f32(half, vcvtq_f32_s32(multiples))
}

/// Bytes shifted right by less than 8. An instruction names how far, which is known wherever this is inlined.
#[inline]
#[target_feature(enable = "neon")]
fn right(bits: uint8x16_t, by: usize) -> uint8x16_t {
    match by {
        0 => bits,
        1 => vshrq_n_u8::<1>(bits),
        2 => vshrq_n_u8::<2>(bits),
        3 => vshrq_n_u8::<3>(bits),
        4 => vshrq_n_u8::<4>(bits),
        5 => vshrq_n_u8::<5>(bits),
        6 => vshrq_n_u8::<6>(bits),
        _ => vshrq_n_u8::<7>(bits),
    }
}

/// Bytes shifted left by 1 to 4, as [`right`].
#[inline]
#[target_feature(enable = "neon")]
fn left(bits: uint8x16_t, by: usize) -> uint8x16_t {
    match by {
        1 => vshlq_n_u8::<1>(bits),
        2 => vshlq_n_u8::<2>(bits),
        3 => vshlq_n_u8::<3>(bits),
        _ => vshlq_n_u8::<4>(bits),
    }
}
