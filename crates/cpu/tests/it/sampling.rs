//! Sampling against golden data, and what must hold for any logits and parameters.

use std::collections::BTreeMap;

use nxd_cpu::sampling::penalties::{forbid_repeated_ngrams, penalise};
use nxd_cpu::sampling::speculation::{acceptance, expected_acceptance, residual_into};
use nxd_cpu::sampling::{SamplingScratch, draw_row, keep, logprobs};
use nxd_ops::{Drawn, SamplingParams, SamplingRow, TokenLogprob};
use nxd_testkit::{folders, goldens};
use proptest::prelude::*;
use serde_json::Value;

/// Sampling with nothing but the plain softmax.
const PLAIN: SamplingParams = SamplingParams {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    typical_p: 1.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    seed: 0,
};

/// The golden sampling cases: the folders whose `expected.json` has a list of rejections.
fn golden() -> Vec<(Value, Vec<Vec<f32>>)> {
    let files =
        folders(&goldens()).into_iter().filter_map(|folder| std::fs::read_to_string(folder.join("expected.json")).ok());
    let found: Vec<_> = files
        .filter(|text| text.contains("\"rejection\""))
        .map(|text| {
            let expected: Value = serde_json::from_str(&text).unwrap();
            let narrow = |row: &Value| floats(row).iter().map(|&x| x as f32).collect();
            let logits = cases(&expected, "logits").iter().map(narrow).collect();
            (expected, logits)
        })
        .collect();
    assert!(!found.is_empty(), "no sampling cases in {}", goldens().display());
    found
}

fn cases<'v>(expected: &'v Value, name: &str) -> &'v [Value] {
    let cases = expected[name].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(!cases.is_empty(), "no `{name}` cases");
    cases
}

/// The cases of one list in every file, each with its file's logits.
fn all_cases<'v>(
    golden: &'v [(Value, Vec<Vec<f32>>)],
    list: &'v str,
) -> impl Iterator<Item = (&'v Value, &'v Vec<Vec<f32>>)> {
    golden.iter().flat_map(move |(file, logits)| cases(file, list).iter().map(move |case| (case, logits)))
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| index(x) as u32).collect()
}

fn index(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

#[track_caller]
fn assert_close(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 1e-9 + 1e-5 * expected.abs(), "{what}: {found}, expected {expected}");
}

/// The case's parameters, and the run length that must not repeat; an unknown parameter's name instead.
fn params_of(case: &Value) -> Result<(SamplingParams, usize), &str> {
    let (mut params, mut ngram) = (PLAIN, 0);
    for (name, value) in case["params"].as_object().unwrap() {
        let number = value.as_f64().unwrap() as f32;
        match name.as_str() {
            "temperature" => params.temperature = number,
            "top_k" => params.top_k = index(value) as u32,
            "top_p" => params.top_p = number,
            "min_p" => params.min_p = number,
            "typical_p" => params.typical_p = number,
            "repetition_penalty" => params.repetition_penalty = number,
            "presence_penalty" => params.presence_penalty = number,
            "frequency_penalty" => params.frequency_penalty = number,
            "no_repeat_ngram" => ngram = index(value),
            unknown => return Err(unknown),
        }
    }
    Ok((params, ngram))
}

#[test]
fn golden_sampling_filters() {
    let golden = golden();
    let mut scratch = SamplingScratch::default();
    let (mut ran, mut ties, mut skipped) = (0, 0, Vec::new());
    for (case, logits) in all_cases(&golden, "filter") {
        let what = format!("logits {} with {}", case["logits"], case["params"]);
        let (params, ngram) = match params_of(case) {
            Ok(params) => params,
            Err(unknown) => {
                skipped.push(unknown);
                continue;
            }
        };
        let history = ids(&case["history"]);
        let row =
            SamplingRow { params, history, generated_from: index(&case["generated_from"]), ..SamplingRow::default() };
        let mut logits = logits[index(&case["logits"])].clone();
        penalise(&mut logits, &row, &mut Vec::new());
        forbid_repeated_ngrams(&mut logits, &row.history, ngram);

        let kept = keep(&logits, &params, &mut scratch).unwrap();
        let expected = ids(&case["kept"]);
        assert_eq!(kept.ids().len(), expected.len(), "{what}: kept {:?}, expected {expected:?}", kept.ids());
        // Which of equally likely tokens stays is the sorting's choice: compare logits, in order, not ids.
        let sorted = |ids: &[u32]| {
            let mut logits: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
            logits.sort_by(f32::total_cmp);
            logits
        };
        let (found_logits, expected_logits) = (sorted(kept.ids()), sorted(&expected));
        assert_eq!(found_logits, expected_logits, "{what}: kept {:?}, expected {expected:?}", kept.ids());
        ties += usize::from(kept.ids() != expected);

        let (mut found, mut probs) = (kept.probabilities().collect::<Vec<_>>(), floats(&case["probs_kept"]));
        found.sort_by(f64::total_cmp);
        probs.sort_by(f64::total_cmp);
        for (found, expected) in found.iter().zip(&probs) {
            assert_close(*found, *expected, &what);
        }
        let best =
            (0..kept.ids().len()).rev().max_by(|&a, &b| kept.weights()[a].total_cmp(&kept.weights()[b])).unwrap();
        let (best, argmax) = (logits[kept.ids()[best] as usize], logits[index(&case["argmax"])]);
        assert_eq!(best.to_bits(), argmax.to_bits(), "{what}: logit of the most likely token");
        ran += 1;
    }
    println!("{ran} filter cases ran, {ties} of them with other ids among equals; skipped: {skipped:?}");
    assert!(ran > 0, "no filter case ran");
}

#[test]
fn golden_sampling_logprobs() {
    let golden = golden();
    let (mut scratch, mut ran) = (SamplingScratch::default(), 0);
    for (case, logits) in all_cases(&golden, "logprobs") {
        let what = format!("logits {}", case["logits"]);
        let logits = &logits[index(&case["logits"])];
        let (ids, values) = (ids(&case["top_ids"]), floats(&case["top_logprobs"]));
        let top = logprobs(logits, ids.len(), ids[0], &mut scratch).unwrap();
        for (i, (found, (id, value))) in top.iter().zip(ids.iter().zip(&values)).enumerate() {
            assert_close(f64::from(found.logprob), *value, &what);
            let same = logits[found.id as usize].to_bits() == logits[*id as usize].to_bits();
            assert!(same, "{what}: place {i} has token {}, expected {id}", found.id);
        }
        assert!(top.len() >= ids.len(), "{what}: {} of {} tokens", top.len(), ids.len());
        assert_close(keep(logits, &PLAIN, &mut scratch).unwrap().entropy(), case["entropy"].as_f64().unwrap(), &what);
        ran += 1;
    }
    println!("{ran} log-probability cases ran");
}

#[test]
fn golden_sampling_rejection() {
    let golden = golden();
    let (mut scratch, mut ran) = (SamplingScratch::default(), 0);
    for (case, logits) in all_cases(&golden, "rejection") {
        let what = format!("target {}, draft {}", case["target_logits"], case["draft_logits"]);
        let mut probabilities = |name: &str| -> Vec<f64> {
            keep(&logits[index(&case[name])], &PLAIN, &mut scratch).unwrap().probabilities().collect()
        };
        let (target, draft) = (probabilities("target_logits"), probabilities("draft_logits"));
        for (i, expected) in floats(&case["accept_prob"]).into_iter().enumerate() {
            assert_close(acceptance(target[i], draft[i]), expected, &format!("{what}: token {i}"));
        }
        let mut residual = vec![0.0; target.len()];
        residual_into(&target, &draft, &mut residual);
        for (i, (found, expected)) in residual.iter().zip(floats(&case["residual"])).enumerate() {
            // A difference of probabilities has their absolute error, not a relative one.
            assert!((found - expected).abs() < 1e-6, "{what}: residual of token {i} is {found}, expected {expected}");
        }
        let accepted = case["expected_acceptance"].as_f64().unwrap();
        assert_close(expected_acceptance(&target, &draft), accepted, &what);
        ran += 1;
    }
    println!("{ran} rejection cases ran");
}

/// Logits with ties, forbidden tokens, and at least one that may be drawn.
fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        6 => -20.0_f32..20.0,
        3 => (-4_i8..4).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(f32::MIN),
    ];
    (proptest::collection::vec(logit, 0..1500), -20.0_f32..20.0).prop_map(|(mut logits, last)| {
        logits.push(last);
        logits
    })
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(f32::MIN_POSITIVE), Just(f32::INFINITY), 0.1_f32..3.0];
    let top_k = prop_oneof![2 => Just(0), 3 => 1_u32..50, 1 => Just(u32::MAX)];
    let share = || prop_oneof![Just(0.0_f32), Just(1.0), 0.0_f32..1.0];
    (temperature, top_k, share(), share(), share(), any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, typical_p, seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            typical_p,
            seed,
            ..PLAIN
        },
    )
}

fn kept_ids(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
    keep(logits, params, &mut SamplingScratch::default()).unwrap().ids().to_vec()
}

/// The filters as their definitions read, in double precision, by sorting everything.
fn kept_by_definition(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut ids: Vec<u32> = (0..logits.len() as u32).filter(|&id| logits[id as usize] > f32::NEG_INFINITY).collect();
    let weight = |id: u32| (f64::from(logits[id as usize] - max) / f64::from(params.temperature)).exp();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    if let Some(&kth) = ids.get((params.top_k as usize).wrapping_sub(1)) {
        ids.retain(|&id| logits[id as usize] >= logits[kth as usize]);
    }
    if params.top_p < 1.0 {
        let total: f64 = ids.iter().map(|&id| weight(id)).sum();
        let mut before = 0.0;
        let nucleus = ids.iter().position(|&id| {
            let out = before > 0.0 && before >= f64::from(params.top_p) * total;
            before += weight(id);
            out
        });
        ids.truncate(nucleus.unwrap_or(ids.len()));
    }
    ids.retain(|&id| weight(id) >= f64::from(params.min_p));
    ids.sort_unstable();
    ids
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn something_allowed_is_always_drawn_and_always_the_same(
        logits in any_logits(),
        params in any_params(),
        other in any_logits(),
        history in proptest::collection::vec(0_u32..4000, 0..30),
        penalised in any::<bool>(),
        logprobs in proptest::option::of(0_u32..5000),
    ) {
        let penalty = if penalised { 1.3 } else { 1.0 };
        let params = SamplingParams { repetition_penalty: penalty, ..params };
        let row = SamplingRow { params, history, logprobs, position: 5, ..SamplingRow::default() };
        let alone = draw_row(&logits, &row, &mut SamplingScratch::default());
        let Drawn::Token { id, logprobs: best } = &alone else { panic!("nothing was drawn") };
        prop_assert!(logits[*id as usize] > f32::NEG_INFINITY);
        if !penalised {
            prop_assert!(kept_ids(&logits, &params).contains(id));
        }
        // Space that another row has used changes nothing.
        let mut scratch = SamplingScratch::default();
        draw_row(&other, &row, &mut scratch);
        prop_assert_eq!(&draw_row(&logits, &row, &mut scratch), &alone);

        let logit = |token: &TokenLogprob| logits[token.id as usize];
        let allowed = logits.iter().filter(|logit| **logit > f32::NEG_INFINITY).count();
        let count = logprobs.map_or(0, |count| allowed.min(count as usize));
        prop_assert!(best.len() == count || best.len() == count + 1 && best[count].id == *id);
        prop_assert!(best[..count].is_sorted_by(|a, b| (logit(b), a.id) <= (logit(a), b.id)));
        prop_assert_eq!(best.iter().any(|token| token.id == *id), logprobs.is_some());
    }

    #[test]
    fn filters_do_what_their_definitions_say(logits in any_logits(), params in any_params()) {
        // Weights lose their order when the temperature makes them all 0 or all 1.
        prop_assume!((0.1..3.0).contains(&params.temperature));
        let params = SamplingParams { typical_p: 1.0, ..params };
        let (found, expected) = (kept_ids(&logits, &params), kept_by_definition(&logits, &params));
        // Where a border falls between two tokens of rounding's width, either is right.
        prop_assert!(found.len().abs_diff(expected.len()) <= 1, "{} against {}", found.len(), expected.len());
        let differing = found.iter().filter(|id| expected.binary_search(id).is_err()).count();
        prop_assert!(differing <= 1, "{differing} tokens differ");
    }

    #[test]
    fn looser_filters_keep_more(
        logits in any_logits(),
        params in any_params(),
        (p, q) in (0.0_f32..1.0, 0.0_f32..1.0),
        (k, l) in (1_u32..60, 1_u32..60),
    ) {
        let no_typical = SamplingParams { typical_p: 1.0, ..params };
        let top_k_alone = SamplingParams { top_p: 1.0, ..no_typical };
        let (low, high) = (p.min(q), p.max(q));
        let pairs = [
            (SamplingParams { top_p: low, ..no_typical }, SamplingParams { top_p: high, ..no_typical }),
            (SamplingParams { min_p: high, ..no_typical }, SamplingParams { min_p: low, ..no_typical }),
            (SamplingParams { top_k: k.min(l), ..top_k_alone }, SamplingParams { top_k: k.max(l), ..top_k_alone }),
            (SamplingParams { typical_p: low, ..top_k_alone }, SamplingParams { typical_p: high, ..top_k_alone }),
        ];
        for (tight, loose) in pairs {
            let kept = kept_ids(&logits, &loose);
            let lost = kept_ids(&logits, &tight).into_iter().find(|id| kept.binary_search(id).is_err());
            prop_assert_eq!(lost, None, "{:?} against {:?}", tight, loose);
        }
    }
}

#[test]
fn the_strictest_filters_keep_the_most_likely_token() {
    let logits = [0.0, 3.0, -1.0, 2.5];
    for strict in [
        SamplingParams { top_k: 1, ..PLAIN },
        SamplingParams { top_p: 0.0, ..PLAIN },
        SamplingParams { top_p: -1.0, ..PLAIN },
        SamplingParams { min_p: 1.0, ..PLAIN },
        SamplingParams { min_p: 7.0, ..PLAIN },
        SamplingParams { temperature: 0.0, ..PLAIN },
        SamplingParams { temperature: f32::NAN, ..PLAIN },
        SamplingParams { temperature: f32::MIN_POSITIVE, top_p: 0.99, ..PLAIN },
    ] {
        assert_eq!(kept_ids(&logits, &strict), [1], "{strict:?}");
    }
    let typical = SamplingParams { typical_p: 0.0, ..PLAIN };
    assert_eq!(kept_ids(&logits, &typical).len(), 1);
    let all = SamplingParams { top_k: u32::MAX, ..PLAIN };
    assert_eq!(kept_ids(&logits, &all), [0, 1, 2, 3]);
}

#[test]
fn a_tie_goes_to_the_lowest_id() {
    let greedy = SamplingRow { logprobs: Some(2), ..SamplingRow::default() };
    let mut logits = vec![0.0; 3000];
    for id in [1500, 1501, 2999] {
        logits[id] = 1.0;
    }
    let Drawn::Token { id, logprobs } = draw_row(&logits, &greedy, &mut SamplingScratch::default()) else {
        panic!("nothing was drawn")
    };
    assert_eq!(id, 1500);
    assert_eq!(logprobs.iter().map(|token| token.id).collect::<Vec<_>>(), [1500, 1501]);
}

#[test]
fn what_is_not_finite_is_reported() {
    let mut scratch = SamplingScratch::default();
    let rows = [
        SamplingRow { logprobs: Some(3), ..SamplingRow::default() },
        SamplingRow { params: PLAIN, ..SamplingRow::default() },
        SamplingRow { params: SamplingParams { top_k: 2, repetition_penalty: 1.5, ..PLAIN }, ..SamplingRow::default() },
    ];
    for row in rows {
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(draw_row(&[1.0, bad, 2.0], &row, &mut scratch), Drawn::NotFinite, "{bad}");
        }
        assert_eq!(draw_row(&[f32::NEG_INFINITY; 3], &row, &mut scratch), Drawn::NotFinite);
        assert_eq!(draw_row(&[], &row, &mut scratch), Drawn::NotFinite);
        let one = draw_row(&[f32::NEG_INFINITY, 1.0], &row, &mut scratch);
        assert!(matches!(one, Drawn::Token { id: 1, .. }), "{one:?}");
    }
}

#[test]
fn a_mask_limits_the_draw_and_leaves_the_logprobs() {
    let logits = [0.0, 3.0, -1.0, 2.5];
    let mut scratch = SamplingScratch::default();
    for params in [SamplingParams::default(), SamplingParams { repetition_penalty: 1.5, ..PLAIN }, PLAIN] {
        let row = |bits: u32| SamplingRow {
            params,
            history: vec![0],
            logprobs: Some(1),
            allowed: Some([bits].into()),
            ..SamplingRow::default()
        };
        for (bits, only) in [(0b0100, 2), (0b0001, 0), (0b1000, 3)] {
            let Drawn::Token { id, logprobs: best } = draw_row(&logits, &row(bits), &mut scratch) else {
                panic!("nothing was drawn")
            };
            assert_eq!(id, only, "{params:?}");
            assert_eq!(best, logprobs(&logits, 1, only, &mut scratch).unwrap(), "{params:?}");
            assert_eq!(best[0].id, 1, "the most likely token is reported although it is forbidden");
        }
        assert_eq!(draw_row(&logits, &row(0), &mut scratch), Drawn::NotFinite);
        let free = SamplingRow { allowed: None, ..row(0) };
        assert_eq!(draw_row(&logits, &row(0b1111), &mut scratch), draw_row(&logits, &free, &mut scratch));
        let forbidden_nan = [f32::NAN, 1.0];
        let unasked = SamplingRow { logprobs: None, ..row(0b10) };
        assert_eq!(draw_row(&forbidden_nan, &unasked, &mut scratch), Drawn::NotFinite);
    }
}

#[test]
fn a_bias_changes_the_draw_and_leaves_the_logprobs() {
    let logits = [0.0, 3.0, -1.0, 2.5];
    let mut scratch = SamplingScratch::default();
    for params in [SamplingParams::default(), SamplingParams { repetition_penalty: 1.5, ..PLAIN }, PLAIN] {
        let row = |bias: &[(u32, f32)]| SamplingRow {
            params,
            history: vec![0],
            logprobs: Some(1),
            bias: bias.to_vec(),
            ..SamplingRow::default()
        };
        // Token 2 is listed twice, and gets both; token 9 is outside the vocabulary.
        for (bias, only) in [(vec![(0, 100.0)], 0), (vec![(2, 60.0), (9, 500.0), (3, 80.0), (2, 60.0)], 2)] {
            let Drawn::Token { id, logprobs: best } = draw_row(&logits, &row(&bias), &mut scratch) else {
                panic!("nothing was drawn")
            };
            assert_eq!(id, only, "{params:?}");
            assert_eq!(best, logprobs(&logits, 1, only, &mut scratch).unwrap(), "{params:?}");
        }
        let unbiased = draw_row(&logits, &row(&[]), &mut scratch);
        assert_eq!(draw_row(&logits, &row(&[(1, 0.0), (7, 1.0)]), &mut scratch), unbiased);
        // A bias lifts no token above the mask, and allows none that the logits forbid.
        let masked = SamplingRow { allowed: Some([0b1001].into()), ..row(&[(1, 200.0), (3, 100.0)]) };
        assert!(matches!(draw_row(&logits, &masked, &mut scratch), Drawn::Token { id: 3, .. }), "{params:?}");
        let forbidden = [1.0, f32::NEG_INFINITY];
        let drawn = draw_row(&forbidden, &row(&[(1, 100.0)]), &mut scratch);
        assert!(matches!(drawn, Drawn::Token { id: 0, .. }), "{drawn:?}");
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(draw_row(&[1.0, bad], &row(&[(1, -100.0)]), &mut scratch), Drawn::NotFinite, "{bad}");
        }
    }
}

#[test]
fn the_bias_comes_after_the_penalties() {
    let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
    let row = SamplingRow { params, history: vec![0], bias: vec![(0, 2.0)], ..SamplingRow::default() };
    // 4 / 2 + 2 is more than 3.5, (4 + 2) / 2 is not.
    let drawn = draw_row(&[4.0, 3.5], &row, &mut SamplingScratch::default());
    assert!(matches!(drawn, Drawn::Token { id: 0, .. }), "{drawn:?}");
}

#[test]
fn a_target_is_reported_as_if_it_had_been_drawn() {
    let logits: Vec<f32> = (0..2000).map(|i| (i as f32 * 0.7).sin() * 6.0).collect();
    let mut scratch = SamplingScratch::default();
    for count in [0, 1, 5] {
        for target in [0, 3, 999, 1999] {
            let allowed = (0..63).map(|word| u32::from(word == target / 32) << (target % 32)).collect();
            let drawn = SamplingRow { allowed: Some(allowed), logprobs: Some(count), ..SamplingRow::default() };
            let drawn = draw_row(&logits, &drawn, &mut scratch);
            assert!(matches!(drawn, Drawn::Token { id, .. } if id == target), "{drawn:?}");
            // Nothing else is looked at.
            let fixed = SamplingRow {
                params: SamplingParams { presence_penalty: 5.0, ..PLAIN },
                history: vec![target],
                bias: vec![(target, -50.0)],
                allowed: Some([].into()),
                target: Some(target),
                logprobs: Some(count),
                ..SamplingRow::default()
            };
            assert_eq!(draw_row(&logits, &fixed, &mut scratch), drawn);
            let unasked = draw_row(&logits, &SamplingRow { logprobs: None, ..fixed }, &mut scratch);
            assert_eq!(unasked, Drawn::Token { id: target, logprobs: Vec::new() });
        }
    }
    let fixed = |target| SamplingRow { target: Some(target), logprobs: Some(0), ..SamplingRow::default() };
    assert_eq!(draw_row(&logits, &fixed(2000), &mut scratch), Drawn::NotFinite, "a target outside the vocabulary");
    for bad in [f32::NAN, f32::INFINITY] {
        assert_eq!(draw_row(&[bad, 1.0], &fixed(1), &mut scratch), Drawn::NotFinite, "{bad}");
    }
    let Drawn::Token { id: 1, logprobs } = draw_row(&[0.0, f32::NEG_INFINITY], &fixed(1), &mut scratch) else {
        panic!("a forbidden target has a log-probability too")
    };
    assert_eq!(
        logprobs.iter().map(|t| (t.id, t.logprob.to_bits())).collect::<Vec<_>>(),
        [(1, f32::NEG_INFINITY.to_bits())]
    );
}

/// Draws at many positions and compares how often each token came with its probability.
fn assert_drawn_as_likely(logits: &[f32], params: SamplingParams) {
    const DRAWS: u32 = 20_000;
    let mut scratch = SamplingScratch::default();
    let mut counts = BTreeMap::new();
    for position in 0..DRAWS {
        let row = SamplingRow { params, position, ..SamplingRow::default() };
        let Drawn::Token { id, .. } = draw_row(logits, &row, &mut scratch) else { panic!("nothing was drawn") };
        *counts.entry(id).or_insert(0_u32) += 1;
    }
    let kept = keep(logits, &params, &mut scratch).unwrap();
    let mut chi_square = 0.0;
    for (id, probability) in kept.ids().iter().zip(kept.probabilities()) {
        let mean = probability * f64::from(DRAWS);
        chi_square += (f64::from(counts.remove(id).unwrap_or(0)) - mean).powi(2) / mean;
    }
    assert!(counts.is_empty(), "drawn although not kept: {counts:?}");
    // The mean is the degrees of freedom, the variance twice that: this is about four deviations.
    let freedom = kept.ids().len() as f64 - 1.0;
    assert!(chi_square < freedom + 4.0 * (2.0 * freedom).sqrt(), "{params:?}: chi square {chi_square} for {freedom}");
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    let mut logits = vec![f32::NEG_INFINITY; 1500];
    for (i, logit) in [1.0, 0.0, -1.0, 2.0, 0.5, 0.5, -0.5].into_iter().enumerate() {
        logits[i * 200 + 100] = logit;
    }
    for params in [
        SamplingParams { seed: 1, ..PLAIN },
        SamplingParams { seed: 2, temperature: 0.6, ..PLAIN },
        SamplingParams { seed: 3, top_k: 4, ..PLAIN },
        SamplingParams { seed: 4, temperature: 1.5, top_p: 0.9, min_p: 0.05, ..PLAIN },
        SamplingParams { seed: 5, typical_p: 0.8, ..PLAIN },
    ] {
        assert_drawn_as_likely(&logits, params);
    }
}

#[test]
fn seed_choice_and_position_make_other_draws() {
    let logits = vec![0.0; 100_000];
    let mut scratch = SamplingScratch::default();
    let mut draw = |seed, choice, position| {
        let params = SamplingParams { seed, ..PLAIN };
        let row = SamplingRow { params, choice, position, ..SamplingRow::default() };
        draw_row(&logits, &row, &mut scratch)
    };
    let first = draw(1, 0, 0);
    assert_eq!(draw(1, 0, 0), first);
    for other in [draw(2, 0, 0), draw(1, 1, 0), draw(1, 0, 1)] {
        assert_ne!(other, first);
    }
}
