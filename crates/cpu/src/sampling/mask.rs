//! Which tokens a grammar lets through.

/// Sets every logit to -∞ whose token's bit in `allowed` is not set; missing words forbid. NaN and +∞ stay: a broken row is not
/// mended by a mask.
///
/// # Shapes
/// `logits`: `[V]`. `allowed`: `[⌈V / 32⌉]`, token `t` in bit `t % 32` of word `t / 32`.
pub fn forbid_others(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 && *logit < f32::INFINITY {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_testkit::assert_bits;

    #[test]
    fn only_set_bits_pass() {
        let mut logits = [1.0; 70];
        forbid_others(&mut logits, &[1 << 31, 0b101, 1 << 5]);
        let passed: Vec<usize> = (0..70).filter(|&i| logits[i] > 0.0).collect();
        assert_eq!(passed, [31, 32, 34, 69]);
    }

    #[test]
    fn missing_words_forbid_and_more_than_needed_are_no_harm() {
        let mut logits = [1.0; 40];
        forbid_others(&mut logits, &[u32::MAX]);
        assert!(logits[..32].iter().all(|&logit| logit > 0.0) && logits[32..].iter().all(|&logit| logit < 0.0));
        let mut logits = [1.0, 2.0];
        forbid_others(&mut logits, &[0b10, 7, 7]);
        assert_bits(&logits, &[f32::NEG_INFINITY, 2.0], "masked");
    }

    #[test]
    fn what_is_not_finite_is_not_hidden() {
        let mut logits = [f32::NAN, f32::INFINITY, 0.0];
        forbid_others(&mut logits, &[]);
        assert!(logits[0].is_nan());
        assert_bits(&logits[1..], &[f32::INFINITY, f32::NEG_INFINITY], "masked");
    }
}
