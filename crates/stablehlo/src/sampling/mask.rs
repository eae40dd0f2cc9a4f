//! Which tokens a grammar lets through.

use super::inputs;
use crate::program::ProgramBuilder;
use crate::record::{Element, Order, Value};

/// `logits` `[S, V]` with -∞ at tokens whose bit is not set. NaN and +∞ stay: a broken row is not mended by a mask.
///
/// `given` is how many words come in; missing ones are as the word behind the last.
pub(super) fn record(b: &mut ProgramBuilder, logits: &Value, given: usize) -> Value {
    let (rows, vocab_size) = (logits.dims()[0], logits.dims()[1]);
    let words = inputs::record_allowed(b, rows, given);
    let rec = &mut b.rec;
    let count = vocab_size.div_ceil(32);
    let words = if given < count {
        let rest = rec.slice(&words, 1, given..given + 1);
        let rest = rec.broadcast(&rest, &[0, 1], &[rows, count - given]);
        let words = rec.slice(&words, 1, 0..given);
        rec.concat(&[&words, &rest], 1)
    } else {
        rec.slice(&words, 1, 0..count)
    };
    let dims = [rows, count, 32];
    let words = rec.broadcast(&words, &[0, 1], &dims);
    let bit = rec.iota(2, &dims, Element::U32);
    let words = rec.shift_right_logical(&words, &bit);
    let one = rec.splat(1.0, &dims, Element::U32);
    let bits = rec.and(&words, &one);
    let bits = rec.reshape(&bits, &[rows, count * 32]);
    let bits = rec.slice(&bits, 1, 0..vocab_size);

    let zero = rec.splat(0.0, logits.dims(), Element::U32);
    let infinity = rec.splat(f64::INFINITY, logits.dims(), Element::F32);
    let least = rec.splat(f64::NEG_INFINITY, logits.dims(), Element::F32);
    let is_forbidden = rec.compare(Order::Eq, &bits, &zero);
    let is_less = rec.compare(Order::Lt, logits, &infinity);
    let hidden = rec.and(&is_forbidden, &is_less);
    rec.select(&hidden, &least, logits)
}
