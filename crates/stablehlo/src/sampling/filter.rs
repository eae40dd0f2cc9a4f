//! Which tokens may be drawn and how heavy they are: temperature, top-k, top-p, min-p, typical, in this order.

use super::bucket::{Draw, SampleBucket};
use super::graph::{Sound, at, repeat};
use super::inputs::{Number, Word};
use super::reach::{reach, sum};
use crate::program::ProgramBuilder;
use crate::record::{Element, Fold, Order, Recorder, Value};
use crate::target::{Target, top_k};

/// The tokens that may be drawn, in the order in which the random number runs over them.
pub(super) struct Kept {
    /// In proportion to their probabilities, 0 for those that were filtered away; f32 `[S, N]`.
    pub(super) weights: Value,
    /// The token at each place, i32 `[S, N]`; `None` when place and id are one.
    pub(super) ids: Option<Value>,
}

impl Kept {
    /// The tokens on which `number` f32 `[S]` falls, i32 `[S]`.
    pub(super) fn draw(&self, rec: &mut Recorder, number: &Value) -> Value {
        let place = reach(rec, &self.weights, number, Order::Gt);
        match &self.ids {
            Some(ids) => at(rec, ids, &place),
            None => place,
        }
    }
}

/// Keeps what each row's parameters let through: at least the likeliest token where a row has something to draw.
pub(super) fn record(b: &mut ProgramBuilder, sound: &Sound, bucket: &SampleBucket, target: &Target) -> Kept {
    let space = match target.candidates {
        Some(count) => candidates(b, sound, count, bucket, target),
        None => vocabulary(b, sound, bucket),
    };
    let min_p = Number::MinP.record(b, bucket.rows);
    let mut weights = keep_likely(&mut b.rec, &space.weights, &min_p);
    if bucket.draw == Draw::Typical {
        let p = Number::TypicalP.record(b, bucket.rows);
        let typical = Typical::record(&mut b.rec, &space.gaps, &weights);
        let is_typical = match target.candidates {
            Some(_) => typical.by_comparing(&mut b.rec, &weights, &p),
            None => typical.by_sorting(&mut b.rec, &weights, &p),
        };
        weights = drop_where_not(&mut b.rec, &is_typical, &weights);
    }
    Kept { weights, ids: space.ids }
}

/// Tokens after top-k and top-p.
struct Space {
    /// How far each lies below the likeliest, in units of the temperature: 0 or less; f32 `[S, N]`.
    gaps: Value,
    weights: Value,
    ids: Option<Value>,
}

/// All tokens by rising id.
fn vocabulary(b: &mut ProgramBuilder, sound: &Sound, bucket: &SampleBucket) -> Space {
    let temperature = temperature(b, bucket.rows);
    let (gaps, weights) = weigh(&mut b.rec, &sound.logits, &sound.max, &temperature);
    if bucket.draw < Draw::Ranked {
        return Space { gaps, weights, ids: None };
    }
    let dims = sound.logits.dims().to_vec();
    let id = b.rec.iota(1, &dims, Element::I32);
    let (ranked, ranked_ids) = b.rec.sort_descending(&sound.logits, &id);
    let (_, ranked_weights) = weigh(&mut b.rec, &ranked, &sound.max, &temperature);
    let Ranks { floor, last, is_cut } = ranks(b, &ranked, &ranked_weights);
    // Back from ranks to ids: the last token that is kept says which others are.
    let rec = &mut b.rec;
    let last_logit = at(rec, &ranked, &last);
    let last_id = at(rec, &ranked_ids, &last);
    let beyond = rec.splat(dims[1] as f64, &[dims[0]], Element::I32);
    let last_logit = rec.select(&is_cut, &last_logit, &floor);
    let last_id = rec.select(&is_cut, &last_id, &beyond);
    let (last_logit, last_id) = (repeat(rec, &last_logit, &dims), repeat(rec, &last_id, &dims));
    let is_above = rec.compare(Order::Gt, &sound.logits, &last_logit);
    let is_equal = rec.compare(Order::Eq, &sound.logits, &last_logit);
    let is_not_after = rec.compare(Order::Le, &id, &last_id);
    let ties = rec.and(&is_equal, &is_not_after);
    let kept = rec.or(&is_above, &ties);
    let weights = drop_where_not(rec, &kept, &weights);
    Space { gaps, weights, ids: None }
}

/// The `count` likeliest tokens, likeliest first.
fn candidates(b: &mut ProgramBuilder, sound: &Sound, count: usize, bucket: &SampleBucket, target: &Target) -> Space {
    let count = count.min(sound.logits.dims()[1]);
    let temperature = temperature(b, bucket.rows);
    let (ranked, ids) = top_k(&mut b.rec, target, &sound.logits, count);
    let (gaps, mut weights) = weigh(&mut b.rec, &ranked, &sound.max, &temperature);
    if bucket.draw >= Draw::Ranked {
        let Ranks { floor, last, is_cut } = ranks(b, &ranked, &weights);
        let rec = &mut b.rec;
        let dims = ranked.dims().to_vec();
        let end = rec.splat(count as f64, &[dims[0]], Element::I32);
        let last = rec.select(&is_cut, &last, &end);
        let (floor, last) = (repeat(rec, &floor, &dims), repeat(rec, &last, &dims));
        let rank = rec.iota(1, &dims, Element::I32);
        let is_high = rec.compare(Order::Ge, &ranked, &floor);
        let is_early = rec.compare(Order::Le, &rank, &last);
        let kept = rec.and(&is_high, &is_early);
        weights = drop_where_not(rec, &kept, &weights);
    }
    Space { gaps, weights, ids: Some(ids) }
}

/// Where top-k and top-p cut each row of ranked tokens; all `[S]`.
struct Ranks {
    /// The least logit that top-k keeps, all of whose equals stay.
    floor: Value,
    /// The rank of the token with which the weights reach top-p.
    last: Value,
    /// Whether the row has a top-p.
    is_cut: Value,
}

/// # Shapes
/// `logits`, `weights`: `[S, N]`, largest first.
fn ranks(b: &mut ProgramBuilder, logits: &Value, weights: &Value) -> Ranks {
    let dims = logits.dims().to_vec();
    let top_k = Word::TopK.record(b, dims[0]);
    let top_p = Number::TopP.record(b, dims[0]);
    let rec = &mut b.rec;
    let top_k = rec.convert(&top_k, Element::I32);
    let one = rec.splat(1.0, &dims[..1], Element::I32);
    let end = rec.splat(dims[1] as f64, &dims[..1], Element::I32);
    let top_k = rec.minimum(&top_k, &end);
    let last = rec.subtract(&top_k, &one);
    let floor = at(rec, logits, &last);
    let least = repeat(rec, &floor, &dims);
    let is_high = rec.compare(Order::Ge, logits, &least);
    let weights = drop_where_not(rec, &is_high, weights);
    let last = reach(rec, &weights, &top_p, Order::Ge);
    let all = rec.splat(1.0, &dims[..1], Element::F32);
    let is_cut = rec.compare(Order::Lt, &top_p, &all);
    Ranks { floor, last, is_cut }
}

/// Each row's temperature, 1 for greedy rows; f32 `[S]`.
fn temperature(b: &mut ProgramBuilder, rows: usize) -> Value {
    let temperature = Number::Temperature.record(b, rows);
    let zero = b.rec.splat(0.0, &[rows], Element::F32);
    let one = b.rec.splat(1.0, &[rows], Element::F32);
    let is_random = b.rec.compare(Order::Gt, &temperature, &zero);
    b.rec.select(&is_random, &temperature, &one)
}

/// How far each logit lies below `max` in units of the temperature, and `e` to that power: exactly 1 for the likeliest.
///
/// # Shapes
/// `logits` and results: `[S, N]`. `max`, `temperature`: `[S]`.
fn weigh(rec: &mut Recorder, logits: &Value, max: &Value, temperature: &Value) -> (Value, Value) {
    let dims = logits.dims().to_vec();
    let (max, temperature) = (repeat(rec, max, &dims), repeat(rec, temperature, &dims));
    let gaps = rec.subtract(logits, &max);
    let gaps = rec.divide(&gaps, &temperature);
    let weights = rec.exponential(&gaps);
    // Where results would be subnormal, devices differ; an infinite temperature makes a NaN of a forbidden token.
    let least = rec.splat(-87.0, &dims, Element::F32);
    let counts = rec.compare(Order::Ge, &gaps, &least);
    (gaps, drop_where_not(rec, &counts, &weights))
}

/// The weights of tokens at least `min_p` `[S]` times as likely as the likeliest, whose weight is 1.
fn keep_likely(rec: &mut Recorder, weights: &Value, min_p: &Value) -> Value {
    let least = repeat(rec, min_p, weights.dims());
    let is_likely = rec.compare(Order::Ge, weights, &least);
    drop_where_not(rec, &is_likely, weights)
}

/// `weights` where `kept`, else 0.
fn drop_where_not(rec: &mut Recorder, kept: &Value, weights: &Value) -> Value {
    let zero = rec.splat(0.0, weights.dims(), Element::F32);
    rec.select(kept, weights, &zero)
}

/// How far each token's surprise lies from the entropy.
///
/// Source: Meister et al., "Locally typical sampling", arXiv:2202.00666, equation 8.
struct Typical {
    /// The distance, below 0 so that the most typical are the largest; -∞ for tokens without a weight. f32 `[S, N]`.
    closeness: Value,
}

impl Typical {
    fn record(rec: &mut Recorder, gaps: &Value, weights: &Value) -> Self {
        let dims = weights.dims().to_vec();
        let total = sum(rec, weights);
        // 1 at least, but for rows that have nothing to draw.
        let one = rec.splat(1.0, &dims[..1], Element::F32);
        let total = rec.maximum(&total, &one);
        let zero = rec.splat(0.0, &dims, Element::F32);
        let has_weight = rec.compare(Order::Gt, weights, &zero);
        // A weight of 0 may belong to a gap of -∞, whose product would be NaN.
        let finite = rec.select(&has_weight, gaps, &zero);
        let products = rec.multiply(weights, &finite);
        let mean = sum(rec, &products);
        let mean = rec.divide(&mean, &total);
        // Surprise less entropy: the logarithms of the total cancel.
        let mean = repeat(rec, &mean, &dims);
        let distance = rec.subtract(&mean, &finite);
        let distance = rec.abs(&distance);
        let closeness = rec.negate(&distance);
        let least = rec.splat(f64::NEG_INFINITY, &dims, Element::F32);
        Typical { closeness: rec.select(&has_weight, &closeness, &least) }
    }

    /// Which tokens are among the most typical whose weights reach `p` f32 `[S]` of all, equals of the last included; i1 `[S, N]`.
    fn by_sorting(&self, rec: &mut Recorder, weights: &Value, p: &Value) -> Value {
        let (ranked, ranked_weights) = rec.sort_descending(&self.closeness, weights);
        let last = reach(rec, &ranked_weights, p, Order::Ge);
        let farthest = at(rec, &ranked, &last);
        let farthest = repeat(rec, &farthest, weights.dims());
        let is_close = rec.compare(Order::Ge, &self.closeness, &farthest);
        or_untouched(rec, &is_close, p)
    }

    /// As [`Typical::by_sorting`], for few tokens: each is compared with every other, because not all devices can sort.
    fn by_comparing(&self, rec: &mut Recorder, weights: &Value, p: &Value) -> Value {
        let (rows, len) = (weights.dims()[0], weights.dims()[1]);
        let dims = [rows, len, len];
        let this = rec.broadcast(&self.closeness, &[0, 1], &dims);
        let other = rec.broadcast(&self.closeness, &[0, 2], &dims);
        let is_closer = rec.compare(Order::Gt, &other, &this);
        let others = rec.broadcast(weights, &[0, 2], &dims);
        let closer = drop_where_not(rec, &is_closer, &others);
        let closer = rec.reduce(&closer, Fold::Add, 2);
        let total = sum(rec, weights);
        let target = rec.multiply(p, &total);
        let target = repeat(rec, &target, weights.dims());
        let zero = rec.splat(0.0, weights.dims(), Element::F32);
        let is_short = rec.compare(Order::Lt, &closer, &target);
        // The most typical stay whatever `p` is.
        let is_first = rec.compare(Order::Le, &closer, &zero);
        let is_close = rec.or(&is_short, &is_first);
        or_untouched(rec, &is_close, p)
    }
}

/// `kept` `[S, N]`, or everything in rows whose `p` `[S]` switches the filter off.
fn or_untouched(rec: &mut Recorder, kept: &Value, p: &Value) -> Value {
    let one = rec.splat(1.0, p.dims(), Element::F32);
    let is_filtered = rec.compare(Order::Lt, p, &one);
    let untouched = rec.not(&is_filtered);
    let untouched = repeat(rec, &untouched, kept.dims());
    rec.or(kept, &untouched)
}
