//! `nxd check`: logits and greedy tokens against golden data, in f32 arithmetic.

mod golden;
mod logits;
mod matching;
mod run;

use crate::args::{CheckArgs, KvCacheDtype};
use crate::commands::load;
use crate::failure::{Failure, Kind};
use crate::output;
use golden::Golden;
use nxd_executor::{Activations, Device, Dtype, Executor, KvDtype};
use run::Runner;
use serde::Serialize;
use std::path::Path;

/// What a logit may be off on devices other than the CPU, whose compilers order and fuse sums as they like.
const OTHER_DEVICES_TOLERANCE: f32 = 2e-3;

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    /// Over all logits tensors; null when a logit is NaN.
    max_abs_error: f32,
    tolerance: f32,
    greedy_equal: bool,
    /// The first place where the computation leaves the golden data.
    first_difference: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    if let Some(file) = &args.logits {
        return logits::run(args, file);
    }
    let path = load::resolve(&args.model)?;
    let mut golden = Golden::read(args.against.as_deref().unwrap_or(load::folder(&path)))?;
    let longest = golden.prompts.iter().map(Vec::len).max().unwrap_or(1);
    let further = golden.greedy.iter().map(|g| g.tokens.len()).max().unwrap_or(0);
    let (mut executor, device) = executor(args, &path, longest + further)?;
    if device != Device::Cpu {
        golden.tolerance = golden.tolerance.max(OTHER_DEVICES_TOLERANCE);
    }
    let mut runner = Runner { executor: executor.as_mut(), chunk: args.engine.tokens_a_step() };
    let report = compare(&mut runner, &golden)?;
    if args.json {
        output::json(&report)?;
    } else {
        output::line(&summary(&report))?;
    }
    match report.ok {
        true => Ok(()),
        false => Err(Failure::new(Kind::Failed, "the model does not agree with its golden data")),
    }
}

/// The model in f32 arithmetic, for one request of `tokens` tokens at a time.
fn executor(args: &CheckArgs, path: &Path, tokens: usize) -> Result<(Box<dyn Executor>, Device), Failure> {
    let model = load::open(path, &args.runtime)?;
    let mut options = load::options(&args.runtime, &args.engine).executor_options();
    options.activations = Activations::F32;
    // Exactly f32 unless another type is asked for, which then is what is checked.
    options.dtype.get_or_insert(Dtype::F32);
    if args.engine.kv_cache_dtype == KvCacheDtype::Auto {
        options.kv.dtype = KvDtype::F32;
    }
    options.kv.max_num_seqs = 1;
    // One request keeps all its blocks, those behind a window too.
    options.kv.max_num_batched_tokens = tokens;
    options.kv.max_model_len = Some(tokens);
    let executor = nxd_executor::load(&model, &options).map_err(load::executor_failure)?;
    Ok((executor, options.device))
}

fn compare(runner: &mut Runner<'_>, golden: &Golden) -> Result<Report, Failure> {
    let failed = load::executor_failure;
    let mut report = Report {
        ok: true,
        max_abs_error: 0.0,
        tolerance: golden.tolerance,
        greedy_equal: true,
        first_difference: None,
    };
    let vocab_size = runner.executor.info().vocab_size;
    for logits in &golden.logits {
        if logits.values.len() != logits.rows * vocab_size {
            let (found, expected) = (logits.values.len(), logits.rows * vocab_size);
            let message = format!("golden tensor `{}` has {found} values, the model implies {expected}", logits.name);
            return Err(Failure::new(Kind::Model, message));
        }
        let output = runner.prompt(&golden.prompts[logits.prompt], logits.rows).map_err(failed)?;
        let error = max_abs_error(&output.logits, &logits.values);
        if error.is_nan() || error > golden.tolerance {
            report.ok = false;
            report.first_difference.get_or_insert_with(|| format!("{}: off by {error}", logits.name));
        }
        report.max_abs_error =
            if error.is_nan() || error > report.max_abs_error { error } else { report.max_abs_error };
    }
    for (i, greedy) in golden.greedy.iter().enumerate() {
        let prompt = &golden.prompts[greedy.prompt];
        let tokens = runner.greedy(prompt, greedy.tokens.len(), greedy.eos_token_id).map_err(failed)?;
        if tokens != greedy.tokens {
            (report.ok, report.greedy_equal) = (false, false);
            let at = tokens.iter().zip(&greedy.tokens).position(|(a, b)| a != b).unwrap_or(tokens.len());
            let (found, expected) = (tokens.get(at), greedy.tokens.get(at));
            report.first_difference.get_or_insert_with(|| {
                format!("greedy continuation {i}, token {at}: {found:?}, expected {expected:?}")
            });
        }
    }
    if !report.ok
        && let Some(place) = first_inner_difference(runner, golden)?
    {
        report.first_difference = Some(place);
    }
    Ok(report)
}

/// The first layer whose output leaves the golden data, where they hold inner tensors.
fn first_inner_difference(runner: &mut Runner<'_>, golden: &Golden) -> Result<Option<String>, Failure> {
    let Some(prompt) = golden.prompts.get(1).filter(|_| !golden.hidden.is_empty()) else { return Ok(None) };
    let inner = runner.inner(prompt).map_err(load::executor_failure)?;
    for (place, values) in inner {
        let Some(expected) = golden.hidden.get(&place).filter(|e| e.len() == values.len()) else { continue };
        // Hidden rows may be large where logits are not: the tolerance follows their size.
        let size = expected.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        let error = max_abs_error(&values, expected);
        if error.is_nan() || error > golden.tolerance * size {
            return Ok(Some(format!("{place}: off by {error}")));
        }
    }
    Ok(None)
}

/// The largest difference; NaN where either side is NaN or the lengths differ.
fn max_abs_error(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() {
        return f32::NAN;
    }
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |max, d| if d.is_nan() || d > max { d } else { max })
}

fn summary(report: &Report) -> String {
    let verdict = if report.ok { "ok" } else { "FAILED" };
    let tokens = if report.greedy_equal { "equal" } else { "different" };
    let mut text = format!(
        "{verdict}: largest error of a logit {:e} (allowed {:e}), greedy tokens {tokens}",
        report.max_abs_error, report.tolerance
    );
    if let Some(place) = &report.first_difference {
        text.push_str(&format!("\nfirst difference: {place}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::max_abs_error;

    #[test]
    fn nan_is_never_within_a_tolerance() {
        assert!(max_abs_error(&[1.0, f32::NAN, 2.0], &[1.0, 1.0, 2.0]).is_nan());
        assert!(max_abs_error(&[f32::NAN, 0.0], &[0.0, 5.0]).is_nan(), "a later difference does not hide it");
        assert!(max_abs_error(&[1.0], &[1.0, 2.0]).is_nan());
    }
}
