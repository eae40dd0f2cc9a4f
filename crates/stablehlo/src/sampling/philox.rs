//! The random number of each row: [`nxd_ops::philox`] in 32-bit operations.
//!
//! Products are put together from 16-bit halves, because some devices narrow 64-bit integers.

use super::inputs::Word;
use crate::program::ProgramBuilder;
use crate::record::{Element, Recorder, Value};
use nxd_ops::philox::Purpose;

/// Numbers in `[0, 1)` of each row, multiples of 2⁻²⁴, f32 `[S]`: the upper bits of [`nxd_ops::philox::uniform`].
pub(super) fn record(b: &mut ProgramBuilder, rows: usize) -> Value {
    let [low, high, position, choice] =
        [Word::SeedLow, Word::SeedHigh, Word::Position, Word::Choice].map(|word| word.record(b, rows));
    let rec = &mut b.rec;
    let purpose = rec.splat(f64::from(Purpose::Draw as u32), &[rows], Element::U32);
    let zero = rec.splat(0.0, &[rows], Element::U32);
    let [first, ..] = philox(rec, [choice, position, purpose, zero], [low, high]);
    let eight = rec.splat(8.0, &[rows], Element::U32);
    let bits = rec.shift_right_logical(&first, &eight);
    let number = rec.convert(&bits, Element::F32);
    rec.scale(&number, 1.0 / (1_u32 << 24) as f32)
}

/// Philox4x32 with ten rounds, elementwise.
pub(super) fn philox(rec: &mut Recorder, counter: [Value; 4], key: [Value; 2]) -> [Value; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k, mut l]) = (counter, key);
    let word = |rec: &mut Recorder, value: u32| rec.splat(f64::from(value), a.dims(), Element::U32);
    let (step_k, step_l) = (word(rec, 0x9E37_79B9), word(rec, 0xBB67_AE85));
    for _ in 0..10 {
        let ((p_high, p_low), (q_high, q_low)) = (product(rec, &a, 0xD251_1F53), product(rec, &c, 0xCD9E_8D57));
        let mixed = rec.xor(&q_high, &b);
        a = rec.xor(&mixed, &k);
        let mixed = rec.xor(&p_high, &d);
        c = rec.xor(&mixed, &l);
        (b, d) = (q_low, p_low);
        k = rec.add(&k, &step_k);
        l = rec.add(&l, &step_l);
    }
    [a, b, c, d]
}

/// The upper and the lower word of `x * factor`. No product or sum on the way exceeds 32 bits.
fn product(rec: &mut Recorder, x: &Value, factor: u32) -> (Value, Value) {
    let word = |rec: &mut Recorder, value: u32| rec.splat(f64::from(value), x.dims(), Element::U32);
    let (mask, sixteen) = (word(rec, 0xFFFF), word(rec, 16));
    let (factor_low, factor_high) = (word(rec, factor & 0xFFFF), word(rec, factor >> 16));
    let (x_low, x_high) = (rec.and(x, &mask), rec.shift_right_logical(x, &sixteen));
    let low = rec.multiply(&x_low, &factor_low);
    let (cross, other) = (rec.multiply(&x_high, &factor_low), rec.multiply(&x_low, &factor_high));
    let high = rec.multiply(&x_high, &factor_high);

    // At most (2¹⁶ - 1)² + 2¹⁶ - 1, then (2¹⁶ - 1)² + 2 (2¹⁶ - 1) in the upper word: both below 2³².
    let carried = rec.shift_right_logical(&low, &sixteen);
    let middle = rec.add(&cross, &carried);
    let middle_low = rec.and(&middle, &mask);
    let middle_low = rec.add(&other, &middle_low);
    let middle_high = rec.shift_right_logical(&middle, &sixteen);
    let carried = rec.shift_right_logical(&middle_low, &sixteen);
    let upper = rec.add(&high, &middle_high);
    let upper = rec.add(&upper, &carried);

    let low = rec.and(&low, &mask);
    let middle_low = rec.shift_left(&middle_low, &sixteen);
    (upper, rec.or(&middle_low, &low))
}
