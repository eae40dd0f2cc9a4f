//! Speculative sampling: the accepted and replaced tokens are distributed as the target's own.
//!
//! Source: Leviathan, Kalman, Matias, arXiv:2211.17192, section 2.3 and appendix A.1.

/// The probability with which a token proposed by a draft is accepted: `min(1, target / draft)`.
pub fn acceptance(target: f64, draft: f64) -> f64 {
    // Also when the draft cannot propose the token.
    if target >= draft { 1.0 } else { target / draft }
}

/// The probability that a token which the draft draws is accepted: the sum of the smaller probabilities.
///
/// # Shapes
/// `target`, `draft`: probabilities, `[V]`.
pub fn expected_acceptance(target: &[f64], draft: &[f64]) -> f64 {
    target.iter().zip(draft).map(|(target, draft)| target.min(*draft)).sum()
}

/// The distribution that replaces a rejected token: what the target has more than the draft, scaled to 1.
///
/// Where the draft has everything, nothing can be rejected; the target's own distribution stands in for 0 / 0.
///
/// # Shapes
/// `target`, `draft`, `residual`: probabilities, `[V]`.
pub fn residual_into(target: &[f64], draft: &[f64], residual: &mut [f64]) {
    for ((residual, target), draft) in residual.iter_mut().zip(target).zip(draft) {
        *residual = (target - draft).max(0.0);
    }
    let total: f64 = residual.iter().sum();
    if total > 0.0 {
        residual.iter_mut().for_each(|residual| *residual /= total);
    } else {
        residual.copy_from_slice(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_and_replaced_tokens_follow_the_target() {
        let (target, draft) = ([0.5, 0.25, 0.25, 0.0], [0.125, 0.5, 0.0, 0.375]);
        let mut residual = [0.0; 4];
        residual_into(&target, &draft, &mut residual);
        let rejected = 1.0 - expected_acceptance(&target, &draft);
        for i in 0..4 {
            let drawn = draft[i] * acceptance(target[i], draft[i]) + rejected * residual[i];
            assert!((drawn - target[i]).abs() < 1e-15, "token {i}: {drawn}");
        }
    }

    #[test]
    fn a_draft_like_the_target_leaves_its_distribution() {
        let mut residual = [7.0; 2];
        residual_into(&[0.25, 0.75], &[0.25, 0.75], &mut residual);
        assert_eq!(residual.map(f64::to_bits), [0.25, 0.75].map(f64::to_bits));
    }
}
