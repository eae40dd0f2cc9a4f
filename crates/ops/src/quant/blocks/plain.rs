//! Blocks of 32 values under one scale: integers of 4, 5 or 8 bits, with a minimum or around a fixed zero point.
#![allow(non_camel_case_types, reason = "the formats' own names")]

use super::{Block, Factors, nibbles, one_group};
use bytemuck::AnyBitPattern;

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q4_0 {
    scale: [u8; 2],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q4_1 {
    scale: [u8; 2],
    min: [u8; 2],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q5_0 {
    scale: [u8; 2],
    fifth_bits: [u8; 4],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q5_1 {
    scale: [u8; 2],
    min: [u8; 2],
    fifth_bits: [u8; 4],
    quants: [u8; 16],
}

#[derive(Clone, Copy, AnyBitPattern)]
#[repr(C)]
pub(super) struct Q8_0 {
    scale: [u8; 2],
    quants: [i8; 32],
}

impl Block for Q4_0 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        nibbles(&self.quants, 8, &mut quants[..32]);
        one_group(self.scale, [0; 2])
    }
}

impl Block for Q4_1 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        nibbles(&self.quants, 0, &mut quants[..32]);
        one_group(self.scale, self.min)
    }
}

impl Block for Q5_0 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        nibbles(&self.quants, 16, &mut quants[..32]);
        add_fifth_bits(self.fifth_bits, &mut quants[..32]);
        one_group(self.scale, [0; 2])
    }
}

impl Block for Q5_1 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        nibbles(&self.quants, 0, &mut quants[..32]);
        add_fifth_bits(self.fifth_bits, &mut quants[..32]);
        one_group(self.scale, self.min)
    }
}

impl Block for Q8_0 {
    #[inline]
    fn parts(&self, quants: &mut [i8; 256]) -> Factors {
        quants[..32].copy_from_slice(&self.quants);
        one_group(self.scale, [0; 2])
    }
}

/// Adds 16 to the integers whose bit is set; bit `i` belongs to value `i`.
#[inline]
fn add_fifth_bits(bits: [u8; 4], quants: &mut [i8]) {
    let bits = u32::from_le_bytes(bits);
    for (i, four) in quants.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        // Four neighbouring bits, each in the fifth place of a byte of its own: no two of the products meet.
        let fifths = (((bits >> (i * 4) & 15) * 0x0020_4081) & 0x0101_0101) << 4;
        for (quant, fifth) in four.iter_mut().zip(fifths.to_le_bytes()) {
            *quant += fifth as i8;
        }
    }
}
