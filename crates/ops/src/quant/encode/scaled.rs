//! Rows of bytes under one scale a row: signed integers, and floats of four exponent bits.

use super::{EncodeError, check, decoded, extreme, nearest};
use crate::format::Format;
use crate::quant::f32_to_e4m3;

/// The largest magnitude that a row is scaled to; `None` for formats that values are not encoded to under a scale.
const fn largest(format: Format) -> Option<f32> {
    match format {
        // Without -128, so that a weight and its negative are stored alike.
        Format::I8 => Some(127.0),
        Format::E4M3 => Some(448.0),
        _ => None,
    }
}

/// The scale that a row of `values` is stored under as `format`, itself a number that `stored` holds: the greatest magnitude meets the
/// format's largest. 1 for a row of zeros.
///
/// # Errors
/// When a value is not finite, or nothing is encoded to the format.
pub fn row_scale(format: Format, values: &[f32], stored: Format) -> Result<f32, EncodeError> {
    let Some(largest) = largest(format) else { return Err(EncodeError::Format { format }) };
    check(format, values, f32::MAX)?;
    let extreme = extreme(values).abs();
    if extreme == 0.0 {
        return Ok(1.0);
    }
    let scale = decoded(stored, extreme / largest)?;
    // What is too small for the scale's type is stored under the smallest scale there is.
    if scale > 0.0 { Ok(scale) } else { decoded(stored, f32::from_bits(0x3380_0000)) }
}

/// Stores `values` of one row as `format`, each divided by `scale`, rounded to nearest, ties to even, and cut off at the format's largest.
///
/// # Errors
/// When nothing is encoded to the format under a scale.
///
/// # Panics
/// When `bytes` is not as long as `values`.
pub fn encode_scaled(format: Format, values: &[f32], scale: f32, bytes: &mut [u8]) -> Result<(), EncodeError> {
    assert_eq!(bytes.len(), values.len(), "bytes of values as {format}");
    let Some(largest) = largest(format) else { return Err(EncodeError::Format { format }) };
    let inside = |value: f32| (value / scale).clamp(-largest, largest);
    let out = bytes.iter_mut().zip(values);
    match format {
        Format::I8 => out.for_each(|(out, &value)| *out = (nearest(inside(value)) as i8).cast_unsigned()),
        _ => out.for_each(|(out, &value)| *out = f32_to_e4m3(inside(value))),
    }
    Ok(())
}
