//! Any logits and parameters against double precision.

use super::{FEW, PLAIN, draw, kept, reference};
use crate::target::Target;
use nxd_ops::{Drawn, SamplingParams, SamplingRow};
use proptest::prelude::*;

/// Not a multiple of anything that blocks are made of.
const VOCAB: usize = 1003;

/// Rows of logits with ties and forbidden tokens.
fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        6 => (-40_i8..40).prop_map(|x| f32::from(x) * 0.125),
        3 => -9.0_f32..9.0,
        1 => Just(f32::NEG_INFINITY),
    ];
    prop::collection::vec(logit, VOCAB).prop_map(|mut logits| {
        // A row without a token is another test's.
        logits[7] = 0.5;
        logits
    })
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let p = || prop_oneof![2 => Just(1.0_f32), 3 => 0.0_f32..1.0];
    let min_p = prop_oneof![2 => Just(0.0_f32), 1 => 0.0_f32..0.3];
    let temperature = prop_oneof![1 => Just(0.0_f32), 5 => 0.3_f32..2.0];
    let top_k = prop_oneof![2 => Just(0_u32), 3 => 1_u32..60, 1 => Just(u32::MAX)];
    let penalties = prop_oneof![
        1 => Just((1.0, 0.0, 0.0)),
        1 => (0.8_f32..1.5, -0.5_f32..0.5, -0.5_f32..0.5),
    ];
    (temperature, top_k, p(), min_p, p(), penalties, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, typical_p, (repetition, presence, frequency), seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            typical_p,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            seed,
        },
    )
}

fn any_row() -> impl Strategy<Value = SamplingRow> {
    let history = prop::collection::vec(0..VOCAB as u32 + 20, 0..60);
    let mask = prop::option::weighted(
        0.2,
        prop_oneof![Just(3), Just(40)].prop_flat_map(|words| prop::collection::vec(any::<u32>(), words)).prop_map(
            |mut words| {
                words[0] |= 1 << 7;
                words.into()
            },
        ),
    );
    let bias = prop::collection::vec((0..VOCAB as u32 + 20, -4.0_f32..4.0), 0..20);
    let bias = prop::option::weighted(0.3, bias).prop_map(Option::unwrap_or_default);
    let target = prop::option::weighted(0.1, 0..VOCAB as u32);
    let logprobs = prop::option::of(prop_oneof![Just(0_u32), Just(5)]);
    (any_params(), history, 0_usize..70, any::<u32>(), any::<u32>(), logprobs, bias, mask, target).prop_map(
        |(params, history, generated_from, position, choice, logprobs, bias, allowed, target)| SamplingRow {
            params,
            history,
            generated_from,
            position,
            choice,
            logprobs,
            bias,
            allowed,
            target,
        },
    )
}

/// Compares a batch with the reference; how many rows' draws were compared.
fn compare(logits: &[Vec<f32>], rows: &[SamplingRow], target: &Target) -> Result<usize, TestCaseError> {
    let drawn = draw(logits, rows, target);
    let kept = kept(logits, rows, target);
    let mut compared = 0;
    for (((logits, row), drawn), found) in logits.iter().zip(rows).zip(drawn).zip(kept) {
        let Drawn::Token { id, logprobs } = drawn else {
            return Err(TestCaseError::fail("nothing was drawn"));
        };
        let adjusted = reference::adjusted(logits, row);
        if let Some(target) = row.target {
            prop_assert_eq!(id, target);
        } else if row.params.temperature > 0.0 {
            let expected = reference::kept(&adjusted, &row.params, target.candidates);
            if expected.is_close {
                continue;
            }
            let ids = |kept: &[(u32, f64)]| kept.iter().map(|&(id, _)| id).collect::<Vec<_>>();
            prop_assert_eq!(ids(&found), ids(&expected.kept), "{:?}", row);
            for ((id, found), (_, expected)) in found.iter().zip(&expected.kept) {
                prop_assert!((found - expected).abs() < 1e-5 * expected + 1e-12, "{id}: {found}, not {expected}");
            }
            let Some(expected) = reference::drawn(&expected, row) else { continue };
            prop_assert_eq!(id, expected, "{:?}", row);
        } else {
            let best = adjusted.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = adjusted.iter().position(|&logit| logit >= best).unwrap();
            prop_assert_eq!(id as usize, first, "{:?}", row);
        }
        compared += 1;
        let all = reference::logprobs(logits);
        let Some(count) = row.logprobs else {
            prop_assert!(logprobs.is_empty());
            continue;
        };
        let mut best: Vec<u32> = (0..VOCAB as u32).collect();
        best.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap());
        best.truncate(count as usize);
        if !best.contains(&id) {
            best.push(id);
        }
        prop_assert_eq!(logprobs.iter().map(|token| token.id).collect::<Vec<_>>(), best);
        for token in &logprobs {
            let (found, expected) = (f64::from(token.logprob), all[token.id as usize]);
            // A target may be a token that the logits forbid.
            let is_forbidden = found.to_bits() == f64::NEG_INFINITY.to_bits() && found.to_bits() == expected.to_bits();
            prop_assert!(is_forbidden || (found - expected).abs() < 1e-5, "{token:?}, not {expected}");
        }
    }
    Ok(compared)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batches_of_any_rows_equal_double_precision(
        logits in prop::collection::vec(any_logits(), 31),
        rows in prop::collection::vec(any_row(), 31),
    ) {
        for target in [Target::CPU, FEW] {
            let compared = compare(&logits, &rows, &target)?;
            prop_assert!(compared > 12, "only {compared} of 31 rows could be compared");
        }
    }
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    const DRAWS: usize = 4096;
    let logits: Vec<f32> = [1.0, 0.0, -1.0, 2.0, 0.5, 0.5, -0.5].into_iter().chain([f32::NEG_INFINITY; 30]).collect();
    for (params, target) in [
        (SamplingParams { seed: 1, ..PLAIN }, Target::CPU),
        (SamplingParams { seed: 2, temperature: 1.5, top_p: 0.9, ..PLAIN }, Target::CPU),
        (SamplingParams { seed: 3, top_k: 4, typical_p: 0.9, ..PLAIN }, FEW),
    ] {
        let rows: Vec<SamplingRow> =
            (0..DRAWS as u32).map(|position| SamplingRow { position, ..super::row(params) }).collect();
        let mut counts = [0_u32; 37];
        for rows in rows.chunks(64) {
            for drawn in draw(&vec![logits.clone(); 64], rows, &target) {
                let Drawn::Token { id, .. } = drawn else { panic!("nothing was drawn") };
                counts[id as usize] += 1;
            }
        }
        let expected = reference::kept(&logits, &params, target.candidates).kept;
        let drawn: u32 = expected.iter().map(|&(id, _)| counts[id as usize]).sum();
        assert_eq!(drawn as usize, DRAWS, "a token was drawn that was not kept: {counts:?}");
        let chi_square: f64 = expected
            .iter()
            .map(|&(id, probability)| {
                let mean = probability * DRAWS as f64;
                (f64::from(counts[id as usize]) - mean).powi(2) / mean
            })
            .sum();
        // The mean is the degrees of freedom, the variance twice that: this is about four deviations.
        let freedom = expected.len() as f64 - 1.0;
        assert!(chi_square < freedom + 4.0 * (2.0 * freedom).sqrt(), "{params:?}: chi square {chi_square}");
    }
}
