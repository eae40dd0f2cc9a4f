//! The other way: values to stored bytes.
//!
//! Plain floats are rounded to nearest, ties to even. Blocks take the scales that llama.cpp takes without an importance matrix, so that its
//! tools and this one write the same file. What has [`Scales`](crate::Scales) of its own is [`encode_scaled`].

mod k;
mod plain;
mod scaled;

pub use scaled::{encode_scaled, row_scale};

use crate::format::{BlockFormat, Format};
use crate::quant::decode_row;
use half::{bf16, f16};

/// Formats that values are encoded to, those with scales of their own left out.
pub const ENCODED: [Format; 8] = [
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::Blocks(BlockFormat::Q4_0),
    Format::Blocks(BlockFormat::Q5_0),
    Format::Blocks(BlockFormat::Q8_0),
    Format::Blocks(BlockFormat::Q4_K),
    Format::Blocks(BlockFormat::Q6_K),
];

/// Magnitudes in a block: with eight steps of the scale on a side, the least of these formats, a scale up to here is a finite f16.
const BLOCK_LIMIT: f32 = 8.0 * 65504.0;

/// Values that a format cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A value is no number, or too large.
    #[error("value {value} in column {index} cannot be stored as {format}, allowed are magnitudes up to {limit:e}")]
    Value {
        /// The format.
        format: Format,
        /// The value.
        value: f32,
        /// Its place in the row.
        index: usize,
        /// The largest magnitude.
        limit: f32,
    },
    /// Nothing is encoded to this format.
    #[error("values are not encoded to {format}")]
    Format {
        /// The format.
        format: Format,
    },
}

/// Stores `values`, whole blocks of one row, as `format`, one of [`ENCODED`].
///
/// # Errors
/// When a value is not finite or too large, or nothing is encoded to the format. `bytes` is then anything.
///
/// # Panics
/// When `bytes` is not as long as so many values take.
pub fn encode_row(format: Format, values: &[f32], bytes: &mut [u8]) -> Result<(), EncodeError> {
    assert_eq!(Some(bytes.len()), format.row_bytes(values.len()), "bytes of {} values as {format}", values.len());
    match format {
        Format::F32 => {
            check(format, values, f32::MAX)?;
            bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_le_bytes());
        }
        Format::F16 => {
            check(format, values, f16::MAX.to_f32())?;
            let half = |value: &f32| f16::from_f32(*value).to_le_bytes();
            bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = half(value));
        }
        Format::BF16 => {
            check(format, values, bf16::MAX.to_f32())?;
            let half = |value: &f32| bf16::from_f32(*value).to_le_bytes();
            bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = half(value));
        }
        Format::Blocks(block) => {
            check(format, values, BLOCK_LIMIT)?;
            match block {
                BlockFormat::Q4_0 => blocks(values, bytes, plain::q4_0),
                BlockFormat::Q5_0 => blocks(values, bytes, plain::q5_0),
                BlockFormat::Q8_0 => blocks(values, bytes, plain::q8_0),
                BlockFormat::Q4_K => blocks(values, bytes, k::q4_k),
                BlockFormat::Q6_K => blocks(values, bytes, k::q6_k),
                _ => return Err(EncodeError::Format { format }),
            }
        }
        Format::I8 | Format::E4M3 | Format::E5M2 => return Err(EncodeError::Format { format }),
    }
    Ok(())
}

/// Refuses what is not finite or above `limit`.
fn check(format: Format, values: &[f32], limit: f32) -> Result<(), EncodeError> {
    // As one condition over all values first, which vectorises.
    if values.iter().fold(true, |fit, value| fit & (value.abs() <= limit)) {
        return Ok(());
    }
    let index = values.iter().position(|value| value.is_nan() || value.abs() > limit).unwrap_or(0);
    Err(EncodeError::Value { format, value: values[index], index, limit })
}

fn blocks<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    bytes: &mut [u8],
    encode: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    values.as_chunks().0.iter().zip(bytes.as_chunks_mut().0).for_each(|(values, bytes)| encode(values, bytes));
}

/// The nearest whole number, ties to even, of a value below 2²² in magnitude: there the sum's last bit counts ones.
#[inline]
fn nearest(value: f32) -> f32 {
    const ONES: f32 = 12_582_912.0;
    (value + ONES) - ONES
}

/// What becomes of a value that is stored as `format`.
fn decoded(format: Format, value: f32) -> Result<f32, EncodeError> {
    let (mut bytes, mut values) = ([0; 4], [0.0]);
    let bytes = &mut bytes[..format.block_bytes().min(4)];
    encode_row(format, &[value], bytes)?;
    decode_row(format, bytes, &mut values);
    Ok(values[0])
}

/// One over `value`; 0 of 0.
#[inline]
fn inverse(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { 1.0 / value }
}

/// The value of greatest magnitude, the first of several.
#[inline]
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |extreme: f32, &value| if value.abs() > extreme.abs() { value } else { extreme })
}
