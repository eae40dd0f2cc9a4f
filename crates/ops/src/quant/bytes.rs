//! Floats of one byte.
//!
//! Source: Micikevicius et al., FP8 formats for deep learning, arXiv:2209.05433, table 1.

use half::f16;

/// The value of an `e4m3fn`: the bits of an f16 of a 256th of it, but for the sign, which is apart.
#[inline]
pub fn e4m3_to_f32(byte: u8) -> f32 {
    if e4m3_is_nan(byte) {
        return f32::NAN;
    }
    let (sign, magnitude) = (u16::from(byte & 0x80) << 8, u16::from(byte & 0x7f) << 7);
    f16::from_bits(sign | magnitude).to_f32() * 256.0
}

/// Whether an `e4m3fn` is no number.
#[inline]
pub const fn e4m3_is_nan(byte: u8) -> bool {
    byte & 0x7f == 0x7f
}

/// The nearest `e4m3fn`, ties to even; the largest one for what lies beyond it.
#[inline]
pub fn f32_to_e4m3(value: f32) -> u8 {
    const LARGEST: f32 = 448.0;
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    if value.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = value.abs().min(LARGEST);
    // Neighbours are an eighth of their power of two apart, below 2^-6 an eighth of that.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = magnitude * f32::from_bits(((127 + 3 - exponent) as u32) << 23);
    // The sum's last bit counts ones.
    let steps = (steps + 8_388_608.0) - 8_388_608.0;
    // Eight steps, or the first of the next power, carry into the exponent.
    sign | ((exponent + 6) * 8 + steps as i32) as u8
}

/// The value of an `e5m2`: the upper half of an f16.
#[inline]
pub fn e5m2_to_f32(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte) << 8).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_e4m3_is_its_sign_exponent_and_mantissa() {
        for byte in 0..=u8::MAX {
            let (sign, exponent, mantissa) =
                (if byte & 0x80 == 0 { 1.0 } else { -1.0 }, i32::from(byte >> 3 & 15), f32::from(byte & 7));
            let magnitude = match (exponent, byte & 7) {
                (15, 7) => f32::NAN,
                (0, _) => mantissa * 2.0_f32.powi(-9),
                _ => (8.0 + mantissa) * 2.0_f32.powi(exponent - 10),
            };
            let value = e4m3_to_f32(byte);
            assert_eq!(value.is_nan(), e4m3_is_nan(byte));
            assert!(
                value.is_nan() && magnitude.is_nan() || value.to_bits() == (sign * magnitude).to_bits(),
                "{byte:#x}"
            );
        }
        assert_eq!(e4m3_to_f32(0x7e).to_bits(), 448_f32.to_bits());
    }

    #[test]
    fn every_e5m2_is_its_sign_exponent_and_mantissa() {
        for byte in 0..=u8::MAX {
            let (sign, exponent, mantissa) =
                (if byte & 0x80 == 0 { 1.0 } else { -1.0 }, i32::from(byte >> 2 & 31), f32::from(byte & 3));
            let magnitude = match (exponent, byte & 3) {
                (31, 0) => f32::INFINITY,
                (31, _) => f32::NAN,
                (0, _) => mantissa * 2.0_f32.powi(-16),
                _ => (4.0 + mantissa) * 2.0_f32.powi(exponent - 17),
            };
            let value = e5m2_to_f32(byte);
            assert!(
                value.is_nan() && magnitude.is_nan() || value.to_bits() == (sign * magnitude).to_bits(),
                "{byte:#x}"
            );
        }
    }
}
