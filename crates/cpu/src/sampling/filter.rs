//! Which tokens may be drawn: top-k, top-p, min-p, typical, in this order.

use nxd_ops::SamplingParams;

use super::select::kth_largest;
use super::softmax::{exp, gap, sum_of_chunks, weights_into};

/// The tokens that the filters left, by rising id.
#[derive(Debug, Default)]
pub struct Kept {
    ids: Vec<u32>,
    /// Distance below the most likely logit over the temperature, at most 0.
    gaps: Vec<f32>,
    /// `e^gap`.
    weights: Vec<f32>,
}

/// Work space of [`Kept::filter`], part of which serves other selections too.
#[derive(Debug, Default)]
pub(super) struct FilterScratch {
    pub(super) above: Vec<f32>,
    weights: Vec<f32>,
    sums: Vec<f64>,
    pub(super) keys: Vec<u64>,
}

impl Kept {
    /// The tokens, by rising id.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What the tokens' probabilities are in proportion to.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The tokens' probabilities; they add up to 1.
    pub fn probabilities(&self) -> impl Iterator<Item = f64> {
        let total = sum_of_chunks(&self.weights);
        self.weights.iter().map(move |&weight| f64::from(weight) / total)
    }

    /// The entropy of the probabilities, in nats.
    pub fn entropy(&self) -> f64 {
        let total = sum_of_chunks(&self.weights);
        // A weight of 0 may belong to a gap of -∞, whose product would be NaN.
        let terms = self.weights.iter().zip(&self.gaps).filter(|(weight, _)| **weight > 0.0);
        total.ln() - terms.map(|(&weight, &gap)| f64::from(weight) * f64::from(gap)).sum::<f64>() / total
    }

    /// Keeps what `params` let through, at least one token. `max` is the largest logit; none is NaN or +∞; the temperature is above 0.
    pub(super) fn filter(&mut self, logits: &[f32], max: f32, params: &SamplingParams, scratch: &mut FilterScratch) {
        let SamplingParams { temperature, top_k, top_p, min_p, typical_p, .. } = *params;
        let min_p = min_p.min(1.0);
        let top_k = top_k as usize;
        let total = if top_k == 0 && (top_p < 1.0 || min_p > 0.0) {
            weights_into(logits, max, temperature, &mut scratch.weights);
            let total = sum_of_chunks(&scratch.weights);
            let enough = f64::from(top_p) * total;
            let heavy = if top_p < 1.0 { nucleus_floor(&scratch.weights, enough, &mut scratch.sums) } else { 0.0 };
            let least = min_p.max(heavy).max(f32::MIN_POSITIVE);
            let weights = &scratch.weights;
            self.collect(logits, max, temperature, |id, _| weights[id] >= least);
            total
        } else {
            let limited = top_k > 0 && top_k < logits.len();
            let floor = if limited { kth_largest(logits, top_k, &mut scratch.above) } else { f32::NEG_INFINITY };
            self.collect(logits, max, temperature, |_, logit| logit >= floor && logit > f32::NEG_INFINITY);
            sum_of_chunks(&self.weights)
        };
        if top_p < 1.0 {
            self.keep_nucleus(f64::from(top_p) * total, &mut scratch.keys);
        }
        if min_p > 0.0 {
            self.keep_where(|kept, i| kept.weights[i] >= min_p);
        }
        if typical_p < 1.0 {
            self.keep_typical(f64::from(typical_p), &mut scratch.keys);
        }
    }

    fn collect(&mut self, logits: &[f32], max: f32, temperature: f32, wanted: impl Fn(usize, f32) -> bool) {
        self.ids.clear();
        self.gaps.clear();
        self.ids.extend((0_u32..).zip(logits).filter(|&(id, &logit)| wanted(id as usize, logit)).map(|(id, _)| id));
        self.gaps.extend(self.ids.iter().map(|&id| gap(logits[id as usize], max, temperature)));
        self.weights.clear();
        self.weights.extend(self.gaps.iter().map(|&gap| exp(gap)));
    }

    /// Keeps the heaviest tokens up to the one with which their weights reach `target`; of equals the lower id first.
    fn keep_nucleus(&mut self, target: f64, keys: &mut Vec<u64>) {
        // Bits of positive numbers order as the numbers do.
        let key = |index: usize, weight: f32| u64::from(!weight.to_bits()) << 32 | index as u64;
        keys.clear();
        keys.extend(self.weights.iter().enumerate().map(|(i, &weight)| key(i, weight)));
        let last = self.reach(target, keys);
        self.keep_where(|kept, i| key(i, kept.weights[i]) <= last);
    }

    /// Keeps the tokens whose surprise is closest to the entropy, up to the one with which their probabilities reach `p`, and its equals.
    ///
    /// Source: Meister et al., "Locally typical sampling", arXiv:2202.00666, equation 8.
    fn keep_typical(&mut self, p: f64, keys: &mut Vec<u64>) {
        let total = sum_of_chunks(&self.weights);
        let (log_total, entropy) = (total.ln(), self.entropy());
        let distance = |gap: f32| (log_total - f64::from(gap) - entropy).abs() as f32;
        keys.clear();
        keys.extend((0_u64..).zip(&self.gaps).map(|(i, &gap)| u64::from(distance(gap).to_bits()) << 32 | i));
        let farthest = f32::from_bits((self.reach(p * total, keys) >> 32) as u32);
        self.keep_where(|kept, i| distance(kept.gaps[i]) <= farthest);
    }

    /// The key, in rising order, with which the weights at the keys' low halves reach `target`; the last if they never do.
    ///
    /// Sorts only as far as it must: the tokens that count are few among hundreds of thousands.
    fn reach(&self, target: f64, keys: &mut [u64]) -> u64 {
        let (mut rest, mut step) = (keys, 512);
        let (mut reached, mut last) = (0.0, 0);
        while !rest.is_empty() {
            let count = rest.len().min(step);
            if count < rest.len() {
                rest.select_nth_unstable(count);
            }
            let (next, after) = rest.split_at_mut(count);
            next.sort_unstable();
            for &key in next.iter() {
                last = key;
                reached += f64::from(self.weights[key as u32 as usize]);
                if reached >= target {
                    return last;
                }
            }
            (rest, step) = (after, step * 4);
        }
        last
    }

    /// Keeps the tokens at the indices that `wanted` accepts; it is asked in order.
    fn keep_where(&mut self, mut wanted: impl FnMut(&Self, usize) -> bool) {
        let mut count = 0;
        for i in 0..self.ids.len() {
            if wanted(self, i) {
                self.ids[count] = self.ids[i];
                self.gaps[count] = self.gaps[i];
                self.weights[count] = self.weights[i];
                count += 1;
            }
        }
        self.ids.truncate(count);
        self.gaps.truncate(count);
        self.weights.truncate(count);
    }
}

/// A weight such that the tokens at least as heavy surely reach `target`, if all together do: top-p need not look at the others.
///
/// Not much lower than it could be: weights are counted in classes an eighth of an octave wide.
fn nucleus_floor(weights: &[f32], target: f64, sums: &mut Vec<f64>) -> f32 {
    /// Leaves the exponent and three bits of the mantissa.
    const SHIFT: u32 = 20;
    sums.clear();
    // Weights are at most 1, so no class lies above that of 1.
    sums.resize((1.0_f32.to_bits() >> SHIFT) as usize + 1, 0.0);
    for &weight in weights {
        sums[(weight.to_bits() >> SHIFT) as usize] += f64::from(weight);
    }
    // More than enough, so that rounding cannot matter.
    let (target, mut reached) = (target * (1.0 + 1e-9), 0.0);
    for (class, &sum) in sums.iter().enumerate().rev() {
        reached += sum;
        if reached > target {
            return f32::from_bits((class as u32) << SHIFT);
        }
    }
    0.0
}
