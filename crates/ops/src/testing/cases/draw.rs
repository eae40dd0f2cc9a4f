//! `draw`: which token each row draws, and its log-probabilities.
//!
//! Logits are what a step starts from, so that they are known; the device's own copy of them is what its draws are judged by.

use crate::ops::{Input, Ops, Output};
use crate::sampling::{Drawn, SamplingBatch, SamplingParams, SamplingRow, TokenLogprob};
use crate::testing::drawing;
use crate::testing::harness::{Harness, Op, Program};
use crate::testing::model::Builder;
use crate::testing::random::Random;

/// Decisions closer than this may fall otherwise in single precision.
const CLOSE: f64 = 1e-4;

/// Rows of a step.
const ROWS: usize = 48;

/// Draws from the rows that the step starts from.
struct Draw;

impl Program for Draw {
    fn record<O: Ops>(&self, ops: &mut O) {
        let logits = ops.input(Input::Hidden);
        ops.emit(Output::Logits, &logits);
        ops.draw(&logits);
    }
}

/// Draws `rows` from `logits` `[rows, V]`, and compares every token whose decision was not close. Gives the logits and what was drawn.
fn run<H: Harness>(harness: &mut H, logits: &[f32], rows: Vec<SamplingRow>) -> (Vec<Vec<f32>>, Vec<Drawn>) {
    let model = Builder::new(1, 0).finish();
    let vocab = logits.len() / rows.len();
    let sampling = SamplingBatch { rows, keep_logits: true };
    let result = harness.sample(&model, logits, &sampling, &Draw);
    assert_eq!(result.logits.len(), logits.len(), "logits that were kept");
    assert_eq!(result.drawn.len(), sampling.rows.len(), "rows that drew");
    let logits: Vec<Vec<f32>> = result.logits.chunks(vocab).map(<[f32]>::to_vec).collect();
    let mut compared = 0;
    for (i, ((logits, row), drawn)) in logits.iter().zip(&sampling.rows).zip(&result.drawn).enumerate() {
        let expected = drawing::draw(logits, row);
        match (drawn, expected) {
            (_, Some(choice)) if choice.margin < CLOSE => continue,
            (Drawn::Token { id, .. }, Some(choice)) if *id == choice.id => {}
            (Drawn::NotFinite, None) => {}
            _ => panic!("row {i} of {vocab} logits drew {drawn:?}, expected {expected:?}; {row:?}"),
        }
        compared += 1;
    }
    println!("{compared} of {} rows compared, the others were close decisions", sampling.rows.len());
    assert!(2 * compared > sampling.rows.len(), "only {compared} rows were compared");
    (logits, result.drawn)
}

/// A row at a random place of a random request.
fn row(random: &mut Random, params: SamplingParams) -> SamplingRow {
    let seed = (random.unit() * 1e18) as u64;
    SamplingRow {
        params: SamplingParams { seed, ..params },
        position: random.between(0, 100_000) as u32,
        choice: random.between(0, 3) as u32,
        ..SamplingRow::default()
    }
}

/// `count` logits between ± `spread`.
fn logits(random: &mut Random, count: usize, spread: f32) -> Vec<f32> {
    (0..count).map(|_| spread * random.value()).collect()
}

/// Random parameters, each filter in use about every second time.
fn params(random: &mut Random) -> SamplingParams {
    let mut maybe = |value: f64, neutral: f64| if random.unit() < 0.5 { value } else { neutral };
    let (k, p, m, t) = (maybe(1.0, 0.0), maybe(1.0, 0.0), maybe(1.0, 0.0), maybe(1.0, 0.0));
    SamplingParams {
        temperature: (0.3 + 1.5 * random.unit()) as f32,
        top_k: k as u32 * random.between(1, 20) as u32,
        top_p: (1.0 - p * 0.7 * random.unit()) as f32,
        min_p: (m * 0.3 * random.unit()) as f32,
        typical_p: (1.0 - t * 0.7 * random.unit()) as f32,
        ..SamplingParams::default()
    }
}

/// The largest logit, of equals the lowest id, in small and large vocabularies; a seed changes nothing.
pub fn draw_greedy<H: Harness>(harness: &mut H, seed: u64) {
    let mut random = Random::new(seed);
    for vocab in [random.between(1, 40), random.between(2000, 5000)] {
        // Few distinct values, so that the largest is there several times.
        let logits: Vec<f32> = (0..ROWS * vocab).map(|_| random.between(0, 8) as f32 - 6.0).collect();
        let rows = (0..ROWS).map(|_| row(&mut random, SamplingParams::default())).collect();
        run(harness, &logits, rows);
    }
}

/// Temperature and all filters, alone and together, beside each other and beside greedy rows in a step.
pub fn draw_filtered<H: Harness>(harness: &mut H, seed: u64) {
    let mut random = Random::new(seed);
    for (vocab, spread) in [(random.between(2, 60), 3.0), (random.between(1000, 3000), 12.0)] {
        let logits = logits(&mut random, ROWS * vocab, spread);
        let rows = (0..ROWS).map(|i| {
            let plain = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
            let params = match i % 8 {
                0 => SamplingParams::default(),
                1 => plain,
                2 => SamplingParams { top_k: 5, ..plain },
                3 => SamplingParams { top_p: 0.8, ..plain },
                4 => SamplingParams { min_p: 0.1, ..plain },
                5 => SamplingParams { typical_p: 0.7, ..plain },
                _ => params(&mut random),
            };
            row(&mut random, params)
        });
        let rows = rows.collect();
        run(harness, &logits, rows);
    }
}

/// Penalties of tokens in the history, some of which the vocabulary does not have, with and without filters.
pub fn draw_penalised<H: Harness>(harness: &mut H, seed: u64) {
    let mut random = Random::new(seed);
    let vocab = random.between(5, 60);
    let logits = logits(&mut random, ROWS * vocab, 3.0);
    let rows = (0..ROWS).map(|i| {
        let filters = if i % 2 == 0 { SamplingParams::default() } else { params(&mut random) };
        let penalties = SamplingParams {
            repetition_penalty: [1.0, 1.7, 0.8][i % 3],
            presence_penalty: [0.0, 1.5, -0.5][i / 2 % 3],
            frequency_penalty: [0.6, 0.0, -0.3][i / 3 % 3],
            ..filters
        };
        let length = random.between(0, 2 * vocab);
        let history = (0..length).map(|_| random.between(0, vocab + 2) as u32).collect();
        let generated_from = random.between(0, length);
        SamplingRow { history, generated_from, ..row(&mut random, penalties) }
    });
    let rows = rows.collect();
    run(harness, &logits, rows);
}

/// Biases, some of them of one token twice or of tokens that the vocabulary does not have, beside penalties, masks and filters.
pub fn draw_biased<H: Harness>(harness: &mut H, seed: u64) {
    let mut random = Random::new(seed);
    let vocab = random.between(5, 60);
    let mut logits = logits(&mut random, ROWS * vocab, 3.0);
    let mut rows = Vec::new();
    for (i, logits) in logits.chunks_mut(vocab).enumerate() {
        let filters = if i % 2 == 0 { SamplingParams::default() } else { params(&mut random) };
        let mut row = row(&mut random, SamplingParams { repetition_penalty: [1.0, 1.7][i / 2 % 2], ..filters });
        row.history = vec![0, 1];
        let count = random.between(0, vocab);
        row.bias =
            (0..count).map(|_| (random.between(0, vocab + 2) as u32, (8.0 * random.unit() - 4.0) as f32)).collect();
        if i % 5 == 0 {
            // A bias allows no token that the logits forbid.
            logits[1..].iter_mut().for_each(|logit| *logit = f32::NEG_INFINITY);
            row.bias.push((1, 100.0));
        }
        if i % 7 == 0 {
            row.allowed = Some([0b101].into());
            row.bias.push((1, 100.0));
        }
        rows.push(row);
    }
    // A clear bias decides, whatever the filters.
    let filters = params(&mut random);
    rows[1] = SamplingRow { bias: vec![(2, 60.0), (2, 60.0), (3, 100.0)], ..row(&mut random, filters) };
    let (_, drawn) = run(harness, &logits, rows);
    assert!(matches!(drawn[1], Drawn::Token { id: 2, .. }), "{:?}", drawn[1]);
}

/// Rows that draw nothing, beside others that do: their targets come back, with the log-probabilities of the raw logits.
pub fn draw_targets<H: Harness>(harness: &mut H, seed: u64) {
    let mut random = Random::new(seed);
    let vocab = random.between(5, 300);
    let mut logits = logits(&mut random, ROWS * vocab, 4.0);
    let mut rows = Vec::new();
    for (i, logits) in logits.chunks_mut(vocab).enumerate() {
        let filters = if i % 3 == 0 { SamplingParams::default() } else { params(&mut random) };
        let logprobs = [None, Some(0), Some(3)][i % 3];
        let mut row = SamplingRow { logprobs, ..row(&mut random, filters) };
        if i % 4 < 2 {
            row.target = Some(random.between(0, vocab - 1) as u32);
            // None of these is looked at.
            row.params.repetition_penalty = 1.5;
            row.history = vec![0, 1];
            row.bias = vec![(0, 50.0)];
            row.allowed = Some([0].into());
        }
        match i {
            0 => row.target = Some(vocab as u32),
            1 => logits[3] = f32::NAN,
            4 => logits.fill(f32::NEG_INFINITY),
            _ => {}
        }
        rows.push(row);
    }
    let asked = rows.clone();
    let (logits, drawn) = run(harness, &logits, rows);
    let allowed = harness.tolerance(Op::Logprob);
    for (i, (row, drawn)) in asked.iter().zip(&drawn).enumerate() {
        if [0, 1, 4].contains(&i) {
            assert_eq!(*drawn, Drawn::NotFinite, "row {i}");
            continue;
        }
        let Drawn::Token { id, logprobs } = drawn else { panic!("row {i} drew {drawn:?}") };
        assert_eq!(row.target.unwrap_or(*id), *id, "row {i}");
        let expected = row.logprobs.map_or(Vec::new(), |count| reported(&logits[i], count as usize, *id));
        compare(i, logprobs, &expected, allowed);
    }
}

/// Tokens that may not be drawn: by logits of -∞, and by masks, which may end early.
pub fn draw_forbidden<H: Harness>(harness: &mut H, seed: u64) {
    let mut random = Random::new(seed);
    let vocab = random.between(33, 100);
    let mut logits = logits(&mut random, ROWS * vocab, 3.0);
    let mut rows = Vec::new();
    for (i, logits) in logits.chunks_mut(vocab).enumerate() {
        let filters = if i % 3 == 0 { SamplingParams::default() } else { params(&mut random) };
        let mut row = row(&mut random, filters);
        if i % 2 == 0 {
            let share = random.unit();
            logits[1..].iter_mut().filter(|_| random.unit() < share).for_each(|logit| *logit = f32::NEG_INFINITY);
        }
        if i % 4 > 1 {
            let words = random.between(1, vocab.div_ceil(32));
            let mask = (0..words).map(|_| (random.unit() * 2.0_f64.powi(32)) as u32 | 1);
            row.allowed = Some(mask.collect());
        }
        if i == 2 {
            row.allowed = Some([0].into());
        }
        rows.push(row);
    }
    let (_, drawn) = run(harness, &logits, rows);
    assert_eq!(drawn[2], Drawn::NotFinite, "a row whose mask allows nothing");
}

/// Rows that hold a NaN, +∞ or nothing finite draw nothing, and their neighbours draw as ever.
pub fn draw_not_finite<H: Harness>(harness: &mut H, seed: u64) {
    let mut random = Random::new(seed);
    for vocab in [random.between(2, 60), random.between(1000, 3000)] {
        let mut logits = logits(&mut random, ROWS * vocab, 3.0);
        let mut rows = Vec::new();
        for (i, logits) in logits.chunks_mut(vocab).enumerate() {
            let filters = if i % 8 < 4 { SamplingParams::default() } else { params(&mut random) };
            rows.push(row(&mut random, filters));
            let at = random.between(0, vocab - 1);
            match i % 4 {
                0 => logits[at] = f32::NAN,
                1 => logits[at] = f32::INFINITY,
                2 if i % 8 == 2 => logits.fill(f32::NEG_INFINITY),
                _ => {}
            }
        }
        let (_, drawn) = run(harness, &logits, rows);
        for (i, drawn) in drawn.iter().enumerate() {
            let nothing = i % 4 < 2 || i % 8 == 2;
            assert_eq!(*drawn == Drawn::NotFinite, nothing, "row {i}: {drawn:?}");
        }
    }
}

/// The most likely tokens, best first, then the drawn one if it is none of them, of the logits before penalties and temperature.
pub fn draw_logprobs<H: Harness>(harness: &mut H, seed: u64) {
    let mut random = Random::new(seed);
    let vocab = random.between(2, 300);
    let mut logits = logits(&mut random, ROWS * vocab, 4.0);
    // Equals, and tokens that cannot be.
    logits.iter_mut().filter(|_| random.unit() < 0.1).for_each(|logit| *logit = 2.0);
    logits.iter_mut().filter(|_| random.unit() < 0.05).for_each(|logit| *logit = f32::NEG_INFINITY);
    let count = |i: usize| [None, Some(0), Some(1), Some(5), Some(20), Some(1000)][i % 6];
    let rows = (0..ROWS).map(|i| {
        let filters = if i / 6 % 2 == 0 { SamplingParams::default() } else { params(&mut random) };
        let penalised = SamplingParams { repetition_penalty: 1.3, ..filters };
        SamplingRow { history: vec![0, 1], logprobs: count(i), ..row(&mut random, penalised) }
    });
    let rows = rows.collect();
    let (logits, drawn) = run(harness, &logits, rows);
    let allowed = harness.tolerance(Op::Logprob);
    for (i, (logits, drawn)) in logits.iter().zip(&drawn).enumerate() {
        let Drawn::Token { id, logprobs } = drawn else { panic!("row {i} drew {drawn:?}") };
        let expected = count(i).map_or(Vec::new(), |count| reported(logits, count as usize, *id));
        compare(i, logprobs, &expected, allowed);
    }
}

/// Compares the log-probabilities that row `i` reports.
fn compare(i: usize, found: &[TokenLogprob], expected: &[TokenLogprob], allowed: f64) {
    let ids = |tokens: &[TokenLogprob]| tokens.iter().map(|token| token.id).collect::<Vec<_>>();
    assert_eq!(ids(found), ids(expected), "row {i}: tokens reported");
    for (found, expected) in found.iter().zip(expected) {
        let close = f64::from((found.logprob - expected.logprob).abs()) <= allowed;
        assert!(close, "row {i}: {found:?}, expected {expected:?}; they may differ by {allowed:e}");
    }
}

/// The tokens that a row reports.
fn reported(logits: &[f32], count: usize, drawn: u32) -> Vec<TokenLogprob> {
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let of = |id: u32| TokenLogprob { id, logprob: (f64::from(logits[id as usize]) - total.ln()) as f32 };
    let mut ids: Vec<u32> = (0..logits.len() as u32).filter(|&id| logits[id as usize] > f32::NEG_INFINITY).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    ids.truncate(count);
    if !ids.contains(&drawn) {
        ids.push(drawn);
    }
    ids.into_iter().map(of).collect()
}
