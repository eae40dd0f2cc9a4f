//! What the history does to the logits.

use nxd_ops::{SamplingParams, SamplingRow};

/// Changes the logits of tokens in the row's history: first by presence and frequency among the generated tokens, then by
/// repetition in all of it. Tokens outside the vocabulary are passed over.
///
/// `counts` is work space that grows to the vocabulary: zeros before and after.
pub fn penalise(logits: &mut [f32], row: &SamplingRow, counts: &mut Vec<u32>) {
    if counts.len() < logits.len() {
        counts.resize(logits.len(), 0);
    }
    let counts = &mut counts[..logits.len()];
    let SamplingParams { presence_penalty, frequency_penalty, repetition_penalty, .. } = row.params;
    let generated = row.history.get(row.generated_from..).unwrap_or_default();
    for_each_distinct(generated, counts, |token, count| {
        logits[token] -= count as f32 * frequency_penalty + presence_penalty;
    });
    for_each_distinct(&row.history, counts, |token, _| {
        let logit = &mut logits[token];
        *logit = if *logit < 0.0 { *logit * repetition_penalty } else { *logit / repetition_penalty };
    });
}

/// Forbids every token that would repeat a run of `n` tokens of the history; 0 forbids none.
pub fn forbid_repeated_ngrams(logits: &mut [f32], history: &[u32], n: usize) {
    let Some(last) = n.checked_sub(1).and_then(|n| history.len().checked_sub(n)).map(|start| &history[start..]) else {
        return;
    };
    for run in history.windows(n) {
        if run.starts_with(last)
            && let Some(logit) = run.last().and_then(|&token| logits.get_mut(token as usize))
        {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Calls `visit` once for every token with how often it occurs, in the order of first occurrence.
fn for_each_distinct(tokens: &[u32], counts: &mut [u32], mut visit: impl FnMut(usize, u32)) {
    for &token in tokens {
        if let Some(count) = counts.get_mut(token as usize) {
            *count += 1;
        }
    }
    for &token in tokens {
        if let Some(count) = counts.get_mut(token as usize)
            && *count > 0
        {
            visit(token as usize, std::mem::take(count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nxd_testkit::assert_bits;

    #[test]
    fn prompt_tokens_count_for_repetition_only() {
        let params = SamplingParams {
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            repetition_penalty: 2.0,
            ..SamplingParams::default()
        };
        // Token 9 is outside the vocabulary, as ids of added tokens may be.
        let row = SamplingRow { params, history: vec![0, 1, 9, 1, 2, 1], generated_from: 3, ..SamplingRow::default() };
        let (mut logits, mut counts) = ([4.0, 4.0, -1.0, 4.0], Vec::new());
        for _ in 0..2 {
            logits = [4.0, 4.0, -1.0, 4.0];
            penalise(&mut logits, &row, &mut counts);
        }
        assert_bits(&logits, &[2.0, (4.0 - 1.0 - 0.25) / 2.0, (-1.0 - 0.5 - 0.25) * 2.0, 4.0], "penalised");
        assert_eq!(counts, [0; 4]);
    }

    #[test]
    fn generation_that_has_not_started_is_not_penalised() {
        let params = SamplingParams { presence_penalty: 1.0, ..SamplingParams::default() };
        let row = SamplingRow { params, history: vec![0, 1], generated_from: 7, ..SamplingRow::default() };
        let mut logits = [1.0, 2.0];
        penalise(&mut logits, &row, &mut Vec::new());
        assert_bits(&logits, &[1.0, 2.0], "penalised");
    }

    #[test]
    fn runs_are_not_repeated() {
        let forbidden = |history: &[u32], n| {
            let mut logits = [0.0; 4];
            forbid_repeated_ngrams(&mut logits, history, n);
            logits.map(|logit| logit < 0.0)
        };
        assert_eq!(forbidden(&[0, 1, 2, 0], 2), [false, true, false, false]);
        assert_eq!(forbidden(&[0, 1, 2, 0, 1], 3), [false, false, true, false]);
        assert_eq!(forbidden(&[3, 1, 9], 1), [false, true, false, true]);
        for n in [0, 4, usize::MAX] {
            assert_eq!(forbidden(&[1, 1, 1], n), [false; 4], "{n}");
        }
    }
}
