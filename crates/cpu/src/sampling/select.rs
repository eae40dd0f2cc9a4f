//! The largest logits without sorting all of them.

use super::softmax::CHUNK;

/// The largest logit and the first token that has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Peak {
    pub(super) id: u32,
    pub(super) logit: f32,
}

/// The peak of `logits`; `None` when a logit is NaN or +∞, or none is finite. One pass.
pub(super) fn peak(logits: &[f32]) -> Option<Peak> {
    let (mut best, mut best_chunk, mut refused) = (f32::NEG_INFINITY, 0, false);
    for (i, chunk) in logits.chunks(CHUNK).enumerate() {
        let (largest, not_below_infinity) = largest_of(chunk);
        refused |= not_below_infinity;
        if largest > best {
            (best, best_chunk) = (largest, i);
        }
    }
    if refused || best == f32::NEG_INFINITY {
        return None;
    }
    let start = best_chunk * CHUNK;
    let offset = logits[start..].iter().position(|&logit| logit >= best)?;
    Some(Peak { id: (start + offset) as u32, logit: best })
}

/// The `k`-th largest logit, `k` at least 1; -∞ when fewer than `k` lie above that. Linear time for every `k`; no logit is NaN.
pub(super) fn kth_largest(logits: &[f32], k: usize, above: &mut Vec<f32>) -> f32 {
    above.clear();
    let mut floor = f32::NEG_INFINITY;
    for chunk in logits.chunks(CHUNK) {
        // Soon most chunks lie under the floor as a whole, and finding that out takes vector instructions only.
        if largest_of(chunk).0 <= floor {
            continue;
        }
        for &logit in chunk {
            if logit > floor {
                above.push(logit);
                if above.len() >= 2 * k.max(32) {
                    floor = cut_to(k, above);
                }
            }
        }
    }
    if above.len() < k { floor } else { cut_to(k, above) }
}

/// The `count` tokens of the largest logits, best first and among equals the lower id first; fewer when others are -∞.
pub(super) fn largest(logits: &[f32], count: usize, above: &mut Vec<f32>, keys: &mut Vec<u64>) {
    keys.clear();
    if count == 0 {
        return;
    }
    let floor = if count < logits.len() { kth_largest(logits, count, above) } else { f32::NEG_INFINITY };
    for (id, &logit) in logits.iter().enumerate() {
        if logit >= floor && logit > f32::NEG_INFINITY {
            keys.push(u64::from(!ordered(logit)) << 32 | id as u64);
        }
    }
    keys.sort_unstable();
    keys.truncate(count);
}

/// The largest of a chunk, and whether a value is NaN or +∞.
fn largest_of(chunk: &[f32]) -> (f32, bool) {
    let (groups, rest) = chunk.as_chunks::<16>();
    let (mut largest, mut refused) = ([f32::NEG_INFINITY; 16], [0_u32; 16]);
    let mut take = |i: usize, value: f32| {
        largest[i] = if value > largest[i] { value } else { largest[i] };
        refused[i] |= u32::from(value >= f32::INFINITY) | u32::from(value.is_nan());
    };
    for group in groups {
        for (i, &value) in group.iter().enumerate() {
            take(i, value);
        }
    }
    for (i, &value) in rest.iter().enumerate() {
        take(i, value);
    }
    (largest.into_iter().fold(f32::NEG_INFINITY, f32::max), refused.into_iter().any(|refused| refused > 0))
}

/// Leaves the `k` largest and returns the smallest of them.
fn cut_to(k: usize, values: &mut Vec<f32>) -> f32 {
    let kth = *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
    values.truncate(k);
    kth
}

/// Integers in the order of the numbers; both zeros are one number.
fn ordered(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Few distinct values, so that ties are common.
    fn logits() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![9 => (-9_i8..9).prop_map(|x| f32::from(x) * 0.5), 1 => Just(f32::NEG_INFINITY)];
        proptest::collection::vec(logit, 1..3000)
    }

    proptest! {
        #[test]
        fn selection_equals_sorting(logits in logits(), k in 1_usize..4000) {
            let mut sorted: Vec<usize> = (0..logits.len()).filter(|&i| logits[i] > f32::NEG_INFINITY).collect();
            sorted.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap());
            let expected = sorted.get(k - 1).map_or(f32::NEG_INFINITY, |&i| logits[i]);
            prop_assert!((kth_largest(&logits, k, &mut Vec::new()) + 0.0).to_bits() == (expected + 0.0).to_bits());

            let mut keys = Vec::new();
            largest(&logits, k, &mut Vec::new(), &mut keys);
            let ids: Vec<usize> = keys.iter().map(|&key| key as u32 as usize).collect();
            sorted.truncate(k);
            prop_assert_eq!(ids, sorted.clone());

            prop_assert_eq!(peak(&logits).map(|peak| peak.id as usize), sorted.first().copied());
        }

        #[test]
        fn a_nan_or_an_infinity_is_found_anywhere(mut logits in logits(), at in any::<prop::sample::Index>(), nan in any::<bool>()) {
            let at = at.index(logits.len());
            logits[at] = if nan { f32::NAN } else { f32::INFINITY };
            prop_assert_eq!(peak(&logits), None);
        }
    }

    #[test]
    fn nothing_has_no_peak() {
        assert_eq!(peak(&[]), None);
        assert_eq!(peak(&[f32::NEG_INFINITY; 3]), None);
    }
}
