//! Routers: from a row's logits to the affinities of the experts that it chooses.

use super::cut::cut;
use super::exp::{exp, sigmoid};
use super::lanes::{Kernel, LANES, Lanes, dispatch};
use crate::isa::Isa;
use crate::team::{Disjoint, Team};
use nxd_ops::{GroupWorth, RouterGroups, RouterSpec, Score, TopKRouter};

/// Values of work space that a row takes, in rows of logits.
pub const WORK_ROWS: usize = 2;

/// A router and its weights.
#[derive(Clone, Copy)]
pub struct Router<'a> {
    /// How it chooses.
    pub spec: &'a RouterSpec,
    /// A value for each expert, where the router has one.
    pub correction: Option<&'a [f32]>,
    /// Columns of logits and affinities.
    pub num_experts: usize,
}

/// Affinities of rows of `logits`, `[rows, num_experts]` as `out`. A row's bits depend on the row alone; sums run along the experts. `work`
/// has [`WORK_ROWS`] times the values of `logits`.
///
/// # Panics
/// If lengths differ, or groups do not divide the experts.
pub fn route(team: &Team, isa: Isa, logits: &[f32], router: Router<'_>, out: &mut [f32], work: &mut [f32]) {
    let Router { spec, correction, num_experts } = router;
    assert_eq!(logits.len(), out.len(), "an affinity for each logit");
    assert_eq!(work.len(), WORK_ROWS * logits.len(), "work space for each logit");
    assert!(correction.is_none_or(|correction| correction.len() == num_experts), "a correction for each expert");
    if num_experts == 0 {
        return;
    }
    let rows = logits.len() / num_experts;
    let (out, work) = (Disjoint::new(out), Disjoint::new(work));
    // Exponentials, and a comparison for each expert that is chosen.
    cut(team, rows, 1, 16 * logits.len(), |part| {
        for row in part {
            let values = row * num_experts..(row + 1) * num_experts;
            // SAFETY: the rows of members do not overlap.
            let (out, work) =
                unsafe { (out.slice(values.clone()), work.slice(WORK_ROWS * values.start..WORK_ROWS * values.end)) };
            dispatch(isa, Route { logits: &logits[values], spec, correction, out, work });
        }
    });
}

struct Route<'a> {
    logits: &'a [f32],
    spec: &'a RouterSpec,
    correction: Option<&'a [f32]>,
    out: &'a mut [f32],
    work: &'a mut [f32],
}

impl Kernel for Route<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, zero: L) {
        let (worth, scores) = self.work.split_at_mut(self.logits.len());
        self.out.fill(0.0);
        match self.spec {
            RouterSpec::TopK(spec) => {
                scores.copy_from_slice(self.logits);
                match spec.score {
                    Score::Softmax => softmax(zero, scores),
                    Score::Sigmoid => sigmoids(zero, scores),
                }
                best(spec, self.logits, scores, self.correction, worth, self.out);
            }
            RouterSpec::Sparsemixer { jitter } => {
                worth.copy_from_slice(self.logits);
                for _ in 0..worth.len().min(2) {
                    let chosen = largest(worth);
                    scores.copy_from_slice(worth);
                    let best = worth[chosen];
                    for score in scores.iter_mut() {
                        if (best - *score) / best.max(score.abs()) > 2.0 * jitter {
                            *score = f32::NEG_INFINITY;
                        }
                    }
                    softmax(zero, scores);
                    self.out[chosen] = scores[chosen];
                    worth[chosen] = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Writes the affinities of the best experts.
#[inline(always)]
fn best(
    spec: &TopKRouter,
    logits: &[f32],
    scores: &[f32],
    correction: Option<&[f32]>,
    worth: &mut [f32],
    out: &mut [f32],
) {
    match correction {
        Some(correction) => {
            worth
                .iter_mut()
                .zip(scores)
                .zip(correction)
                .for_each(|((worth, score), correction)| *worth = score + correction);
        }
        // Sums of scores are no sums of logits.
        None if spec.groups.is_some_and(|groups| groups.worth == GroupWorth::BestTwo) => worth.copy_from_slice(scores),
        // The same order, in which scores that are rounded to the same number still differ.
        None => worth.copy_from_slice(logits),
    }
    if let Some(groups) = &spec.groups {
        keep_groups(groups, worth, out);
    }
    let mut sum = 0.0;
    for _ in 0..spec.top_k.min(worth.len()) {
        let chosen = largest(worth);
        worth[chosen] = f32::NEG_INFINITY;
        out[chosen] = scores[chosen];
    }
    if spec.normalise {
        // Along the experts, as what they make is summed.
        out.iter().for_each(|affinity| sum += affinity);
        out.iter_mut().filter(|affinity| **affinity != 0.0).for_each(|affinity| *affinity /= sum);
    }
    out.iter_mut().for_each(|affinity| *affinity *= spec.scale);
}

/// Makes experts outside of the best groups worth less than any. `work` is left as zeros.
#[inline(always)]
fn keep_groups(groups: &RouterGroups, worth: &mut [f32], work: &mut [f32]) {
    assert!(groups.count > 0 && worth.len().is_multiple_of(groups.count), "{} experts in {groups:?}", worth.len());
    let len = worth.len() / groups.count;
    let of_groups = &mut work[..groups.count];
    for (of_group, group) in of_groups.iter_mut().zip(worth.chunks_exact(len)) {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &value in group {
            (first, second) = if value > first { (value, first) } else { (first, second.max(value)) };
        }
        *of_group = match groups.worth {
            GroupWorth::BestTwo if len > 1 => first + second,
            GroupWorth::BestTwo | GroupWorth::Best => first,
        };
    }
    for _ in 0..groups.count.saturating_sub(groups.top) {
        // Of equal groups the first is kept, so the last goes.
        let mut smallest = 0;
        for (group, of_group) in of_groups.iter().enumerate() {
            if *of_group <= of_groups[smallest] {
                smallest = group;
            }
        }
        of_groups[smallest] = f32::INFINITY;
        worth[smallest * len..(smallest + 1) * len].fill(f32::NEG_INFINITY);
    }
    of_groups.fill(0.0);
}

/// The place of the largest value, of equals the first.
#[inline(always)]
fn largest(values: &[f32]) -> usize {
    let (mut place, mut most) = (0, f32::NEG_INFINITY);
    for (i, &value) in values.iter().enumerate() {
        if value > most {
            (place, most) = (i, value);
        }
    }
    place
}

/// Each value's share of the sum of their exponentials.
#[inline(always)]
fn softmax<L: Lanes>(zero: L, values: &mut [f32]) {
    let most = values[largest(values)];
    let top = zero.splat(most);
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        exp(zero.load(chunk) - top).store(chunk);
    }
    if !rest.is_empty() {
        exp(zero.load_part(rest) - top).store_part(rest);
    }
    let mut sum = 0.0;
    values.iter().for_each(|value| sum += value);
    values.iter_mut().for_each(|value| *value /= sum);
}

#[inline(always)]
fn sigmoids<L: Lanes>(zero: L, values: &mut [f32]) {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        sigmoid(zero.load(chunk)).store(chunk);
    }
    if !rest.is_empty() {
        sigmoid(zero.load_part(rest)).store_part(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(isa: Isa, threads: usize, logits: &[f32], num_experts: usize, spec: &RouterSpec) -> Vec<f32> {
        let (mut out, mut work) = (vec![f32::NAN; logits.len()], vec![f32::NAN; WORK_ROWS * logits.len()]);
        let correction: Vec<f32> = (0..num_experts).map(|i| (i as f32).sin()).collect();
        let corrected = matches!(spec, RouterSpec::TopK(TopKRouter { correction: Some(_), .. }));
        let router = Router { spec, correction: corrected.then_some(&correction), num_experts };
        route(&Team::new(threads), isa, logits, router, &mut out, &mut work);
        out
    }

    fn specs() -> [RouterSpec; 4] {
        let groups = Some(RouterGroups { count: 4, top: 2, worth: GroupWorth::BestTwo });
        let sigmoid = TopKRouter { normalise: true, scale: 2.5, ..TopKRouter::new(Score::Sigmoid, 6) };
        [
            RouterSpec::TopK(TopKRouter::new(Score::Softmax, 3)),
            RouterSpec::TopK(TopKRouter { groups, ..sigmoid }),
            RouterSpec::TopK(TopKRouter { groups, correction: Some(nxd_ops::Weight(0)), ..sigmoid }),
            RouterSpec::Sparsemixer { jitter: 0.3 },
        ]
    }

    #[test]
    fn every_isa_and_team_has_the_bits_of_a_row_on_its_own() {
        for (num_experts, rows) in [(4, 3), (20, 1), (36, 301)] {
            let logits: Vec<f32> = (0..rows * num_experts).map(|i| (i as f32 * 0.77).sin() * 5.0).collect();
            for spec in specs() {
                let alone = |row: &[f32]| run(Isa::Scalar, 1, row, num_experts, &spec);
                let expected: Vec<f32> = logits.chunks(num_experts).flat_map(alone).collect();
                for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                    let found = run(isa, threads, &logits, num_experts, &spec);
                    assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{spec:?} {isa}");
                }
            }
        }
    }

    #[test]
    fn a_row_that_is_not_a_number_has_such_affinities_and_chooses_something() {
        for spec in specs() {
            let found = run(Isa::detect(), 1, &[f32::NAN; 8], 8, &spec);
            assert!(found.iter().any(|affinity| affinity.is_nan()), "{spec:?}: {found:?}");
        }
    }
}
