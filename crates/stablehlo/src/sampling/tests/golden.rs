//! Golden filters and log-probabilities.

use super::{PLAIN, draw, kept};
use crate::target::Target;
use nxd_ops::{Drawn, SamplingParams, SamplingRow};
use nxd_testkit::{folders, goldens};
use serde_json::Value;

/// The golden sampling files: the `expected.json` with a list of rejections.
fn golden() -> Vec<Value> {
    let files =
        folders(&goldens()).into_iter().filter_map(|folder| std::fs::read_to_string(folder.join("expected.json")).ok());
    let found: Vec<Value> =
        files.filter(|text| text.contains("\"rejection\"")).map(|text| serde_json::from_str(&text).unwrap()).collect();
    assert!(!found.is_empty(), "no sampling cases in {}", goldens().display());
    found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    list(value).iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The logits that a case is about.
fn logits(file: &Value, case: &Value) -> Vec<f32> {
    numbers(&file["logits"][case["logits"].as_u64().unwrap() as usize]).iter().map(|&x| x as f32).collect()
}

/// The case's row; an unknown parameter's name instead.
fn row(case: &Value) -> Result<SamplingRow, String> {
    let mut params = PLAIN;
    for (name, value) in case["params"].as_object().unwrap() {
        let number = value.as_f64().unwrap() as f32;
        match name.as_str() {
            "temperature" => params.temperature = number,
            "top_k" => params.top_k = number as u32,
            "top_p" => params.top_p = number,
            "min_p" => params.min_p = number,
            "typical_p" => params.typical_p = number,
            "repetition_penalty" => params.repetition_penalty = number,
            "presence_penalty" => params.presence_penalty = number,
            "frequency_penalty" => params.frequency_penalty = number,
            unknown => return Err(unknown.to_owned()),
        }
    }
    let generated_from = case["generated_from"].as_u64().unwrap() as usize;
    Ok(SamplingRow { params, history: ids(&case["history"]), generated_from, ..SamplingRow::default() })
}

#[test]
fn golden_sampling_filters() {
    let (mut ran, mut skipped) = (0, Vec::new());
    for file in golden() {
        // All cases of a file are rows of one batch: in batches of 64 none sees the others.
        let mut cases = Vec::new();
        for case in list(&file["filter"]) {
            match row(case) {
                Ok(row) => cases.push((case, logits(&file, case), row)),
                Err(unknown) => skipped.push(unknown),
            }
        }
        for cases in cases.chunks(64) {
            let all: Vec<Vec<f32>> = cases.iter().map(|(_, logits, _)| logits.clone()).collect();
            // A greedy row's filter is never asked for; what it draws is compared below.
            let rows: Vec<SamplingRow> = cases.iter().map(|(_, _, row)| row.clone()).collect();
            let kept = kept(&all, &rows, &Target::CPU);
            let drawn = draw(&all, &rows, &Target::CPU);
            for (((case, _, row), kept), drawn) in cases.iter().zip(&kept).zip(&drawn) {
                check(case, row, kept, drawn);
                ran += 1;
            }
        }
    }
    skipped.sort();
    skipped.dedup();
    println!("{ran} filter cases, without those of {skipped:?}");
    assert!(ran > 0, "no filter case ran");
}

fn check(case: &Value, row: &SamplingRow, kept: &[(u32, f64)], drawn: &Drawn) {
    let what = format!("logits {} with {}", case["logits"], case["params"]);
    let Drawn::Token { id, .. } = drawn else { panic!("{what}: nothing was drawn") };
    if row.params.temperature <= 0.0 {
        assert_eq!(u64::from(*id), case["argmax"].as_u64().unwrap(), "{what}");
        return;
    }
    let found: Vec<u32> = kept.iter().map(|&(id, _)| id).collect();
    let expected = ids(&case["kept"]);
    assert!(found.contains(id), "{what}: drew {id}");
    // Which of equally likely tokens stays is the sorting's choice: compare probabilities where the ids differ.
    assert_eq!(found.len(), expected.len(), "{what}: kept {found:?}, expected {expected:?}");
    let (mut found, mut probs) = (kept.iter().map(|&(_, p)| p).collect::<Vec<_>>(), numbers(&case["probs_kept"]));
    found.sort_by(f64::total_cmp);
    probs.sort_by(f64::total_cmp);
    for (found, expected) in found.iter().zip(&probs) {
        assert!((found - expected).abs() < 1e-7 + 2e-5 * expected, "{what}: probability {found}, expected {expected}");
    }
}

#[test]
fn golden_sampling_logprobs() {
    let mut ran = 0;
    for file in golden() {
        let cases = list(&file["logprobs"]);
        let all: Vec<Vec<f32>> = cases.iter().map(|case| logits(&file, case)).collect();
        let count = cases.iter().map(|case| ids(&case["top_ids"]).len()).max().unwrap_or(0);
        let rows = vec![SamplingRow { logprobs: Some(count as u32), ..SamplingRow::default() }; cases.len()];
        for (case, drawn) in cases.iter().zip(draw(&all, &rows, &Target::CPU)) {
            let Drawn::Token { logprobs, .. } = drawn else { panic!("nothing was drawn") };
            // Where logits are equal, which comes first is the sorting's choice; here it is the lower id.
            let row = logits(&file, case);
            let bits = |id: u32| row[id as usize].to_bits();
            let found: Vec<u32> = logprobs.iter().take(count).map(|token| bits(token.id)).collect();
            let expected: Vec<u32> = ids(&case["top_ids"]).into_iter().map(bits).collect();
            assert_eq!(found, expected, "logits {}", case["logits"]);
            assert!(logprobs.is_sorted_by(|a, b| bits(a.id) != bits(b.id) || a.id < b.id), "{logprobs:?}");
            for (token, expected) in logprobs.iter().zip(numbers(&case["top_logprobs"])) {
                assert!((f64::from(token.logprob) - expected).abs() < 2e-5, "{token:?}, expected {expected}");
            }
            ran += 1;
        }
    }
    println!("{ran} cases of log-probabilities");
    assert!(ran > 0, "no case of log-probabilities ran");
}

#[test]
fn golden_filters_hold_for_a_row_alone() {
    // One row of each file, alone in its bucket and with the least demanding program.
    let mut ran = 0;
    for file in golden() {
        for case in list(&file["filter"]).iter().take(12) {
            let Ok(row) = row(case) else { continue };
            if row.params.temperature <= 0.0 {
                continue;
            }
            let row = SamplingRow { params: SamplingParams { seed: 9, ..row.params }, ..row };
            let logits = [logits(&file, case)];
            let rows = [row];
            check(case, &rows[0], &kept(&logits, &rows, &Target::CPU)[0], &draw(&logits, &rows, &Target::CPU)[0]);
            ran += 1;
        }
    }
    println!("{ran} filter cases alone");
    assert!(ran > 0, "no filter case ran");
}
