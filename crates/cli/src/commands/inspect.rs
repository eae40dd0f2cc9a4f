//! `nxd inspect`: what a model is, from its headers alone.

use std::collections::BTreeMap;

use indicatif::HumanBytes;
use nxd_cpu::Isa;
use nxd_models::checkpoint::Encoding;
use nxd_models::quantisation::Quantisation;
use nxd_models::{Checkpoint, Config, families, model};
use nxd_modules::DecoderSpec;
use nxd_ops::Format;
use serde::Serialize;

use super::load;
use crate::args::InspectArgs;
use crate::failure::{Failure, Kind};
use crate::output;

/// The result, as `--json` prints it. Sizes that an unsupported configuration does not tell are null.
#[derive(Debug, Serialize)]
struct Report {
    architecture: String,
    parameters: u64,
    weights_bytes: u64,
    layers: Option<usize>,
    hidden_size: Option<usize>,
    heads: Option<usize>,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    /// How many tensors have each type.
    dtypes: BTreeMap<&'static str, usize>,
    /// How many parameters have each type.
    dtype_parameters: BTreeMap<&'static str, u64>,
    quantisation: Option<String>,
    tokenizer: Option<usize>,
    chat_template: bool,
    supported: bool,
    why_not: Option<String>,
    runs_on: String,
}

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let path = load::resolve(&args.model)?;
    let checkpoint = Checkpoint::open(&path, load::mode(&args.runtime)).map_err(|e| Failure::of(Kind::Model, &e))?;
    let mut config = model::configuration(&checkpoint).map_err(|e| Failure::of(Kind::Model, &e))?;
    let spec = families::read(&mut config).map(|(_, spec)| spec);
    let mut report = Report::of_tensors(&checkpoint, &config);
    match &spec {
        Ok(spec) => report.add_spec(spec),
        Err(why) => report.refuse(why.to_string()),
    }
    if let Ok(spec) = &spec {
        // A broken tokenizer is an error of its own, whatever else is fine.
        let tokenizer = model::tokenizer(&checkpoint, spec.vocab_size).map_err(|e| Failure::of(Kind::Model, &e))?;
        report.tokenizer = tokenizer.as_ref().map(nxd_models::Tokenizer::vocab_size);
        report.chat_template = tokenizer.is_some_and(|t| t.chat_template().is_some());
    }
    if args.json { output::json(&report) } else { output::line(&page(&report)) }
}

/// What a banner says of a model: parameters and quantisation.
pub(crate) fn summary(checkpoint: &Checkpoint, config: &Config) -> (u64, Option<String>) {
    let report = Report::of_tensors(checkpoint, config);
    (report.parameters, report.quantisation)
}

impl Report {
    fn of_tensors(checkpoint: &Checkpoint, config: &Config) -> Self {
        let mut report = Report {
            architecture: config.architecture().to_owned(),
            parameters: 0,
            weights_bytes: 0,
            layers: None,
            hidden_size: None,
            heads: None,
            kv_heads: None,
            head_dim: None,
            vocab_size: None,
            max_position_embeddings: None,
            dtypes: BTreeMap::new(),
            dtype_parameters: BTreeMap::new(),
            quantisation: None,
            tokenizer: None,
            chat_template: false,
            supported: true,
            why_not: None,
            runs_on: format!("cpu ({})", Isa::detect()),
        };
        let quantisation = Quantisation::read(config);
        if let Err(why) = &quantisation {
            report.refuse(why.to_string());
        }
        let quantisation = quantisation.unwrap_or_default();
        // Of the quantised types, the one that most bytes have.
        let mut quantised: BTreeMap<&'static str, usize> = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let name = tensor.encoding.name();
            let weights = quantisation.weights_of(tensor);
            let parameters = weights.unwrap_or_else(|| tensor.shape.iter().map(|&n| n as u64).product());
            report.parameters += parameters;
            report.weights_bytes += tensor.bytes() as u64;
            *report.dtypes.entry(name).or_default() += 1;
            *report.dtype_parameters.entry(name).or_default() += parameters;
            match tensor.encoding {
                Encoding::Supported(Format::Blocks(_)) => *quantised.entry(name).or_default() += tensor.bytes(),
                Encoding::Supported(_) => {}
                Encoding::Other(_) if weights.is_some() => {}
                Encoding::Other(_) => {
                    let why = format!("tensor `{}` is stored as {name}, which is not supported", tensor.name);
                    report.refuse(why);
                }
            }
        }
        let most = quantised.into_iter().max_by_key(|&(_, bytes)| bytes);
        report.quantisation = match quantisation.scheme() {
            Some(scheme) => Some(scheme.to_string()),
            None => most.map(|(name, _)| name.to_owned()),
        };
        report
    }

    fn add_spec(&mut self, spec: &DecoderSpec) {
        self.layers = Some(spec.layers.len());
        self.hidden_size = Some(spec.hidden_size);
        self.vocab_size = Some(spec.vocab_size);
        self.max_position_embeddings = Some(spec.max_position_embeddings);
        if let Some(layer) = spec.layers.first() {
            self.heads = Some(layer.attention.num_heads);
            self.kv_heads = Some(layer.attention.num_kv_heads);
            self.head_dim = Some(layer.attention.head_dim);
        }
    }

    /// Notes the first reason why the model cannot run.
    fn refuse(&mut self, why: String) {
        self.supported = false;
        self.why_not.get_or_insert(why);
    }
}

fn page(report: &Report) -> String {
    let number = |n: Option<usize>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let dtypes: Vec<_> = report.dtypes.iter().map(|(name, count)| format!("{name} × {count}")).collect();
    let rows = [
        ("architecture", report.architecture.clone()),
        ("parameters", format!("{:.1} M", report.parameters as f64 / 1e6)),
        ("weights", HumanBytes(report.weights_bytes).to_string()),
        ("layers", number(report.layers)),
        ("hidden size", number(report.hidden_size)),
        (
            "heads",
            format!("{} query, {} KV, of {}", number(report.heads), number(report.kv_heads), number(report.head_dim)),
        ),
        ("vocabulary", number(report.vocab_size)),
        ("context", number(report.max_position_embeddings)),
        ("tensors", dtypes.join(", ")),
        ("quantisation", report.quantisation.clone().unwrap_or_else(|| "none".to_owned())),
        ("tokenizer", report.tokenizer.map_or_else(|| "none".to_owned(), |n| format!("{n} tokens"))),
        ("chat template", if report.chat_template { "yes" } else { "no" }.to_owned()),
        (
            "runs on",
            match &report.why_not {
                Some(why) => format!("nothing yet: {why}"),
                None => report.runs_on.clone(),
            },
        ),
    ];
    let lines: Vec<_> = rows.iter().map(|(name, value)| format!("{name:<14} {value}")).collect();
    lines.join("\n")
}
