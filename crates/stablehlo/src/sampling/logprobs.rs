//! Log-probabilities of the raw logits: the model's own, before penalties, masks and temperature.

use super::graph::{DRAWN_LOGPROB, Sound, TOP_IDS, TOP_LOGPROBS, at, repeat};
use super::reach::sum;
use crate::program::{ProgramBuilder, ResultKey};
use crate::record::{Element, Order, Recorder, Value};
use crate::target::{Target, top_k};

/// Records those of the `count` most likely tokens and of the drawn ones, `tokens` i32 `[S]`.
///
/// Targets that look at few candidates report no more of them.
pub(super) fn record(b: &mut ProgramBuilder, logits: &Value, tokens: &Value, count: usize, target: &Target) {
    let sound = Sound::record(&mut b.rec, logits);
    let log_partition = log_partition(&mut b.rec, &sound);
    let logprobs = |rec: &mut Recorder, logits: &Value| {
        let max = repeat(rec, &sound.max, logits.dims());
        let log_partition = repeat(rec, &log_partition, logits.dims());
        // Subtracting the largest first loses nothing of small differences.
        let gaps = rec.subtract(logits, &max);
        rec.subtract(&gaps, &log_partition)
    };
    let vocab_size = logits.dims()[1];
    let count = count.min(target.candidates.unwrap_or(vocab_size)).min(vocab_size);
    if count > 0 {
        let logits = one_zero(&mut b.rec, &sound.logits);
        let (best, ids) = top_k(&mut b.rec, target, &logits, count);
        let best = logprobs(&mut b.rec, &best);
        b.result(ResultKey::Named(TOP_IDS), &ids);
        b.result(ResultKey::Named(TOP_LOGPROBS), &best);
    }
    let drawn = at(&mut b.rec, &sound.logits, tokens);
    let drawn = logprobs(&mut b.rec, &drawn);
    b.result(ResultKey::Named(DRAWN_LOGPROB), &drawn);
}

/// The natural logarithm of the sum of `e^(logit - max)`, f32 `[S]`.
fn log_partition(rec: &mut Recorder, sound: &Sound) -> Value {
    let max = repeat(rec, &sound.max, sound.logits.dims());
    let gaps = rec.subtract(&sound.logits, &max);
    let weights = rec.exponential(&gaps);
    let total = sum(rec, &weights);
    rec.log(&total)
}

/// Zeros of one sign: selections by bits would take them for different numbers.
fn one_zero(rec: &mut Recorder, x: &Value) -> Value {
    let zero = rec.splat(0.0, x.dims(), Element::F32);
    let is_zero = rec.compare(Order::Eq, x, &zero);
    rec.select(&is_zero, &zero, x)
}
