//! What comes of a sampling program's results.

use super::bucket::SampleBucket;
use super::graph::{DRAWN_LOGPROB, TOKENS, TOP_IDS, TOP_LOGPROBS};
use crate::host::HostArray;
use nxd_ops::{Drawn, SamplingRow, TokenLogprob};
use std::collections::HashMap;

/// What each of `rows` drew, from the results of its bucket's program by name.
///
/// # Panics
/// When a result that the bucket implies is missing: the program was recorded for another bucket.
pub fn outputs(bucket: &SampleBucket, rows: &[SamplingRow], results: &HashMap<&'static str, HostArray>) -> Vec<Drawn> {
    let named = |name: &str| results.get(name).expect("the bucket's program has this result");
    let tokens: Vec<i32> = values(named(TOKENS));
    let logprobs = bucket.logprobs.map(|count| Logprobs {
        drawn: values(named(DRAWN_LOGPROB)),
        // Of no candidates there are no arrays.
        top: if count == 0 { Vec::new() } else { top(named(TOP_IDS), named(TOP_LOGPROBS)) },
    });
    let draw = |(i, row): (usize, &SamplingRow)| match u32::try_from(tokens[i]) {
        // The graph's mark of a row that has nothing to draw.
        Err(_) => Drawn::NotFinite,
        // The graph draws where a target is outside the vocabulary.
        Ok(id) if row.target.is_some_and(|target| target != id) => Drawn::NotFinite,
        Ok(id) => {
            let of_row = row.logprobs.zip(logprobs.as_ref());
            Drawn::Token { id, logprobs: of_row.map_or_else(Vec::new, |(count, all)| all.of(i, count as usize, id)) }
        }
    };
    rows.iter().enumerate().map(draw).collect()
}

/// The log-probabilities of all rows.
struct Logprobs {
    drawn: Vec<f32>,
    top: Vec<Vec<TokenLogprob>>,
}

impl Logprobs {
    /// The best `count` of row `i`, then the drawn token if it is not among them.
    fn of(&self, i: usize, count: usize, id: u32) -> Vec<TokenLogprob> {
        let top = self.top.get(i).map(Vec::as_slice).unwrap_or_default();
        // Tokens at -∞ are forbidden, not unlikely.
        let mut best: Vec<TokenLogprob> =
            top.iter().take(count).filter(|token| token.logprob > f32::NEG_INFINITY).copied().collect();
        if best.iter().all(|token| token.id != id) {
            best.push(TokenLogprob { id, logprob: self.drawn[i] });
        }
        best
    }
}

fn top(ids: &HostArray, logprobs: &HostArray) -> Vec<Vec<TokenLogprob>> {
    let count = ids.dims.last().copied().unwrap_or(1).max(1);
    let (ids, logprobs): (Vec<i32>, Vec<f32>) = (values(ids), values(logprobs));
    let of = |(&id, &logprob): (&i32, &f32)| TokenLogprob { id: id as u32, logprob };
    let rows = ids.chunks(count).zip(logprobs.chunks(count));
    rows.map(|(ids, logprobs)| ids.iter().zip(logprobs).map(of).collect()).collect()
}

/// The bytes may lie anywhere, so they are read one by one.
fn values<T: bytemuck::AnyBitPattern>(array: &HostArray) -> Vec<T> {
    array.data.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Draw;

    #[test]
    fn each_row_gets_as_many_logprobs_as_it_asked_for() {
        let bucket = SampleBucket {
            rows: 4,
            draw: Draw::Greedy,
            history: 0,
            bias: 0,
            mask: None,
            targets: false,
            logprobs: Some(2),
            keep_logits: false,
        };
        let results = HashMap::from([
            (TOKENS, HostArray::i32s(&[4], &[5, 6, -1, 5])),
            (TOP_IDS, HostArray::i32s(&[4, 2], &[5, 7, 5, 7, 0, 1, 5, 9])),
            (
                TOP_LOGPROBS,
                HostArray::f32s(&[4, 2], &[-0.5, -1.0, -0.5, -1.0, f32::NAN, f32::NAN, 0.0, f32::NEG_INFINITY]),
            ),
            (DRAWN_LOGPROB, HostArray::f32s(&[4], &[-0.5, -2.0, f32::NAN, 0.0])),
        ]);
        let asks = |logprobs| SamplingRow { logprobs, ..SamplingRow::default() };
        let token = |id, logprob| TokenLogprob { id, logprob };
        let drawn = |id, logprobs| Drawn::Token { id, logprobs };
        let rows = [asks(None), asks(Some(1)), asks(Some(2)), asks(Some(2))];
        let expected = [
            drawn(5, vec![]),
            drawn(6, vec![token(5, -0.5), token(6, -2.0)]),
            Drawn::NotFinite,
            drawn(5, vec![token(5, 0.0)]),
        ];
        assert_eq!(outputs(&bucket, &rows, &results), expected);
        // Fewer rows than the bucket: the rest is filling.
        assert_eq!(outputs(&bucket, &rows[..1], &results), expected[..1]);
    }
}
