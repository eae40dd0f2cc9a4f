//! Blocks with one scale of more range than an f16 has: a power of two, or an f32 beside a zero point.
#![allow(non_camel_case_types, reason = "the formats' own names")]

use super::{Block, Factors, Single, nibbles};
use crate::format::BlockFormat;
use bytemuck::AnyBitPattern;

/// Twice what the sixteen codes of MXFP4 blocks (`e2m1`) stand for. Twice the value is an integer, and the scale is halved.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct MXFP4 {
    exponent: u8,
    codes: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct INT4 {
    _factors: [u8; 6],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct INT4_128 {
    _factors: [u8; 6],
    quants: [[u8; 16]; 4],
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct INT8 {
    _factors: [u8; 6],
    quants: [i8; 32],
}

/// The scale and zero point of a block; `None` for formats that have [`Factors`].
///
/// # Panics
/// When `bytes` is shorter than a block.
#[inline]
pub fn single(format: BlockFormat, bytes: &[u8]) -> Option<Single> {
    match format {
        BlockFormat::MXFP4 => Some(Single { scale: half_of_power(bytes[0]), minus_zero: 0 }),
        BlockFormat::INT4 | BlockFormat::INT4_128 | BlockFormat::INT8 => Some(Single {
            scale: f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            minus_zero: i16::from_le_bytes([bytes[4], bytes[5]]),
        }),
        _ => None,
    }
}

/// Half of what an `e8m0` stands for, 2^(byte - 127); the last one is no number. A bf16 holds every one of them.
#[inline]
fn half_of_power(byte: u8) -> f32 {
    match byte {
        // Below the smallest normal number.
        0 | 1 => f32::from_bits(0x0020_0000 << byte),
        u8::MAX => f32::NAN,
        _ => f32::from_bits(u32::from(byte - 1) << 23),
    }
}

impl Block for MXFP4 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        let (low, high) = quants[..32].split_at_mut(16);
        for ((low, high), &code) in low.iter_mut().zip(high).zip(&self.codes) {
            *low = MXFP4_VALUES[usize::from(code & 15)];
            *high = MXFP4_VALUES[usize::from(code >> 4)];
        }
        Factors::default()
    }
}

impl Block for INT4 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        nibbles(&self.quants, 0, &mut quants[..32]);
        Factors::default()
    }
}

impl Block for INT4_128 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        for (packed, quants) in self.quants.iter().zip(quants.as_chunks_mut::<32>().0) {
            nibbles(packed, 0, quants);
        }
        Factors::default()
    }
}

impl Block for INT8 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        quants[..32].copy_from_slice(&self.quants);
        Factors::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_halved_exactly() {
        for byte in 0..u8::MAX {
            let power = 2_f64.powi(i32::from(byte) - 128);
            assert_eq!(f64::from(half_of_power(byte)).to_bits(), power.to_bits(), "{byte}");
            assert_eq!(half_of_power(byte).to_bits() & 0xffff, 0, "{byte} is a bf16");
        }
        assert!(half_of_power(u8::MAX).is_nan());
    }
}
