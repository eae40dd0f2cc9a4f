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

/// The nearest `e4m3fn`, of two as near the even one; beyond the largest, 448, that. A NaN stays one.
#[inline(always)]
pub fn f32_to_e4m3(value: f32) -> u8 {
    // Behind this sum the mantissa's last bit is worth 2^-9, a step between the smallest magnitudes: it rounds to whole ones.
    const STEPS: f32 = 16384.0;
    let magnitude = value.abs();
    let small = (magnitude + STEPS).to_bits().wrapping_sub(STEPS.to_bits());
    // Of the 23 bits of the mantissa three stay; exponents are counted from -7 and not from -127.
    let bits = magnitude.to_bits();
    let normal = (bits.wrapping_add(0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3);
    let rounded = if magnitude < 1.0 / 64.0 { small } else { normal.min(0x7e) };
    let rounded = if value.is_nan() { 0x7f } else { rounded };
    (value.to_bits() >> 24 & 0x80 | rounded) as u8
}

/// Whether an `e4m3fn` is no number.
#[inline]
pub const fn e4m3_is_nan(byte: u8) -> bool {
    byte & 0x7f == 0x7f
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
    fn the_nearest_e4m3_is_found_and_of_two_the_even_one() {
        let nearest = |value: f32| {
            let distance = |&byte: &u8| (f64::from(e4m3_to_f32(byte)) - f64::from(value.abs())).abs();
            (0..0x7f).min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)))).unwrap()
        };
        // Every number, what lies in the middle of two, and the neighbours of both, of either sign.
        for byte in 0..0x7e {
            let [number, next] = [byte, byte + 1].map(e4m3_to_f32);
            let middle = (number + next) / 2.0;
            for value in [number, middle, next] {
                for value in [value, value.next_up(), value.next_down().max(0.0)] {
                    let expected = nearest(value);
                    assert_eq!(f32_to_e4m3(value), expected, "{value}");
                    assert_eq!(f32_to_e4m3(-value), expected | 0x80, "{}", -value);
                }
            }
        }
        for value in [448.1, 464.0, 480.0, 1e5, f32::MAX, f32::INFINITY] {
            assert_eq!([value, -value].map(f32_to_e4m3), [0x7e, 0xfe], "{value}");
        }
        assert_eq!([0.0, f32::MIN_POSITIVE, 1e-40].map(f32_to_e4m3), [0; 3]);
        assert!(e4m3_is_nan(f32_to_e4m3(f32::NAN)) && e4m3_is_nan(f32_to_e4m3(-f32::NAN)));
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
