//! The rule in double precision, by definition, with a note where rounding decides.

use nxd_ops::philox::{Purpose, philox};
use nxd_ops::{SamplingParams, SamplingRow};

/// Sums closer to a border than this are not compared.
const MARGIN: f64 = 1e-4;

/// What a row may draw.
pub(super) struct Reference {
    /// The tokens and their probabilities, in the order in which the random number runs over them.
    pub(super) kept: Vec<(u32, f64)>,
    /// Whether a filter's border is so close that rounding decides.
    pub(super) is_close: bool,
}

/// The tokens left of `logits`, which are sound and penalised; only of the `candidates` likeliest where that is given.
pub(super) fn kept(logits: &[f32], params: &SamplingParams, candidates: Option<usize>) -> Reference {
    let SamplingParams { temperature, top_k, top_p, min_p, typical_p, .. } = *params;
    let mut is_close = false;
    let mut near = |a: f64, b: f64| is_close |= (a - b).abs() < MARGIN * b.abs().max(1e-3);
    let mut ids: Vec<u32> = (0..logits.len() as u32).filter(|&id| logits[id as usize] > f32::NEG_INFINITY).collect();
    ids.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap());
    ids.truncate(candidates.unwrap_or(ids.len()));
    let max = f64::from(logits[ids[0] as usize]);
    let gap = |id: u32| (f64::from(logits[id as usize]) - max) / f64::from(temperature);
    let weight = |id: u32| gap(id).exp();
    if top_k > 0 && (top_k as usize) < ids.len() {
        let floor = logits[ids[top_k as usize - 1] as usize];
        ids.retain(|&id| logits[id as usize] >= floor);
    }
    if top_p < 1.0 {
        let target = f64::from(top_p) * ids.iter().map(|&id| weight(id)).sum::<f64>();
        let mut sum = 0.0;
        let reached = ids.iter().position(|&id| {
            sum += weight(id);
            near(sum, target);
            sum >= target
        });
        ids.truncate(reached.unwrap_or(ids.len() - 1) + 1);
    }
    if min_p > 0.0 {
        let least = f64::from(min_p.min(1.0));
        ids.iter().filter(|&&id| id != ids[0]).for_each(|&id| near(weight(id), least));
        ids.retain(|&id| weight(id) >= least);
    }
    if typical_p < 1.0 {
        let total: f64 = ids.iter().map(|&id| weight(id)).sum();
        let surprise = |id: u32| total.ln() - gap(id);
        let entropy: f64 = ids.iter().map(|&id| weight(id) / total * surprise(id)).sum();
        let distance = |id: u32| (surprise(id) - entropy).abs();
        let mut by_distance = ids.clone();
        by_distance.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
        let target = f64::from(typical_p) * total;
        let mut sum = 0.0;
        let reached = by_distance.iter().position(|&id| {
            sum += weight(id);
            near(sum, target);
            sum >= target
        });
        let farthest = distance(by_distance[reached.unwrap_or(ids.len() - 1)]);
        // Tokens on both sides of the entropy may seem equally far.
        let others = ids.iter().map(|&id| distance(id)).filter(|d| d.to_bits() != farthest.to_bits());
        others.for_each(|d| near(d + 1.0, farthest + 1.0));
        ids.retain(|&id| distance(id) <= farthest);
    }
    if candidates.is_none() {
        ids.sort_unstable();
    }
    let total: f64 = ids.iter().map(|&id| weight(id)).sum();
    // Weights that f32 does not tell from 0 are not drawn.
    let kept = ids.iter().map(|&id| (id, weight(id) / total)).filter(|&(id, _)| gap(id) > -87.0).collect();
    Reference { kept, is_close }
}

/// The token on which the row's number falls; `None` when that is within rounding of a border.
pub(super) fn drawn(reference: &Reference, row: &SamplingRow) -> Option<u32> {
    let number = number(row);
    let mut sum = 0.0;
    for &(id, probability) in &reference.kept {
        let before = sum;
        sum += probability;
        if number < sum - MARGIN {
            return (number > before + MARGIN || before <= 0.0).then_some(id);
        }
        if number < sum + MARGIN {
            return None;
        }
    }
    None
}

/// The row's number with 24 bits.
pub(super) fn number(row: &SamplingRow) -> f64 {
    let seed = row.params.seed;
    let [first, ..] = philox([row.choice, row.position, Purpose::Draw as u32, 0], [seed as u32, (seed >> 32) as u32]);
    f64::from(first >> 8) / f64::from(1 << 24)
}

/// Logits after penalties, bias and mask, as the model's maths has them.
pub(super) fn adjusted(logits: &[f32], row: &SamplingRow) -> Vec<f32> {
    let params = &row.params;
    let mut adjusted = logits.to_vec();
    for (id, logit) in adjusted.iter_mut().enumerate() {
        let occurs = |tokens: &[u32]| tokens.iter().filter(|&&token| token as usize == id).count();
        let generated = occurs(row.history.get(row.generated_from..).unwrap_or_default());
        if generated > 0 {
            *logit -= generated as f32 * params.frequency_penalty + params.presence_penalty;
        }
        if occurs(&row.history) > 0 {
            let penalty = params.repetition_penalty;
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
        row.bias.iter().filter(|(token, _)| *token as usize == id).for_each(|(_, bias)| *logit += bias);
        if let Some(allowed) = &row.allowed
            && allowed.get(id / 32).is_none_or(|word| word >> (id % 32) & 1 == 0)
        {
            *logit = f32::NEG_INFINITY;
        }
    }
    adjusted
}

/// Natural logarithms of the probabilities of raw logits.
pub(super) fn logprobs(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let log_partition = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum::<f64>().ln();
    logits.iter().map(|&logit| f64::from(logit) - max - log_partition).collect()
}
