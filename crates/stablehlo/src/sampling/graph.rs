//! The whole rule, from logits to the results of a sampling program.

use super::bucket::{Draw, SampleBucket};
use super::inputs::{self, Number};
use super::{bias, filter, logprobs, mask, penalties, philox};
use crate::program::{ProgramBuilder, ResultKey};
use crate::record::{Element, Fold, Order, Recorder, Value};
use crate::target::Target;

/// The drawn tokens, or the targets of rows that draw nothing, i32 `[S]`; -1 where a row has nothing to draw.
pub(super) const TOKENS: &str = "tokens";
/// The most likely tokens of the raw logits, i32 `[S, K]`.
pub(super) const TOP_IDS: &str = "top_ids";
/// Their log-probabilities, f32 `[S, K]`.
pub(super) const TOP_LOGPROBS: &str = "top_logprobs";
/// The drawn tokens' log-probabilities, f32 `[S]`.
pub(super) const DRAWN_LOGPROB: &str = "drawn_logprob";

/// Records drawing from `logits` `[S, V]`, with the results that [`outputs`](super::outputs) reads.
pub fn record(b: &mut ProgramBuilder, logits: &Value, bucket: &SampleBucket, target: &Target) {
    let raw = b.rec.convert(logits, Element::F32);
    let adjusted = adjusted(b, &raw, bucket);
    let sound = Sound::record(&mut b.rec, &adjusted);
    let mut tokens = draw(b, &sound, bucket, target);
    if bucket.targets {
        tokens = targeted(b, &tokens, raw.dims()[1]);
    }
    if let Some(count) = bucket.logprobs {
        logprobs::record(b, &raw, &tokens, count, target);
    }
    let none = b.rec.splat(-1.0, &[bucket.rows], Element::I32);
    let tokens = b.rec.select(&sound.is_sound, &tokens, &none);
    b.result(ResultKey::Named(TOKENS), &tokens);
}

/// Logits after penalties, bias and mask, f32 `[S, V]`.
pub(super) fn adjusted(b: &mut ProgramBuilder, logits: &Value, bucket: &SampleBucket) -> Value {
    let mut adjusted = logits.clone();
    if bucket.history > 0 {
        adjusted = penalties::record(b, &adjusted, bucket);
    }
    if bucket.bias > 0 {
        adjusted = bias::record(b, &adjusted, bucket);
    }
    if let Some(words) = bucket.mask {
        adjusted = mask::record(b, &adjusted, words);
    }
    adjusted
}

/// Logits that are safe to compute with, whatever the model gave.
pub(super) struct Sound {
    /// -∞ in place of NaN and +∞, f32 `[S, V]`.
    pub(super) logits: Value,
    /// The largest of a row, 0 where all are -∞; f32 `[S]`.
    pub(super) max: Value,
    /// Whether the row had neither NaN nor +∞ and something finite, i1 `[S]`.
    is_sound: Value,
}

impl Sound {
    pub(super) fn record(rec: &mut Recorder, logits: &Value) -> Self {
        let dims = logits.dims().to_vec();
        let infinity = rec.splat(f64::INFINITY, &dims, Element::F32);
        let least = rec.splat(f64::NEG_INFINITY, &dims, Element::F32);
        // False for NaN too.
        let is_less = rec.compare(Order::Lt, logits, &infinity);
        let logits = rec.select(&is_less, logits, &least);
        let refused = rec.not(&is_less);
        let refused = rec.reduce(&refused, Fold::Or, 1);
        let accepted = rec.not(&refused);

        let max = rec.reduce(&logits, Fold::Max, 1);
        let least = rec.splat(f64::NEG_INFINITY, &dims[..1], Element::F32);
        let zero = rec.splat(0.0, &dims[..1], Element::F32);
        let is_finite = rec.compare(Order::Gt, &max, &least);
        let max = rec.select(&is_finite, &max, &zero);
        let is_sound = rec.and(&accepted, &is_finite);
        Sound { logits, max, is_sound }
    }
}

/// The drawn tokens, i32 `[S]`; some token where a row has nothing to draw.
fn draw(b: &mut ProgramBuilder, sound: &Sound, bucket: &SampleBucket, target: &Target) -> Value {
    let likeliest = b.rec.argmax(&sound.logits);
    if bucket.draw == Draw::Greedy {
        return likeliest;
    }
    let kept = filter::record(b, sound, bucket, target);
    let number = philox::record(b, bucket.rows);
    let drawn = kept.draw(&mut b.rec, &number);
    let temperature = Number::Temperature.record(b, bucket.rows);
    let zero = b.rec.splat(0.0, &[bucket.rows], Element::F32);
    let is_random = b.rec.compare(Order::Gt, &temperature, &zero);
    b.rec.select(&is_random, &drawn, &likeliest)
}

/// `tokens` i32 `[S]` with the targets of the rows that have one in the vocabulary.
fn targeted(b: &mut ProgramBuilder, tokens: &Value, vocab_size: usize) -> Value {
    let targets = inputs::record_targets(b, tokens.dims()[0]);
    let rec = &mut b.rec;
    let end = rec.splat(vocab_size as f64, tokens.dims(), Element::U32);
    let is_target = rec.compare(Order::Lt, &targets, &end);
    let targets = rec.convert(&targets, Element::I32);
    rec.select(&is_target, &targets, tokens)
}

/// `values` `[S]` repeated over the last dimensions of `dims` `[S, …]`.
pub(super) fn repeat(rec: &mut Recorder, values: &Value, dims: &[usize]) -> Value {
    rec.broadcast(values, &[0], dims)
}

/// Where tokens `ids`, u32 `[S, N]`, stand in a flat table of the rows' `vocab_size + 1` columns, i32 `[S * N]`. The last column takes
/// what the vocabulary does not have, so that no index is out of range.
pub(super) fn scattered(rec: &mut Recorder, ids: &Value, vocab_size: usize) -> Value {
    let dims = ids.dims().to_vec();
    let beyond = rec.splat(vocab_size as f64, &dims, Element::U32);
    let ids = rec.minimum(ids, &beyond);
    let ids = rec.convert(&ids, Element::I32);
    let row = rec.iota(0, &dims, Element::I32);
    let width = rec.splat(vocab_size as f64 + 1.0, &dims, Element::I32);
    let start = rec.multiply(&row, &width);
    let places = rec.add(&start, &ids);
    rec.reshape(&places, &[dims.iter().product()])
}

/// The elements of `table` `[S, N]` at `places` i32 `[S, …]`, each in its own row. Places must lie within the row.
pub(super) fn at(rec: &mut Recorder, table: &Value, places: &Value) -> Value {
    let (rows, columns) = (table.dims()[0], table.dims()[1]);
    let row = rec.iota(0, places.dims(), Element::I32);
    let width = rec.splat(columns as f64, places.dims(), Element::I32);
    let start = rec.multiply(&row, &width);
    let places = rec.add(&start, places);
    let table = rec.reshape(table, &[rows * columns]);
    rec.take_rows(&table, &places)
}
