//! What a request adds to the logits of single tokens.

/// Adds each bias to the logit of its token, one after the other, so that a token which is listed twice gets both. Tokens outside the
/// vocabulary are passed over. Biases are finite, so NaN and infinities stay what they are.
///
/// # Shapes
/// `logits`: `[V]`.
pub fn add(logits: &mut [f32], biases: &[(u32, f32)]) {
    for &(token, bias) in biases {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_testkit::assert_bits;

    #[test]
    fn biases_add_up_in_their_order_and_mend_nothing() {
        let mut logits = [1.0, 2.0, f32::NEG_INFINITY, f32::NAN, f32::INFINITY];
        add(
            &mut logits,
            &[(1, 1e8), (0, -3.0), (1, -1e8), (2, 100.0), (3, 100.0), (4, -100.0), (5, 1.0), (u32::MAX, 1.0)],
        );
        assert!(logits[3].is_nan());
        logits[3] = 0.0;
        // The first bias rounds the 2 away, and the second takes it back.
        assert_bits(&logits, &[-2.0, 0.0, f32::NEG_INFINITY, 0.0, f32::INFINITY], "biased");
    }
}
