//! Exponentials and their sums, in one order on every machine and for every vector width.
//!
//! Only plain products and sums are used, so that the compiler may vectorise but never change a bit.

/// Logits that are looked at together; sums of chunks are added one after the other.
pub(super) const CHUNK: usize = 1024;

/// How far a logit lies below the most likely one, in units of the temperature: 0 or less.
#[inline]
pub(super) fn gap(logit: f32, max: f32, temperature: f32) -> f32 {
    // Subtracting first keeps the best at exactly 0, however small the temperature.
    (logit - max) / temperature
}

/// `e^x` of a gap within two units in the last place; exactly 1 at 0, and 0 below -87 and for NaN.
///
/// Source: the range reduction and polynomial of `expf` in the Cephes library.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding and taking away 1.5·2²³ rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let inside = if x >= -87.0 { x } else { -87.0 };
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with trailing zeros, so that the product with n is exact.
    let r = inside - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x >= -87.0 { p * power } else { 0.0 }
}

/// The sum in eight lanes of double precision, added in order.
pub(super) fn sum(values: &[f32]) -> f64 {
    let (octets, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0_f64; 8];
    for octet in octets {
        for (lane, &value) in lanes.iter_mut().zip(octet) {
            *lane += f64::from(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(value);
    }
    lanes.iter().sum()
}

/// The sum of all chunks' sums.
pub(super) fn sum_of_chunks(values: &[f32]) -> f64 {
    values.chunks(CHUNK).map(sum).sum()
}

/// The weight `e^gap` of every logit; dividing by their sum makes them probabilities.
pub(super) fn weights_into(logits: &[f32], max: f32, temperature: f32, weights: &mut Vec<f32>) {
    weights.resize(logits.len(), 0.0);
    for (weight, &logit) in weights.iter_mut().zip(logits) {
        *weight = exp(gap(logit, max, temperature));
    }
}

/// The natural logarithm of the sum of `e^(logit - max)`.
pub(super) fn log_partition(logits: &[f32], max: f32) -> f64 {
    let mut weights = [0.0; CHUNK];
    let mut total = 0.0;
    for chunk in logits.chunks(CHUNK) {
        let weights = &mut weights[..chunk.len()];
        for (weight, &logit) in weights.iter_mut().zip(chunk) {
            *weight = exp(logit - max);
        }
        total += sum(weights);
    }
    total.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_two_units_in_the_last_place() {
        for i in 0..=870_000 {
            let x = i as f32 * -1e-4;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / exact - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "exp({x}) = {found}, not {exact}");
        }
    }

    #[test]
    fn exp_of_extremes() {
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        assert_eq!(exp(-0.0).to_bits(), 1.0_f32.to_bits());
        for x in [-87.1, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp(x).to_bits(), 0.0_f32.to_bits(), "{x}");
        }
    }
}
