//! `nxd generate`: one completion or many.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nxd::{Completion, FinishReason, GenerateOptions, Message, Model, Prompt, SamplingParams};
use serde::{Deserialize, Serialize};

use super::load;
use crate::args::{GenerateArgs, SamplingArgs};
use crate::failure::{Failure, Kind};
use crate::output;

/// Largest file of prompts.
const MAX_PROMPTS_BYTES: u64 = 1 << 30;

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let prompts = prompts(args)?;
    let model = load::load(&args.model, &args.runtime, &args.engine)?;
    let adapter = load::adapter(&model, args.lora.as_deref())?;
    let options = GenerateOptions { logprobs: args.logprobs, adapter, ..options(&args.sampling) };
    if let [prompt] = &prompts[..]
        && !args.json
        && std::io::stdout().is_terminal()
    {
        return stream(&model, prompt.clone(), options);
    }
    let completions = model.generate_many(prompts, options).map_err(|e| load::failure(&e))?;
    if args.json {
        return output::json(&completions.iter().map(Row::new).collect::<Vec<_>>());
    }
    completions.iter().try_for_each(|completion| output::line(&completion.text))
}

/// Prints text as it comes.
fn stream(model: &Model, prompt: Prompt, options: GenerateOptions) -> Result<(), Failure> {
    let mut printed = Ok(());
    let print = |text: &str| {
        printed = output::raw(text.as_bytes());
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    model.generate_stream(prompt, options, print).map_err(|e| load::failure(&e))?;
    printed?;
    output::line("")
}

/// How tokens are drawn and when an answer ends, as the flags say.
pub(crate) fn options(args: &SamplingArgs) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingParams {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repetition_penalty: args.repetition_penalty,
            presence_penalty: args.presence_penalty,
            frequency_penalty: args.frequency_penalty,
            seed: args.seed.unwrap_or_else(clock_seed),
            ..SamplingParams::default()
        },
        max_tokens: Some(args.max_tokens),
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
        logprobs: None,
        adapter: None,
    }
}

/// A seed that differs from run to run.
fn clock_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64)
}

/// The prompts that the command line gives.
fn prompts(args: &GenerateArgs) -> Result<Vec<Prompt>, Failure> {
    let chat = |prompt: Prompt| match prompt {
        Prompt::Text(text) if args.chat => Prompt::from(&[Message::user(text)][..]),
        other => other,
    };
    let prompts = match (&args.prompt, &args.prompt_ids, &args.prompts) {
        (Some(text), _, _) => vec![Prompt::Text(text.clone())],
        (_, Some(ids), _) => vec![Prompt::Ids(ids.0.clone())],
        (_, _, Some(file)) => from_file(file)?,
        _ => Vec::new(), // the parser asks for one of them
    };
    Ok(prompts.into_iter().map(chat).collect())
}

/// A line of `--prompts`.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line {
    Text { prompt: String },
    Ids { prompt_ids: Vec<u32> },
    Messages { messages: Vec<serde_json::Value> },
}

fn from_file(path: &Path) -> Result<Vec<Prompt>, Failure> {
    let wrong = |reason: String| Failure::new(Kind::Model, format!("{}: {reason}", path.display()));
    let meta = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
    if !meta.is_file() || meta.len() > MAX_PROMPTS_BYTES {
        return Err(wrong(format!("not a regular file of at most {MAX_PROMPTS_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| match serde_json::from_str(line) {
        Ok(Line::Text { prompt }) => Ok(Prompt::Text(prompt)),
        Ok(Line::Ids { prompt_ids }) => Ok(Prompt::Ids(prompt_ids)),
        Ok(Line::Messages { messages }) => Ok(Prompt::Messages(messages)),
        Err(_) => Err(wrong(format!("line {} is not one of {SHAPES}", number + 1))),
    };
    let prompts: Vec<Prompt> = lines.map(parse).collect::<Result<_, _>>()?;
    if prompts.is_empty() { Err(wrong(format!("holds no line; write one of {SHAPES} a line"))) } else { Ok(prompts) }
}

const SHAPES: &str = r#"{"prompt":TEXT}, {"prompt_ids":[…]}, {"messages":[…]}"#;

/// A completion, as `--json` prints it.
#[derive(Serialize)]
struct Row<'c> {
    prompt_tokens: &'c [u32],
    tokens: &'c [u32],
    text: &'c str,
    finish_reason: &'static str,
    logprobs: Option<Vec<Vec<Logprob>>>,
    steps: usize,
    max_batch: usize,
    timing: Timing,
}

#[derive(Serialize)]
struct Logprob {
    id: u32,
    logprob: f32,
    chosen: bool,
}

#[derive(Serialize)]
struct Timing {
    prefill_s: f64,
    decode_s: f64,
    prompt_tokens_per_s: f64,
    tokens_per_s: f64,
}

impl<'c> Row<'c> {
    fn new(completion: &'c Completion) -> Self {
        let chosen = |(tokens, &drawn): (&Vec<nxd::TokenLogprob>, &u32)| {
            tokens.iter().map(|t| Logprob { id: t.id, logprob: t.logprob, chosen: t.id == drawn }).collect()
        };
        let nxd::Timing { prefill_s, decode_s, prompt_tokens_per_s, tokens_per_s } = completion.timing;
        Row {
            prompt_tokens: &completion.prompt_tokens,
            tokens: &completion.tokens,
            text: &completion.text,
            finish_reason: match completion.finish_reason {
                FinishReason::Length => "length",
                FinishReason::Stop => "stop",
                _ => "abort",
            },
            logprobs: completion.logprobs.as_ref().map(|l| l.iter().zip(&completion.tokens).map(chosen).collect()),
            steps: completion.steps,
            max_batch: completion.max_batch,
            timing: Timing { prefill_s, decode_s, prompt_tokens_per_s, tokens_per_s },
        }
    }
}
