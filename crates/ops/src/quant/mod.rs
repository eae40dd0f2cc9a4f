//! What stored bytes mean, defined once in scalar code: devices, converters and tests agree on these numbers.
//!
//! Every block format is a case of one mechanism: integers of at most 8 bits, and for each group of 16 or 32 of them an f32 scale and
//! perhaps a minimum. A value is `scale * q`, or `scale * q + min`, product and sum rounded one after the other. A group's scale is
//! itself a half-precision number of the block times a small integer of the group ([`Factors`]), and so is its minimum; or a block has one f32
//! scale and perhaps a zero point ([`Single`]).

/// One block opened: its integers, and a scale and a minimum for each group of [`BlockFormat::group_len`] of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// The integers, [`BlockFormat::block_len`] of them.
    pub quants: [i8; 256],
    /// Scale of each group.
    pub scales: [f32; 16],
    /// Minimum of each group; zeros unless [`BlockFormat::has_min`].
    pub mins: [f32; 16],
}

impl Default for Groups {
    fn default() -> Self {
        Groups { quants: [0; 256], scales: [0.0; 16], mins: [0.0; 16] }
    }
}

/// What a block's integers are multiplied with, as compact as the block has it.
///
/// A group's scale is `scale * scales[group]`, its minimum `min * mins[group]`: products of 11 and at most 8 bits, exact in f32. Blocks of
/// a single group have the integer 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// What every group's scale is a multiple of.
    pub scale: f16,
    /// What every group's minimum is a multiple of; zero unless [`BlockFormat::has_min`].
    pub min: f16,
    /// Each group's multiple of `scale`.
    pub scales: [i8; 16],
    /// Each group's multiple of `min`.
    pub mins: [i8; 16],
}

/// What a block's integers are multiplied with, where the block has one scale: that, and the zero point with its sign turned over, so that the
/// minimum is their product.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Single {
    /// The scale.
    pub scale: f32,
    /// What is added to each integer; zero unless [`BlockFormat::has_min`].
    pub minus_zero: i16,
}

mod blocks;
mod bytes;
mod encode;

use crate::format::{BlockFormat, Format};
pub use blocks::{IQ4_VALUES, MXFP4_VALUES, open, parts, single};
pub use bytes::{e4m3_is_nan, e4m3_to_f32, e5m2_to_f32, f32_to_e4m3};
pub use encode::{ENCODED, EncodeError, encode_row, encode_scaled, row_scale};
use half::{bf16, f16};

/// The values of stored bytes: `values.len()` of them, whole blocks. Those of formats that [take scales](Format::takes_scales) are without
/// them; [`LocalWeight::decode`](crate::LocalWeight::decode) knows them.
///
/// # Panics
/// When `bytes` is not the length of as many values.
pub fn decode_row(format: Format, bytes: &[u8], values: &mut [f32]) {
    assert_eq!(Some(bytes.len()), format.row_bytes(values.len()), "bytes of {} values as {format}", values.len());
    match format {
        Format::F32 => {
            for (value, b) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*b);
            }
        }
        Format::F16 => {
            for (value, b) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f16::from_le_bytes(*b).to_f32();
            }
        }
        Format::BF16 => {
            for (value, b) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = bf16::from_le_bytes(*b).to_f32();
            }
        }
        Format::I8 => values.iter_mut().zip(bytes).for_each(|(value, &b)| *value = f32::from(b.cast_signed())),
        Format::E4M3 => values.iter_mut().zip(bytes).for_each(|(value, &b)| *value = e4m3_to_f32(b)),
        Format::E5M2 => values.iter_mut().zip(bytes).for_each(|(value, &b)| *value = e5m2_to_f32(b)),
        Format::Blocks(block) if block.group_len() == 16 => decode_blocks::<16>(block, bytes, values),
        Format::Blocks(block) => decode_blocks::<32>(block, bytes, values),
    }
}

/// Decodes whole blocks; `GROUP` is the format's group length, fixed so that the inner loops vectorise.
fn decode_blocks<const GROUP: usize>(format: BlockFormat, bytes: &[u8], values: &mut [f32]) {
    let mut groups = Groups::default();
    for (values, bytes) in values.chunks_exact_mut(format.block_len()).zip(bytes.chunks_exact(format.block_bytes())) {
        open(format, bytes, &mut groups);
        let of_groups = values.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups.quants.as_chunks::<GROUP>().0);
        for ((values, quants), (&scale, &min)) in of_groups.zip(groups.scales.iter().zip(&groups.mins)) {
            // Adding a minimum of zero would turn -0 into 0, so formats without one take another loop.
            if format.has_min() {
                for (value, &quant) in values.iter_mut().zip(quants) {
                    *value = scale * f32::from(quant) + min;
                }
            } else {
                for (value, &quant) in values.iter_mut().zip(quants) {
                    *value = scale * f32::from(quant);
                }
            }
        }
    }
}
