//! What a router is to compute: in double precision, row by row, as its definition reads.

use super::reference::Rows;
use crate::experts::{GroupWorth, RouterSpec, Score, TopKRouter};

/// The affinities of each row of `logits`; `correction` has a value for each expert, or none.
pub(super) fn route(logits: &Rows, spec: &RouterSpec, correction: &[f64]) -> Rows {
    let row = |logits: &Vec<f64>| match spec {
        RouterSpec::TopK(spec) => best(logits, spec, correction),
        RouterSpec::Sparsemixer { jitter } => sparsemixer(logits, 2.0 * f64::from(*jitter)),
    };
    logits.iter().map(row).collect()
}

fn best(logits: &[f64], spec: &TopKRouter, correction: &[f64]) -> Vec<f64> {
    let scores: Vec<f64> = match spec.score {
        Score::Softmax => softmax(logits),
        Score::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
    };
    let mut worth: Vec<f64> = match correction {
        [] => scores.clone(),
        correction => scores.iter().zip(correction).map(|(score, correction)| score + correction).collect(),
    };
    if let Some(groups) = spec.groups {
        let len = worth.len() / groups.count;
        let of_group = |group: &[f64]| -> f64 {
            let mut sorted = group.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted.iter().take(if groups.worth == GroupWorth::Best { 1 } else { 2 }).sum()
        };
        let kept = largest(&worth.chunks(len).map(of_group).collect::<Vec<_>>(), groups.top);
        for (expert, worth) in worth.iter_mut().enumerate() {
            if !kept.contains(&(expert / len)) {
                *worth = f64::NEG_INFINITY;
            }
        }
    }
    let chosen = largest(&worth, spec.top_k);
    let sum = if spec.normalise { chosen.iter().map(|&expert| scores[expert]).sum() } else { 1.0 };
    let affinity = |expert| scores[expert] / sum * f64::from(spec.scale);
    (0..logits.len()).map(|expert| if chosen.contains(&expert) { affinity(expert) } else { 0.0 }).collect()
}

fn sparsemixer(logits: &[f64], share: f64) -> Vec<f64> {
    let (mut left, mut affinities) = (logits.to_vec(), vec![0.0; logits.len()]);
    for _ in 0..2 {
        let chosen = largest(&left, 1)[0];
        let best = left[chosen];
        let is_close = |x: f64| (best - x) / x.abs().max(best) <= share;
        let close = left.iter().map(|&x| if is_close(x) { x } else { f64::NEG_INFINITY }).collect::<Vec<_>>();
        affinities[chosen] = softmax(&close)[chosen];
        left[chosen] = f64::NEG_INFINITY;
    }
    affinities
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The places of the `count` largest values, of equals the first ones.
fn largest(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::RouterGroups;

    fn near(found: &[f64], expected: &[f64]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9)
    }

    #[test]
    fn a_group_that_is_not_chosen_gives_no_expert() {
        let groups = RouterGroups { count: 2, top: 1, worth: GroupWorth::BestTwo };
        let spec = TopKRouter { normalise: true, ..TopKRouter::new(Score::Sigmoid, 2) };
        // 0.5 + 0.73 is more than 0.9999 + 0.0001, and 0.73 is less than 0.9999.
        let logits = [9.0, -9.0, 0.0, 1.0];
        let best_of =
            |worth| best(&logits, &TopKRouter { groups: Some(RouterGroups { worth, ..groups }), ..spec }, &[]);
        let sigmoid = 1.0 / (1.0 + (-1.0_f64).exp());
        let sum = sigmoid + 0.5;
        assert!(near(&best_of(GroupWorth::BestTwo), &[0.0, 0.0, 0.5 / sum, sigmoid / sum]));
        assert!(best_of(GroupWorth::Best)[0] > 0.99);
    }

    #[test]
    fn sparsemixer_weighs_against_what_is_close_and_left() {
        let found = sparsemixer(&[1.0, 4.0, 3.99, 3.985], 0.02);
        let shares = softmax(&[4.0, 3.99, 3.985]);
        assert!(near(&found, &[0.0, shares[0], softmax(&[3.99, 3.985])[0], 0.0]), "{found:?}");
    }
}
