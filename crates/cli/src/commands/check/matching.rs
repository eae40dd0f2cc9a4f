//! How near the logits of one position are to reference logits.
//!
//! The measure is that of NxD Inference's logit matching: logits are compared up to a constant, which a softmax does not see; of the most likely
//! 5, 50, 1000 and all tokens the errors may be larger the further down they lie; and where another token is the most likely one, it
//! must lead by next to nothing.

use serde::Serialize;

/// How many of the reference's most likely tokens, and the largest relative error allowed among them.
pub(super) const BOUNDS: [(usize, f32); 4] = [(5, 0.01), (50, 0.02), (1000, 0.03), (usize::MAX, 0.05)];
/// By how much another token than the reference's may lead.
pub(super) const DIVERGENCE: f32 = 0.001;

/// One position.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Position {
    /// Its index in the text.
    pub(super) position: usize,
    /// The largest error among the most likely 5, 50, 1000 and all tokens, by the largest magnitude among them.
    pub(super) errors: [f32; 4],
    /// By how much the most likely token leads the reference's.
    pub(super) divergence: f32,
    /// The same of the reference's other dtype, where there is one.
    pub(super) noise: Option<[f32; 4]>,
    /// Whether all of it is allowed.
    pub(super) ok: bool,
}

impl Position {
    /// Compares the logits `found` at a position with those of the reference, and these with the reference's in another dtype.
    pub(super) fn compare(position: usize, found: &[f32], expected: &[f32], other: Option<&[f32]>) -> Self {
        let errors = errors(found, expected);
        let noise = other.map(|other| self::errors(other, expected));
        let divergence = divergence(found, expected);
        let limits = |i: usize| noise.map_or(BOUNDS[i].1, |noise| noise[i].max(BOUNDS[i].1));
        let near = errors.iter().enumerate().all(|(i, error)| *error <= limits(i));
        let allowed = other.map_or(0.0, |other| self::divergence(other, expected)).max(DIVERGENCE);
        Position { position, errors, divergence, noise, ok: near && divergence <= allowed }
    }

    /// How far it is beyond what is allowed, at its worst; 1 is the bound itself.
    pub(super) fn badness(&self) -> f32 {
        let of_errors = self.errors.iter().zip(BOUNDS).map(|(error, (_, bound))| error / bound);
        let all = of_errors.chain([self.divergence / DIVERGENCE]);
        all.fold(0.0, |worst, bad| if bad.is_nan() || bad > worst { bad } else { worst })
    }
}

/// The errors of [`Position::errors`]; NaN where a logit is.
fn errors(found: &[f32], expected: &[f32]) -> [f32; 4] {
    let mut order: Vec<usize> = (0..expected.len()).collect();
    order.sort_by(|&a, &b| expected[b].total_cmp(&expected[a]));
    let differences = found.iter().zip(expected).map(|(found, expected)| f64::from(found - expected));
    let shift = (differences.sum::<f64>() / expected.len().max(1) as f64) as f32;
    BOUNDS.map(|(count, _)| {
        let (mut worst, mut size) = (0.0_f32, f32::MIN_POSITIVE);
        for &token in order.iter().take(count) {
            let error = (found[token] - shift - expected[token]).abs();
            worst = if error.is_nan() || error > worst { error } else { worst };
            size = size.max(expected[token].abs());
        }
        worst / size
    })
}

/// By how much the most likely token leads the one that the reference has.
fn divergence(found: &[f32], expected: &[f32]) -> f32 {
    let best = |logits: &[f32]| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
    match (best(found), best(expected)) {
        (Some(ours), Some(theirs)) => found[ours] - found[theirs],
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_is_no_error_and_a_bound_holds_for_its_tokens() {
        let expected: Vec<f32> = (0..2000).map(|i| 10.0 - i as f32 * 0.01).collect();
        let shifted: Vec<f32> = expected.iter().map(|logit| logit + 3.0).collect();
        assert!(Position::compare(0, &shifted, &expected, None).ok);
        let mut far = expected.clone();
        far[1500] += 0.3;
        assert!(Position::compare(0, &far, &expected, None).ok, "the last tokens may be further off");
        let mut near = expected.clone();
        near[2] += 0.3;
        let found = Position::compare(7, &near, &expected, None);
        assert!(!found.ok && found.divergence > 0.27 && found.errors[0] > 0.02, "{found:?}");
        assert!(found.badness() > 100.0);
    }

    #[test]
    fn the_noise_of_the_reference_is_allowed_and_nan_is_not() {
        let expected = vec![1.0, 0.9995, 0.0];
        let noisy = vec![0.97, 0.98, 0.0];
        assert!(!Position::compare(0, &noisy, &expected, None).ok);
        assert!(Position::compare(0, &noisy, &expected, Some(&noisy)).ok);
        let nan = Position::compare(0, &[1.0, f32::NAN, 0.0], &expected, Some(&noisy));
        assert!(!nan.ok && nan.badness().is_nan());
    }
}
