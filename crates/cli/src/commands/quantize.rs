//! `nxd quantize`: writes a model again in fewer bits.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::thread;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use nxd_models::checkpoint::write::WriteError;
use nxd_models::quantise::{self, QuantiseError, QuantiseOptions};
use serde::Serialize;

use super::load;
use crate::args::{QuantizeArgs, QuantizeScheme};
use crate::failure::{Failure, Kind};
use crate::output;

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Written<'r> {
    path: String,
    scheme: &'static str,
    source_bytes: u64,
    bytes: u64,
    /// How many tensors have each type.
    dtypes: &'r BTreeMap<&'static str, usize>,
}

/// Runs the command.
pub(crate) fn run(args: &QuantizeArgs) -> Result<(), Failure> {
    let path = load::resolve(&args.model)?;
    let scheme = match args.scheme {
        QuantizeScheme::Q8_0 => quantise::Scheme::Q8_0,
        QuantizeScheme::Q4_0 => quantise::Scheme::Q4_0,
        QuantizeScheme::Q4K => quantise::Scheme::Q4_K,
        QuantizeScheme::Int8 => quantise::Scheme::Int8,
        QuantizeScheme::Fp8 => quantise::Scheme::Fp8,
    };
    let options = QuantiseOptions {
        scheme,
        replace: args.force,
        threads: args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)),
        shard_bytes: args.max_shard_size,
        mode: load::load_mode(args.load_mode),
    };
    let bar = io::stderr().is_terminal().then(bar);
    let report = quantise::quantise(&path, &args.out, &options, &mut |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let report = report.map_err(|error| failure(&error))?;
    let shown = args.out.display().to_string();
    if args.json {
        return output::json(&Written {
            path: shown,
            scheme: scheme.name(),
            source_bytes: report.source_bytes,
            bytes: report.bytes,
            dtypes: &report.tensors,
        });
    }
    let types: Vec<String> = report.tensors.iter().map(|(name, count)| format!("{name} × {count}")).collect();
    let (from, to) = (HumanBytes(report.source_bytes), HumanBytes(report.bytes));
    output::line(&format!("{shown}: {from} → {to}, {}", types.join(", ")))
}

fn bar() -> ProgressBar {
    let template = "{wide_bar} {human_pos} / {human_len} weights  {per_sec}  {eta}";
    ProgressBar::no_length()
        .with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A place that is taken is a matter of the command line, everything else one of files.
fn failure(error: &QuantiseError) -> Failure {
    match error {
        QuantiseError::Write(WriteError::Exists { .. }) => {
            Failure::of(Kind::Usage, error).with_help("give another name, or --force to replace it")
        }
        QuantiseError::Write(WriteError::NotReplaced { .. } | WriteError::Name { .. })
        | QuantiseError::Same { .. }
        | QuantiseError::NeedsFolder { .. } => Failure::of(Kind::Usage, error),
        _ => Failure::of(Kind::Model, error),
    }
}
