//! Mixtures of experts in their static form: every expert multiplies every row, and what a row did not choose is left out.

use super::Tracer;
use crate::record::{Element, Fold, Order, Value};
use crate::target::top_k;
use nxd_ops::{ExpertsSpec, GroupWorth, Projection, RouterGroups, RouterSpec, Score, TopKRouter, Weighing};

impl Tracer<'_> {
    /// The affinities of router logits `[rows, X]`, in f32.
    pub(super) fn affinities(&mut self, logits: &Value, spec: &RouterSpec) -> Value {
        let logits = self.f32(logits);
        match spec {
            RouterSpec::TopK(spec) => self.best(&logits, spec),
            RouterSpec::Sparsemixer { jitter } => self.sparsemixer(&logits, 2.0 * jitter),
        }
    }

    fn best(&mut self, logits: &Value, spec: &TopKRouter) -> Value {
        let scores = match spec.score {
            Score::Softmax => self.softmax(logits),
            Score::Sigmoid => self.b.rec.logistic(logits),
        };
        let mut worth = match spec.correction {
            Some(correction) => {
                let correction = self.vector(correction);
                let correction = self.b.rec.broadcast(&correction, &[1], scores.dims());
                self.b.rec.add(&scores, &correction)
            }
            // Sums of scores are no sums of logits; else logits have the same order, in which no two are rounded to one number.
            None if spec.groups.is_some_and(|groups| groups.worth == GroupWorth::BestTwo) => scores.clone(),
            None => logits.clone(),
        };
        if let Some(groups) = &spec.groups {
            let kept = self.in_best_groups(&worth, groups);
            let least = self.b.rec.splat(f64::NEG_INFINITY, worth.dims(), Element::F32);
            worth = self.b.rec.select(&kept, &worth, &least);
        }
        let chosen = self.are_largest(&worth, spec.top_k);
        let rec = &mut self.b.rec;
        let zeros = rec.splat(0.0, scores.dims(), Element::F32);
        let mut affinities = rec.select(&chosen, &scores, &zeros);
        if spec.normalise {
            let sums = rec.reduce_keep(&affinities, Fold::Add, 1);
            let shares = rec.divide(&affinities, &sums);
            affinities = rec.select(&chosen, &shares, &zeros);
        }
        rec.scale(&affinities, spec.scale)
    }

    /// Whether each expert is in one of the best groups, `[rows, X]`.
    fn in_best_groups(&mut self, worth: &Value, groups: &RouterGroups) -> Value {
        let [rows, experts] = [worth.dims()[0], worth.dims()[1]];
        let len = experts / groups.count;
        let by_group = self.b.rec.reshape(worth, &[rows * groups.count, len]);
        let of_groups = match groups.worth {
            GroupWorth::BestTwo if len > 1 => {
                let (two, _) = top_k(&mut self.b.rec, self.setting.target, &by_group, 2);
                self.b.rec.reduce(&two, Fold::Add, 1)
            }
            GroupWorth::BestTwo | GroupWorth::Best => self.b.rec.reduce(&by_group, Fold::Max, 1),
        };
        let of_groups = self.b.rec.reshape(&of_groups, &[rows, groups.count]);
        let kept = self.are_largest(&of_groups, groups.top);
        let kept = self.b.rec.broadcast(&kept, &[0, 1], &[rows, groups.count, len]);
        self.b.rec.reshape(&kept, &[rows, experts])
    }

    /// Whether each value is among the `count` largest of its row, of equals the first.
    fn are_largest(&mut self, values: &Value, count: usize) -> Value {
        let [rows, columns] = [values.dims()[0], values.dims()[1]];
        let (_, places) = top_k(&mut self.b.rec, self.setting.target, values, count.min(columns));
        let rec = &mut self.b.rec;
        let all = [rows, places.dims()[1], columns];
        let places = rec.broadcast(&places, &[0, 1], &all);
        let column = rec.iota(2, &all, Element::I32);
        let is_place = rec.compare(Order::Eq, &places, &column);
        rec.reduce(&is_place, Fold::Or, 1)
    }

    fn softmax(&mut self, logits: &Value) -> Value {
        let rec = &mut self.b.rec;
        let most = rec.reduce_keep(logits, Fold::Max, 1);
        let below = rec.subtract(logits, &most);
        let weights = rec.exponential(&below);
        let sums = rec.reduce_keep(&weights, Fold::Add, 1);
        rec.divide(&weights, &sums)
    }

    /// Twice the best expert of those left, with its share among those that are worse by no more than `share`.
    fn sparsemixer(&mut self, logits: &Value, share: f32) -> Value {
        let dims = logits.dims().to_vec();
        let least = self.b.rec.splat(f64::NEG_INFINITY, &dims, Element::F32);
        let share = self.b.rec.splat(f64::from(share), &dims, Element::F32);
        let mut affinities = self.b.rec.splat(0.0, &dims, Element::F32);
        let mut left = logits.clone();
        for _ in 0..dims[1].min(2) {
            let chosen = self.are_largest(&left, 1);
            let rec = &mut self.b.rec;
            let most = rec.reduce_keep(&left, Fold::Max, 1);
            let size = rec.abs(&left);
            let size = rec.maximum(&size, &most);
            let behind = rec.subtract(&most, &left);
            let behind = rec.divide(&behind, &size);
            let is_far = rec.compare(Order::Gt, &behind, &share);
            let close = rec.select(&is_far, &least, &left);
            let shares = self.softmax(&close);
            affinities = self.b.rec.select(&chosen, &shares, &affinities);
            left = self.b.rec.select(&chosen, &least, &left);
        }
        affinities
    }

    /// The sum of what all experts make of `x` `[rows, E]`, weighed by `affinities` `[rows, X]`.
    pub(super) fn mixture(&mut self, x: &Value, affinities: &Value, spec: &ExpertsSpec) -> Value {
        let rows = x.dims()[0];
        let wide = self.f32(x);
        let affinities = self.f32(affinities);
        let mut sum: Option<Value> = None;
        for (i, expert) in spec.experts.iter().enumerate() {
            let affinity = self.b.rec.slice(&affinities, 1, i..i + 1);
            let affinity = self.b.rec.reshape(&affinity, &[rows]);
            let input = match spec.weighing {
                Weighing::Output => x.clone(),
                Weighing::Input => {
                    let factors = self.b.rec.broadcast(&affinity, &[0], x.dims());
                    let weighed = self.b.rec.multiply(&wide, &factors);
                    self.activation(&weighed)
                }
            };
            let (gate, up) = (self.projected(&input, expert.gate), self.projected(&input, expert.up));
            let inner = self.met(&gate, &up, spec.activation);
            let inner = self.activation(&inner);
            let y = self.projected(&inner, expert.down);
            let rec = &mut self.b.rec;
            let factors = rec.broadcast(&affinity, &[0], y.dims());
            let zeros = rec.splat(0.0, y.dims(), Element::F32);
            let chosen = rec.compare(Order::Ne, &factors, &zeros);
            let weighed = match spec.weighing {
                Weighing::Output => rec.multiply(&y, &factors),
                Weighing::Input => y,
            };
            // Not a product with 0, which of what is not finite is NaN.
            let part = rec.select(&chosen, &weighed, &zeros);
            sum = Some(match sum {
                Some(sum) => rec.add(&sum, &part),
                None => part,
            });
        }
        let sum = sum.unwrap_or_else(|| self.b.rec.splat(0.0, x.dims(), Element::F32));
        self.activation(&sum)
    }

    /// `x · weightᵀ + bias`, in f32.
    fn projected(&mut self, x: &Value, projection: Projection) -> Value {
        let y = self.product(x, projection.weight);
        let Some(bias) = projection.bias else { return y };
        let bias = self.vector(bias);
        let bias = self.b.rec.broadcast(&bias, &[1], y.dims());
        self.b.rec.add(&y, &bias)
    }
}
