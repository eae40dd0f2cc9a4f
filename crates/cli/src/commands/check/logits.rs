//! `nxd check --logits`: for people without golden data, logits of one text that any framework can save.

use super::golden::{bounded, broken};
use super::matching::{BOUNDS, DIVERGENCE, Position};
use super::run::Runner;
use crate::args::CheckArgs;
use crate::commands::load;
use crate::failure::{Failure, Kind};
use crate::output;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use std::path::Path;

/// Positions in the table.
const SHOWN: usize = 10;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    /// Positions that were compared, and how many of them are within the bounds.
    positions: usize,
    within: usize,
    /// Positions where the most likely token is the reference's, or leads it by next to nothing.
    same_token: usize,
    /// The worst positions, worst first.
    worst: Vec<Position>,
}

/// A reference: the tokens of a text and its logits at the last `rows` positions.
struct Reference {
    tokens: Vec<u32>,
    rows: usize,
    /// `[rows, V]`.
    logits: Vec<f32>,
    /// The same in another dtype.
    other: Option<Vec<f32>>,
}

/// Runs the command.
pub(super) fn run(args: &CheckArgs, file: &Path) -> Result<(), Failure> {
    let path = load::resolve(&args.model)?;
    let reference = Reference::read(file)?;
    let (mut executor, _) = super::executor(args, &path, reference.tokens.len())?;
    let vocab_size = executor.info().vocab_size;
    let expected = reference.rows * vocab_size;
    if reference.logits.len() != expected {
        let columns = reference.logits.len() / reference.rows;
        return Err(broken(file, &format!("`logits` has {columns} columns, the model a vocabulary of {vocab_size}")));
    }
    let mut runner = Runner { executor: executor.as_mut(), chunk: args.engine.tokens_a_step() };
    let found = runner.prompt(&reference.tokens, reference.rows).map_err(load::executor_failure)?.logits;
    let first = reference.tokens.len() - reference.rows;
    let row = |logits: &[f32], row: usize| logits[row * vocab_size..(row + 1) * vocab_size].to_vec();
    let compare = |at: usize| {
        let other = reference.other.as_ref().map(|other| row(other, at));
        Position::compare(first + at, &row(&found, at), &row(&reference.logits, at), other.as_deref())
    };
    let mut positions: Vec<Position> = (0..reference.rows).map(compare).collect();
    let within = positions.iter().filter(|position| position.ok).count();
    let same_token = positions.iter().filter(|position| position.divergence <= DIVERGENCE).count();
    positions.sort_by(|a, b| b.badness().total_cmp(&a.badness()));
    positions.truncate(SHOWN);
    let report =
        Report { ok: within == reference.rows, positions: reference.rows, within, same_token, worst: positions };
    if args.json {
        output::json(&report)?
    } else {
        output::line(&table(&report))?
    }
    match report.ok {
        true => Ok(()),
        false => Err(Failure::new(Kind::Failed, "the model does not agree with the reference logits")),
    }
}

impl Reference {
    fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = bounded(path)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| broken(path, &error.to_string()))?;
        let has = |name: &str| file.tensor(name).ok();
        let tensor = |name: &str| has(name).ok_or_else(|| broken(path, &format!("there is no tensor `{name}`")));
        let tokens = tokens(&tensor("token_ids")?).map_err(|reason| broken(path, &reason))?;
        let matrix = |name: &str, view: &TensorView<'_>| floats(name, view).map_err(|reason| broken(path, &reason));
        let view = tensor("logits")?;
        let logits = matrix("logits", &view)?;
        // A batch of one is as good.
        let rows = view.shape().iter().rev().nth(1).copied().unwrap_or(1);
        if rows == 0 || logits.is_empty() || rows > tokens.len() || !logits.len().is_multiple_of(rows) {
            let shape = view.shape();
            let message =
                format!("`logits` is {shape:?}, expected [positions, vocabulary] for at most {} tokens", tokens.len());
            return Err(broken(path, &message));
        }
        let other = has("logits_other").map(|view| matrix("logits_other", &view)).transpose()?;
        if other.as_ref().is_some_and(|other| other.len() != logits.len()) {
            return Err(broken(path, "`logits_other` has another size than `logits`"));
        }
        Ok(Reference { tokens, rows, logits, other })
    }
}

fn tokens(view: &TensorView<'_>) -> Result<Vec<u32>, String> {
    let id = |value: i64| u32::try_from(value).map_err(|_| format!("`token_ids` has {value}"));
    let data = view.data();
    let ids: Result<Vec<u32>, String> = match view.dtype() {
        Dtype::I64 => data.as_chunks::<8>().0.iter().map(|bytes| id(i64::from_le_bytes(*bytes))).collect(),
        Dtype::I32 => data.as_chunks::<4>().0.iter().map(|bytes| id(i32::from_le_bytes(*bytes).into())).collect(),
        other => return Err(format!("`token_ids` is {other:?}, expected I64 or I32")),
    };
    ids.and_then(|ids| if ids.is_empty() { Err("`token_ids` is empty".to_owned()) } else { Ok(ids) })
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    match view.dtype() {
        Dtype::F32 => Ok(view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        other => Err(format!("`{name}` is {other:?}, expected F32: widen it before it is saved")),
    }
}

fn table(report: &Report) -> String {
    let Report { ok, positions, within, same_token, worst } = report;
    let verdict = if *ok { "ok" } else { "FAILED" };
    let mut text = format!(
        "{verdict}: {within} of {positions} positions within the bounds, the same token at {same_token}\n\
         {:>8} {:>9} {:>9} {:>9} {:>9} {:>11}",
        "position", "top 5", "top 50", "top 1000", "all", "divergence"
    );
    let cells = |errors: &[f32; 4]| errors.map(|error| format!("{error:>9.5}")).join(" ");
    for Position { position, errors, divergence, noise, ok } in worst {
        let mark = if *ok { "" } else { "  beyond" };
        text.push_str(&format!("\n{position:>8} {} {divergence:>11.6}{mark}", cells(errors)));
        if let Some(noise) = noise {
            text.push_str(&format!("\n{:>8} {}", "noise", cells(noise)));
        }
    }
    text.push_str(&format!("\n{:>8} {} {DIVERGENCE:>11.6}", "allowed", cells(&BOUNDS.map(|(_, bound)| bound))));
    text
}
