//! Opening blocks: every format turned into the same integers, scales and minima.
//!
//! Source: the block structures of `ggml-common.h` and the `dequantize_row_*` functions of `ggml-quants.c` in llama.cpp.

mod k;
mod nonlinear;
mod plain;
mod single;

use super::{Factors, Groups, Single};
use crate::format::BlockFormat;
use half::f16;
pub use nonlinear::IQ4_VALUES;
pub use single::{MXFP4_VALUES, single};

/// A block's bytes as its fields. All fields are bytes, so any bytes of the right length are a block.
trait Block: bytemuck::AnyBitPattern {
    /// Writes the block's integers, and gives what they are multiplied with.
    fn parts(&self, quants: &mut [i8; 256]) -> Factors;
}

/// Opens one block into its integers, scales and minima.
///
/// Integers past [`BlockFormat::block_len`] and scales past the last group keep what they held.
///
/// # Panics
/// When `bytes` is not [`BlockFormat::block_bytes`] long.
#[inline]
pub fn open(format: BlockFormat, bytes: &[u8], groups: &mut Groups) {
    let factors = parts(format, bytes, &mut groups.quants);
    let used = format.block_len() / format.group_len();
    if let Some(Single { scale, minus_zero }) = single(format, bytes) {
        groups.scales[..used].fill(scale);
        groups.mins[..used].fill(if format.has_min() { scale * f32::from(minus_zero) } else { 0.0 });
        return;
    }
    let scale = factors.scale.to_f32();
    for (out, &multiple) in groups.scales[..used].iter_mut().zip(&factors.scales) {
        *out = scale * f32::from(multiple);
    }
    if format.has_min() {
        let min = factors.min.to_f32();
        for (out, &multiple) in groups.mins[..used].iter_mut().zip(&factors.mins) {
            *out = min * f32::from(multiple);
        }
    } else {
        groups.mins = [0.0; 16];
    }
}

/// Opens one block into its integers and compact factors; integers past [`BlockFormat::block_len`] keep what they held. The factors of a
/// format that has a [`single`] scale are zeros.
///
/// # Panics
/// When `bytes` is not [`BlockFormat::block_bytes`] long.
#[inline]
pub fn parts(format: BlockFormat, bytes: &[u8], quants: &mut [i8; 256]) -> Factors {
    match format {
        BlockFormat::Q4_0 => parts_as::<plain::Q4_0>(bytes, quants),
        BlockFormat::Q4_1 => parts_as::<plain::Q4_1>(bytes, quants),
        BlockFormat::Q5_0 => parts_as::<plain::Q5_0>(bytes, quants),
        BlockFormat::Q5_1 => parts_as::<plain::Q5_1>(bytes, quants),
        BlockFormat::Q8_0 => parts_as::<plain::Q8_0>(bytes, quants),
        BlockFormat::Q2_K => parts_as::<k::Q2_K>(bytes, quants),
        BlockFormat::Q3_K => parts_as::<k::Q3_K>(bytes, quants),
        BlockFormat::Q4_K => parts_as::<k::Q4_K>(bytes, quants),
        BlockFormat::Q5_K => parts_as::<k::Q5_K>(bytes, quants),
        BlockFormat::Q6_K => parts_as::<k::Q6_K>(bytes, quants),
        BlockFormat::IQ4_NL => parts_as::<nonlinear::IQ4_NL>(bytes, quants),
        BlockFormat::IQ4_XS => parts_as::<nonlinear::IQ4_XS>(bytes, quants),
        BlockFormat::MXFP4 => parts_as::<single::MXFP4>(bytes, quants),
        BlockFormat::INT4 => parts_as::<single::INT4>(bytes, quants),
        BlockFormat::INT4_128 => parts_as::<single::INT4_128>(bytes, quants),
        BlockFormat::INT8 => parts_as::<single::INT8>(bytes, quants),
    }
}

#[inline]
fn parts_as<B: Block>(bytes: &[u8], quants: &mut [i8; 256]) -> Factors {
    assert_eq!(bytes.len(), size_of::<B>(), "bytes of a block");
    bytemuck::from_bytes::<B>(bytes).parts(quants)
}

/// The factors of a block that is one group.
#[inline]
fn one_group(scale: [u8; 2], min: [u8; 2]) -> Factors {
    Factors { scale: f16::from_le_bytes(scale), min: f16::from_le_bytes(min), scales: [1; 16], mins: [1; 16] }
}

/// Low nibbles of `packed` to the first half of `quants`, high ones to the second, each minus `zero`.
#[inline]
fn nibbles<const N: usize>(packed: &[u8; N], zero: i8, quants: &mut [i8]) {
    // Values in hand, not memory that `quants` might overlap: vectors instead of bytes.
    let (mut lows, mut highs) = ([0; N], [0; N]);
    for ((low, high), &byte) in lows.iter_mut().zip(&mut highs).zip(packed) {
        (*low, *high) = ((byte & 15) as i8 - zero, (byte >> 4) as i8 - zero);
    }
    let (low, high) = quants.split_at_mut(N);
    low.copy_from_slice(&lows);
    high.copy_from_slice(&highs);
}
