//! Ties, broken rows, filling, masks, and rows that must not meet.

use super::{FEW, PLAIN, draw, kept, row};
use crate::target::Target;
use nxd_ops::{Drawn, SamplingParams, SamplingRow};

fn ids(drawn: &[Drawn]) -> Vec<Option<u32>> {
    let id = |drawn: &Drawn| match drawn {
        Drawn::Token { id, .. } => Some(*id),
        Drawn::NotFinite => None,
    };
    drawn.iter().map(id).collect()
}

#[test]
fn a_tie_goes_to_the_lowest_id() {
    let mut logits = vec![-0.5; 300];
    for id in [150, 151, 299] {
        logits[id] = 1.0;
    }
    let mut zeros = vec![-1.0; 300];
    (zeros[10], zeros[20]) = (-0.0, 0.0);
    let rows = vec![SamplingRow { logprobs: Some(2), ..SamplingRow::default() }; 2];
    for target in [Target::CPU, FEW] {
        let drawn = draw(&[logits.clone(), zeros.clone()], &rows, &target);
        assert_eq!(ids(&drawn), [Some(150), Some(10)]);
        let best = |drawn: &Drawn| match drawn {
            Drawn::Token { logprobs, .. } => logprobs.iter().map(|token| token.id).collect::<Vec<_>>(),
            Drawn::NotFinite => Vec::new(),
        };
        assert_eq!(best(&drawn[0]), [150, 151]);
        assert_eq!(best(&drawn[1]), [10, 20], "both zeros are one number");
    }
    // The nucleus ends within the tie, of which the lower ids stay; top-k keeps all of a tie.
    let nucleus = row(SamplingParams { top_p: 0.009, ..PLAIN });
    let two = row(SamplingParams { top_k: 2, ..PLAIN });
    let found = kept(&[logits.clone(), logits], &[nucleus, two], &Target::CPU);
    let of = |kept: &[(u32, f64)]| kept.iter().map(|&(id, _)| id).collect::<Vec<_>>();
    assert_eq!(of(&found[0]), [150]);
    assert_eq!(of(&found[1]), [150, 151, 299]);
}

#[test]
fn the_nucleus_ends_with_the_token_that_reaches_it() {
    // Four equal weights: two of them are exactly half.
    for (top_p, count) in [(0.5, 2), (0.500_01, 3), (0.25, 1)] {
        for target in [Target::CPU, FEW] {
            let found = kept(&[vec![1.0; 4]], &[row(SamplingParams { top_p, ..PLAIN })], &target);
            assert_eq!(
                found[0].iter().map(|&(id, _)| id).collect::<Vec<_>>(),
                (0..count).collect::<Vec<_>>(),
                "{top_p}"
            );
        }
    }
}

#[test]
fn broken_rows_are_reported_and_leave_others_alone() {
    let good = vec![0.5, 1.0, -2.0, 0.0, 3.0];
    let (nan, infinity, least) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    let logits = [
        good.clone(),
        vec![0.5, nan, 0.0, 0.0, 0.0],
        vec![0.5, infinity, 0.0, 0.0, 0.0],
        good.clone(),
        vec![least; 5],
        vec![nan; 5],
        vec![least, least, 1.0, least, least],
    ];
    for params in [
        SamplingParams::default(),
        PLAIN,
        SamplingParams { top_k: 3, repetition_penalty: 1.5, ..PLAIN },
        SamplingParams { top_p: 0.9, typical_p: 0.9, min_p: 0.01, ..PLAIN },
    ] {
        let one = SamplingRow { params, history: vec![0, 1], logprobs: Some(3), ..SamplingRow::default() };
        for target in [Target::CPU, FEW] {
            let drawn = draw(&logits, &vec![one.clone(); 7], &target);
            let alone = draw(std::slice::from_ref(&good), std::slice::from_ref(&one), &target);
            let (alone_id, Drawn::Token { logprobs, .. }) = (ids(&alone)[0], &alone[0]) else { panic!("{alone:?}") };
            assert_eq!(ids(&drawn), [alone_id, None, None, alone_id, None, None, Some(2)], "{params:?}");
            for i in [0, 3] {
                let Drawn::Token { logprobs: found, .. } = &drawn[i] else { panic!("{:?}", drawn[i]) };
                assert_eq!(found, logprobs);
            }
            // Forbidden tokens are not reported.
            let Drawn::Token { logprobs, .. } = &drawn[6] else { panic!("{:?}", drawn[6]) };
            assert_eq!(logprobs.iter().map(|token| (token.id, token.logprob.to_bits())).collect::<Vec<_>>(), [(2, 0)]);
        }
    }
}

#[test]
fn a_mask_limits_the_draw_and_leaves_the_logprobs() {
    let logits: Vec<f32> = (0..70).map(|i| i as f32 * 0.1).collect();
    let masked = |params, words: &[u32]| SamplingRow { allowed: Some(words.into()), logprobs: Some(1), ..row(params) };
    for params in [SamplingParams::default(), PLAIN, SamplingParams { top_k: 1, ..PLAIN }] {
        let rows = [
            masked(params, &[1 << 31]),
            masked(params, &[0, 1]),
            masked(params, &[0, 0, 1 << 5]),
            // Bits beyond the vocabulary are no tokens.
            masked(params, &[0, 0, 1 << 6, u32::MAX]),
            masked(params, &[]),
            SamplingRow { allowed: None, ..masked(PLAIN, &[]) },
        ];
        let all = vec![logits.clone(); rows.len()];
        for target in [Target::CPU, FEW] {
            let drawn = draw(&all, &rows, &target);
            assert_eq!(ids(&drawn)[..5], [Some(31), Some(32), Some(69), None, None], "{params:?}");
            assert!(ids(&drawn)[5].is_some(), "a row without a mask beside masked ones");
            let Drawn::Token { logprobs, .. } = &drawn[0] else { panic!("{:?}", drawn[0]) };
            assert_eq!(logprobs.iter().map(|token| token.id).collect::<Vec<_>>(), [69, 31]);
        }
        // Masks that are too short by more than the batch's longest, alone: the missing words forbid.
        assert_eq!(ids(&draw(&all[..1], &rows[..1], &Target::CPU)), [Some(31)]);
        assert_eq!(ids(&draw(&all[..1], &rows[4..5], &Target::CPU)), [None]);
        let broken = vec![vec![f32::NAN, 1.0]];
        assert_eq!(ids(&draw(&broken, &[masked(params, &[0b10])], &Target::CPU)), [None], "a mask hides no NaN");
    }
}

#[test]
fn greedy_and_random_rows_share_a_program() {
    let logits: Vec<f32> = (0..40).map(|i| ((i * 7) % 40) as f32 * 0.01).collect();
    let random = |position| SamplingRow { position, ..row(SamplingParams { top_p: 0.99, ..PLAIN }) };
    let rows: Vec<SamplingRow> = (0..20).map(|i| if i % 2 == 0 { SamplingRow::default() } else { random(i) }).collect();
    let together = ids(&draw(&vec![logits.clone(); 20], &rows, &Target::CPU));
    assert!(together.iter().step_by(2).all(|&id| id == Some(17)), "{together:?}");
    let mut others: Vec<_> = together.iter().skip(1).step_by(2).collect();
    others.dedup();
    assert!(others.len() > 5, "random rows hardly differ: {others:?}");
    // What a row draws does not depend on the rows beside it.
    for (i, row) in rows.iter().enumerate().take(6) {
        let alone = draw(std::slice::from_ref(&logits), std::slice::from_ref(row), &Target::CPU);
        assert_eq!(ids(&alone)[0], together[i], "row {i}");
    }
}

#[test]
fn the_strictest_filters_keep_the_most_likely_token() {
    let logits = vec![0.0, 3.0, -1.0, 2.5];
    let strict = [
        SamplingParams { top_k: 1, ..PLAIN },
        SamplingParams { top_p: 0.0, ..PLAIN },
        SamplingParams { top_p: -1.0, ..PLAIN },
        SamplingParams { min_p: 1.0, ..PLAIN },
        SamplingParams { min_p: 7.0, ..PLAIN },
        SamplingParams { temperature: -1.0, ..PLAIN },
        SamplingParams { temperature: f32::NAN, ..PLAIN },
        SamplingParams { temperature: f32::MIN_POSITIVE, top_p: 0.99, ..PLAIN },
        SamplingParams { min_p: f32::NAN, ..PLAIN },
    ];
    for target in [Target::CPU, FEW] {
        let found = ids(&draw(&vec![logits.clone(); strict.len()], &strict.map(row), &target));
        assert_eq!(found, [Some(1); 9]);
        let typical = [row(SamplingParams { typical_p: 0.0, ..PLAIN })];
        assert_eq!(kept(std::slice::from_ref(&logits), &typical, &target)[0].len(), 1);
        let all = [row(SamplingParams { top_k: u32::MAX, temperature: f32::INFINITY, ..PLAIN })];
        let found = &kept(&[vec![0.0, f32::NEG_INFINITY, 3.0]], &all, &target)[0];
        let mut found: Vec<u32> = found.iter().map(|&(id, _)| id).collect();
        found.sort_unstable();
        assert_eq!(found, [0, 2], "an infinite temperature makes all that is allowed as likely");
    }
}

#[test]
fn penalties_count_generated_tokens_and_see_the_whole_history() {
    let params = SamplingParams {
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        repetition_penalty: 2.0,
        ..SamplingParams::default()
    };
    // Token 9 is outside the vocabulary, as ids of added tokens may be.
    let one = |history: &[u32], generated_from| SamplingRow {
        params,
        history: history.to_vec(),
        generated_from,
        ..SamplingRow::default()
    };
    let rows = [
        one(&[0, 1, 9, 1, 2, 1], 3),
        one(&[0, 1, u32::MAX, 1], 7),
        SamplingRow { history: vec![3; 5], ..SamplingRow::default() },
    ];
    let bucket = crate::sampling::SampleBucket::of(&rows, false);
    let mut b = crate::program::ProgramBuilder::new();
    let logits = b.input("logits", &[bucket.rows, 4], crate::record::Element::F32);
    let adjusted = crate::sampling::graph::adjusted(&mut b, &logits, &bucket);
    b.result(crate::program::ResultKey::Named("adjusted"), &adjusted);
    let program = b.finish("penalties", 1, crate::target::Spread::Replicas);
    let all = vec![vec![4.0, 4.0, -1.0, 4.0]; 3];
    let results = super::plugin::run(&program, &super::given(&all, &rows, &bucket));
    let found = super::floats(&results["adjusted"]);
    let expected =
        [[2.0, (4.0 - 1.0 - 0.25) / 2.0, (-1.0 - 0.5 - 0.25) * 2.0, 4.0], [2.0, 2.0, -1.0, 4.0], [4.0, 4.0, -1.0, 4.0]];
    nxd_testkit::assert_bits(&found[..12], &expected.concat(), "penalised");
}
