//! What requests add to the logits of single tokens.

use super::bucket::SampleBucket;
use super::graph::scattered;
use super::inputs;
use crate::program::ProgramBuilder;
use crate::record::{Element, Value};

/// `logits` `[S, V]` with the biases added to their tokens'. Biases are finite, so NaN and infinities stay.
pub(super) fn record(b: &mut ProgramBuilder, logits: &Value, bucket: &SampleBucket) -> Value {
    let (rows, vocab_size) = (logits.dims()[0], logits.dims()[1]);
    let (ids, biases) = inputs::record_bias(b, bucket);
    let rec = &mut b.rec;
    let places = scattered(rec, &ids, vocab_size);
    let biases = rec.reshape(&biases, &[rows * bucket.bias]);
    let beyond = rec.splat(0.0, &[rows, 1], Element::F32);
    let table = rec.concat(&[logits, &beyond], 1);
    let table = rec.reshape(&table, &[rows * (vocab_size + 1)]);
    let table = rec.add_rows(&table, &places, &biases);
    let table = rec.reshape(&table, &[rows, vocab_size + 1]);
    rec.slice(&table, 1, 0..vocab_size)
}
