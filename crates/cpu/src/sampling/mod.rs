//! Drawing tokens: a row's logits and parameters to a token, whatever other rows are drawn beside it.
//!
//! Order: penalties, bias, mask, temperature, top-k, top-p, min-p, typical, draw. Every sum has one order, so the token depends on the row
//! alone. Reading order: [`penalties`], [`bias`], [`mask`], [`filter`], [`speculation`].

pub mod bias;
pub mod filter;
pub mod mask;
pub mod penalties;
mod select;
mod softmax;
pub mod speculation;

use filter::{FilterScratch, Kept};
use nxd_ops::philox::{Purpose, uniform};
use nxd_ops::{Drawn, SamplingParams, SamplingRow, TokenLogprob};
use select::{largest, peak};
use softmax::{CHUNK, log_partition, sum, weights_into};

/// Work space of [`draw_row`]: after the first rows nothing is allocated but the log-probabilities that are handed out.
#[derive(Debug, Default)]
pub struct SamplingScratch {
    adjusted: Vec<f32>,
    counts: Vec<u32>,
    weights: Vec<f32>,
    sums: Vec<f64>,
    kept: Kept,
    filter: FilterScratch,
}

/// What a greedy draw comes to when it is written as a filter.
const ONE_TOKEN: SamplingParams = SamplingParams {
    temperature: 1.0,
    top_k: 0,
    top_p: 0.0,
    min_p: 0.0,
    typical_p: 1.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    seed: 0,
};

/// Draws one row's token.
///
/// A temperature of 0 (or none above it) takes the largest logit, of equals the lowest id. Else the token is where a random number
/// falls when the probabilities of the kept tokens are laid side by side by rising id. A row with a target draws nothing and gives that.
///
/// # Shapes
/// `logits`: `[V]`. -∞ forbids a token; NaN, +∞ or nothing finite that is allowed gives [`Drawn::NotFinite`].
pub fn draw_row(logits: &[f32], row: &SamplingRow, scratch: &mut SamplingScratch) -> Drawn {
    let id = if let Some(target) = row.target {
        peak(logits).and((logits.len() > target as usize).then_some(target))
    } else if row.params.uses_history() || !row.bias.is_empty() || row.allowed.is_some() {
        let mut adjusted = std::mem::take(&mut scratch.adjusted);
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        if row.params.uses_history() {
            penalties::penalise(&mut adjusted, row, &mut scratch.counts);
        }
        bias::add(&mut adjusted, &row.bias);
        if let Some(allowed) = &row.allowed {
            mask::forbid_others(&mut adjusted, allowed);
        }
        let id = draw(&adjusted, row, scratch);
        scratch.adjusted = adjusted;
        id
    } else {
        draw(logits, row, scratch)
    };
    let drawn = id.and_then(|id| {
        let logprobs = match row.logprobs {
            Some(count) => logprobs(logits, count as usize, id, scratch)?,
            None => Vec::new(),
        };
        Some(Drawn::Token { id, logprobs })
    });
    drawn.unwrap_or(Drawn::NotFinite)
}

/// The tokens that temperature and filters of `params` leave, with their weights; `None` when no token can be drawn.
///
/// # Shapes
/// `logits`: `[V]`, penalties applied.
pub fn keep<'s>(logits: &[f32], params: &SamplingParams, scratch: &'s mut SamplingScratch) -> Option<&'s Kept> {
    let peak = peak(logits)?;
    if is_greedy(params) {
        scratch.kept.filter(logits, peak.logit, &ONE_TOKEN, &mut scratch.filter);
    } else {
        scratch.kept.filter(logits, peak.logit, params, &mut scratch.filter);
    }
    Some(&scratch.kept)
}

/// The most likely tokens of the raw logits, best first, among equals the lower id first; then `drawn` if it is not one of them.
///
/// # Shapes
/// `logits`: `[V]`, as the model gave them. `None` when they are not finite.
pub fn logprobs(logits: &[f32], count: usize, drawn: u32, scratch: &mut SamplingScratch) -> Option<Vec<TokenLogprob>> {
    let max = peak(logits)?.logit;
    let log_partition = log_partition(logits, max);
    let of = |id: u32| {
        let gap = f64::from(*logits.get(id as usize)?) - f64::from(max);
        Some(TokenLogprob { id, logprob: (gap - log_partition) as f32 })
    };
    let FilterScratch { above, keys, .. } = &mut scratch.filter;
    largest(logits, count, above, keys);
    let mut best: Vec<TokenLogprob> = keys.iter().filter_map(|&key| of(key as u32)).collect();
    if best.iter().all(|token| token.id != drawn) {
        best.extend(of(drawn));
    }
    Some(best)
}

/// A token of penalised, biased and masked logits.
fn draw(logits: &[f32], row: &SamplingRow, scratch: &mut SamplingScratch) -> Option<u32> {
    let params = &row.params;
    let peak = peak(logits)?;
    if is_greedy(params) {
        return Some(peak.id);
    }
    let number = uniform(params.seed, row.choice, row.position, Purpose::Draw);
    if params.top_k == 0 && params.top_p >= 1.0 && params.min_p <= 0.0 && params.typical_p >= 1.0 {
        weights_into(logits, peak.logit, params.temperature, &mut scratch.weights);
        return Some(pick(&scratch.weights, number, &mut scratch.sums) as u32);
    }
    scratch.kept.filter(logits, peak.logit, params, &mut scratch.filter);
    let at = pick(scratch.kept.weights(), number, &mut scratch.sums);
    Some(scratch.kept.ids()[at])
}

/// Whether the largest logit is taken; so also for a temperature that is no number.
fn is_greedy(params: &SamplingParams) -> bool {
    params.temperature <= 0.0 || params.temperature.is_nan()
}

/// The index at which the running sum of `weights` passes `number` times their total; always one that has a weight.
fn pick(weights: &[f32], number: f64, sums: &mut Vec<f64>) -> usize {
    sums.clear();
    sums.extend(weights.chunks(CHUNK).map(sum));
    let target = number * sums.iter().sum::<f64>();
    let mut passed = 0.0;
    for (chunk, (weights, &sum)) in weights.chunks(CHUNK).zip(sums.iter()).enumerate() {
        if passed + sum <= target {
            passed += sum;
            continue;
        }
        for (i, &weight) in weights.iter().enumerate() {
            passed += f64::from(weight);
            if passed > target && weight > 0.0 {
                return chunk * CHUNK + i;
            }
        }
    }
    // Rounding left the target unpassed, so it lies at the very end.
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}
