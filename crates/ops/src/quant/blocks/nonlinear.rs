//! IQ4: 4-bit codes of a table whose steps grow away from zero.
#![allow(non_camel_case_types, reason = "the formats' own names")]

use super::{Block, Factors, one_group};
use bytemuck::AnyBitPattern;
use half::f16;

/// What the sixteen codes of IQ4 blocks stand for.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 values under one scale.
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct IQ4_NL {
    scale: [u8; 2],
    codes: [u8; 16],
}

/// 8 groups of 32 values; scales of 6 bits around 32.
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct IQ4_XS {
    scale: [u8; 2],
    scales_high: [u8; 2],
    scales_low: [u8; 4],
    codes: [u8; 128],
}

impl Block for IQ4_NL {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        look_up(&self.codes, &mut quants[..32]);
        one_group(self.scale, [0; 2])
    }
}

impl Block for IQ4_XS {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        for (codes, quants) in self.codes.as_chunks::<16>().0.iter().zip(quants.as_chunks_mut::<32>().0) {
            look_up(codes, quants);
        }
        let mut factors = Factors { scale: f16::from_le_bytes(self.scale), ..Factors::default() };
        let high = u16::from_le_bytes(self.scales_high);
        for i in 0..8 {
            let low = self.scales_low[i / 2] >> (i % 2 * 4) & 15;
            let high = (high >> (2 * i) & 3) as u8;
            factors.scales[i] = (high << 4 | low) as i8 - 32;
        }
        factors
    }
}

/// Low nibbles' values to the first half of `quants`, high ones' to the second.
#[inline]
fn look_up(codes: &[u8; 16], quants: &mut [i8]) {
    let (low, high) = quants.split_at_mut(16);
    for ((low, high), &code) in low.iter_mut().zip(high).zip(codes) {
        *low = IQ4_VALUES[usize::from(code & 15)];
        *high = IQ4_VALUES[usize::from(code >> 4)];
    }
}
