//! K-quants: blocks of 256 values whose groups' scales (and minima) are integers times one half-precision number a block.
//!
//! They take their minima off, so here the number that minima are multiples of has the other sign.
#![allow(non_camel_case_types, reason = "the formats' own names")]

use super::{Block, Factors, nibbles};
use bytemuck::AnyBitPattern;
use half::f16;

/// 16 groups of 16 values of 2 bits; a byte of `scales` is a 4-bit minimum over a 4-bit scale.
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q2_K {
    scales: [u8; 16],
    quants: [u8; 64],
    scale: [u8; 2],
    min: [u8; 2],
}

/// 16 groups of 16 values of 3 bits around 4; scales of 6 bits around 32.
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q3_K {
    third_bits: [u8; 32],
    quants: [u8; 64],
    scales: [u8; 12],
    scale: [u8; 2],
}

/// 8 groups of 32 values of 4 bits; scales and minima of 6 bits.
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q4_K {
    scale: [u8; 2],
    min: [u8; 2],
    scales: [u8; 12],
    quants: [u8; 128],
}

/// 8 groups of 32 values of 5 bits; scales and minima of 6 bits.
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q5_K {
    scale: [u8; 2],
    min: [u8; 2],
    scales: [u8; 12],
    fifth_bits: [u8; 32],
    quants: [u8; 128],
}

/// 16 groups of 16 values of 6 bits around 32; scales of 8 bits.
#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q6_K {
    low_bits: [u8; 128],
    high_bits: [u8; 64],
    scales: [i8; 16],
    scale: [u8; 2],
}

impl Block for Q2_K {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        pairs_of_bits(&self.quants, quants);
        Factors {
            scale: f16::from_le_bytes(self.scale),
            min: -f16::from_le_bytes(self.min),
            scales: self.scales.map(|packed| (packed & 15) as i8),
            mins: self.scales.map(|packed| (packed >> 4) as i8),
        }
    }
}

impl Block for Q3_K {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        pairs_of_bits(&self.quants, quants);
        for (bit, quants) in quants.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (quant, &bits) in quants.iter_mut().zip(&self.third_bits) {
                *quant += ((bits >> bit & 1) << 2) as i8 - 4;
            }
        }
        let mut factors = Factors { scale: f16::from_le_bytes(self.scale), ..Factors::default() };
        let (low, high) = self.scales.split_at(8);
        for i in 0..16 {
            let low = low[i % 8] >> (i / 8 * 4) & 15;
            let high = high[i % 4] >> (i / 4 * 2) & 3;
            factors.scales[i] = (high << 4 | low) as i8 - 32;
        }
        factors
    }
}

impl Block for Q4_K {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        for (packed, quants) in self.quants.as_chunks::<32>().0.iter().zip(quants.as_chunks_mut::<64>().0) {
            nibbles(packed, 0, quants);
        }
        six_bit_factors(self.scale, self.min, &self.scales)
    }
}

impl Block for Q5_K {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        for (packed, quants) in self.quants.as_chunks::<32>().0.iter().zip(quants.as_chunks_mut::<64>().0) {
            nibbles(packed, 0, quants);
        }
        for (bit, quants) in quants.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (quant, &bits) in quants.iter_mut().zip(&self.fifth_bits) {
                *quant += ((bits >> bit & 1) << 4) as i8;
            }
        }
        six_bit_factors(self.scale, self.min, &self.scales)
    }
}

impl Block for Q6_K {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        let packed = self.low_bits.as_chunks::<64>().0.iter().zip(self.high_bits.as_chunks::<32>().0);
        for (quants, (low, high)) in quants.as_chunks_mut::<128>().0.iter_mut().zip(packed) {
            nibbles(low, 32, quants);
            for (i, quants) in quants.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (quant, &bits) in quants.iter_mut().zip(high) {
                    *quant += ((bits >> (2 * i) & 3) << 4) as i8;
                }
            }
        }
        Factors { scale: f16::from_le_bytes(self.scale), scales: self.scales, ..Factors::default() }
    }
}

/// Integers of 2 bits: 32 bytes hold 128 of them, the lowest bits of all bytes first.
#[inline]
fn pairs_of_bits(packed: &[u8; 64], quants: &mut [i8; 256]) {
    for (packed, quants) in packed.as_chunks::<32>().0.iter().zip(quants.as_chunks_mut::<128>().0) {
        for (i, quants) in quants.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (quant, &bits) in quants.iter_mut().zip(packed) {
                *quant = (bits >> (2 * i) & 3) as i8;
            }
        }
    }
}

/// Eight scales and eight minima of 6 bits in 12 bytes: four of each in the low bits of eight bytes, the other four's low bits in the
/// nibbles of the last four bytes, their high bits on top of the first eight.
#[inline]
fn six_bit_factors(scale: [u8; 2], min: [u8; 2], packed: &[u8; 12]) -> Factors {
    let mut factors = Factors { scale: f16::from_le_bytes(scale), min: -f16::from_le_bytes(min), ..Factors::default() };
    for i in 0..4 {
        let (a, b, c) = (packed[i], packed[i + 4], packed[i + 8]);
        factors.scales[i] = (a & 63) as i8;
        factors.scales[i + 4] = (a >> 6 << 4 | c & 15) as i8;
        factors.mins[i] = (b & 63) as i8;
        factors.mins[i + 4] = (b >> 6 << 4 | c >> 4) as i8;
    }
    factors
}
