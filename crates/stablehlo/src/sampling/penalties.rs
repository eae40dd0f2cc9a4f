//! What the history does to the logits.

use super::bucket::SampleBucket;
use super::graph::{repeat, scattered};
use super::inputs::{self, Number, Word};
use crate::program::ProgramBuilder;
use crate::record::{Element, Order, Value};

/// `logits` `[S, V]` after presence and frequency among the generated tokens, then repetition in all of the history.
pub(super) fn record(b: &mut ProgramBuilder, logits: &Value, bucket: &SampleBucket) -> Value {
    let dims = logits.dims().to_vec();
    let [presence, frequency, repetition] =
        [Number::PresencePenalty, Number::FrequencyPenalty, Number::RepetitionPenalty].map(|number| {
            let penalty = number.record(b, bucket.rows);
            repeat(&mut b.rec, &penalty, &dims)
        });
    let (seen, generated) = counts(b, dims[1], bucket);
    let rec = &mut b.rec;
    let zero = rec.splat(0.0, &dims, Element::F32);

    let loss = rec.multiply(&generated, &frequency);
    let loss = rec.add(&loss, &presence);
    let less = rec.subtract(logits, &loss);
    let is_generated = rec.compare(Order::Gt, &generated, &zero);
    let logits = rec.select(&is_generated, &less, logits);

    let larger = rec.multiply(&logits, &repetition);
    let smaller = rec.divide(&logits, &repetition);
    let is_negative = rec.compare(Order::Lt, &logits, &zero);
    let repeated = rec.select(&is_negative, &larger, &smaller);
    let is_seen = rec.compare(Order::Gt, &seen, &zero);
    rec.select(&is_seen, &repeated, &logits)
}

/// How often each token occurs in the history, and how often it was generated, both f32 `[S, V]`.
fn counts(b: &mut ProgramBuilder, vocab_size: usize, bucket: &SampleBucket) -> (Value, Value) {
    let (rows, history, width) = (bucket.rows, bucket.history, vocab_size + 1);
    let ids = inputs::record_history(b, bucket);
    let generated_from = Word::GeneratedFrom.record(b, rows);
    let rec = &mut b.rec;
    let dims = [rows, history];

    let generated_from = rec.convert(&generated_from, Element::I32);
    let generated_from = repeat(rec, &generated_from, &dims);
    let place = rec.iota(1, &dims, Element::I32);
    let is_generated = rec.compare(Order::Ge, &place, &generated_from);
    let is_generated = rec.convert(&is_generated, Element::F32);
    let is_generated = rec.reshape(&is_generated, &[rows * history, 1]);
    let one = rec.splat(1.0, &[rows * history, 1], Element::F32);
    let ones = rec.concat(&[&one, &is_generated], 1);

    let places = scattered(rec, &ids, vocab_size);
    let table = rec.splat(0.0, &[rows * width, 2], Element::F32);
    let table = rec.add_rows(&table, &places, &ones);
    let table = rec.reshape(&table, &[rows, width, 2]);
    let table = rec.slice(&table, 1, 0..vocab_size);
    let [seen, generated] = [0, 1].map(|column| {
        let counts = rec.slice(&table, 2, column..column + 1);
        rec.reshape(&counts, &[rows, vocab_size])
    });
    (seen, generated)
}
