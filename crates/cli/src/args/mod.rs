//! What can be typed: the commands and their flags. Every flag has a twin in the environment, `NXD_` and its name.

mod engine;
mod examine;
mod generate;
mod quantize;
mod runtime;
mod serve;
mod values;

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};

pub(crate) use engine::{EngineArgs, KvCacheDtype};
pub(crate) use examine::{BenchArgs, CheckArgs, InspectArgs, PlanArgs};
pub(crate) use generate::{ChatArgs, GenerateArgs, SamplingArgs};
pub(crate) use quantize::{QuantizeArgs, Scheme as QuantizeScheme};
pub(crate) use runtime::{Activations, Dtype, LoadMode, RuntimeArgs};
pub(crate) use serve::{EngineFailure, LimitArgs, ServeArgs};
pub(crate) use values::{LoraModule, TokenIds};

/// Runs large language models.
#[derive(Debug, Parser)]
#[command(name = "nxd", version, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a prompt, or many of them.
    #[command(visible_alias = "run")]
    Generate(Box<GenerateArgs>),
    /// Talk with a model in the terminal.
    Chat(Box<ChatArgs>),
    /// Serve a model over HTTP, as OpenAI's API does.
    Serve(Box<ServeArgs>),
    /// Compare a model's logits and tokens with golden data.
    Check(Box<CheckArgs>),
    /// Say what a model is, from its headers alone.
    Inspect(InspectArgs),
    /// Say what memory a model takes and whether it fits, from its headers alone.
    Plan(Box<PlanArgs>),
    /// Measure throughput.
    Bench(Box<BenchArgs>),
    /// Write a model again in fewer bits.
    Quantize(QuantizeArgs),
    /// Report what this machine offers.
    Doctor(DoctorArgs),
    /// Download a model and print where it lies.
    Pull(PullArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
}

/// `nxd pull`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PullArgs {
    /// `org/name`, `org/name:Q4_K_M`, `org/name:file.gguf`, `org/name@revision`, or `demo`.
    #[arg(value_name = "ID")]
    pub(crate) model: String,

    /// Ask the hub for a newer revision even when a copy is in the cache.
    #[arg(long, env = "NXD_REFRESH", value_parser = BoolishValueParser::new())]
    pub(crate) refresh: bool,

    /// One JSON object on stdout.
    #[arg(long, env = "NXD_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
}

/// `nxd doctor`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DoctorArgs {
    /// One JSON object on stdout.
    #[arg(long, env = "NXD_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
}

/// `nxd completions`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// What is logged to stderr, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `nxd_engine=debug` [default: RUST_LOG or warn].
    #[arg(long, env = "NXD_LOG_LEVEL", value_name = "LEVEL", global = true)]
    pub(crate) log_level: Option<String>,

    /// Shape of log lines.
    #[arg(long, env = "NXD_LOG_FORMAT", value_enum, default_value_t, global = true)]
    pub(crate) log_format: LogFormat,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Spells llama.cpp's `-np` as `--max-num-seqs`: a short flag of two letters is none to the parser.
pub(crate) fn spelled_out(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    let mut operands_only = false;
    for arg in args {
        let is_text = out.last().is_some_and(|flag| ["-p", "--prompt", "--stop", "--system"].iter().any(|f| flag == f));
        operands_only |= arg == "--";
        let replace = arg == "-np" && !is_text && !operands_only;
        out.push(if replace { "--max-num-seqs".into() } else { arg });
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &[&str]) -> Result<Command, clap::Error> {
        let args = ["nxd"].iter().chain(line).map(OsString::from);
        Cli::try_parse_from(spelled_out(args)).map(|cli| cli.command)
    }

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_twin() {
        fn twins(command: &clap::Command, seen: &mut usize) {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else { continue };
                let twin = format!("NXD_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(twin.as_str()), "--{long}");
                *seen += 1;
            }
            for sub in command.get_subcommands() {
                twins(sub, seen);
            }
        }
        let mut seen = 0;
        twins(&Cli::command(), &mut seen);
        assert!(seen > 60, "{seen}");
    }

    #[test]
    fn llama_cpp_short_flags_mean_the_long_ones() {
        let Ok(Command::Generate(args)) =
            parse(&["run", "m", "-p", "-np", "-c", "64", "-t", "2", "-np", "3", "--stop", "-np"])
        else {
            panic!("does not parse")
        };
        assert_eq!(args.prompt.as_deref(), Some("-np"));
        assert_eq!((args.engine.max_model_len, args.runtime.threads, args.engine.max_num_seqs), (Some(64), Some(2), 3));
        assert_eq!(args.sampling.stop, ["-np"]);
    }

    #[test]
    fn bench_defaults_are_those_of_the_contract() {
        let Ok(Command::Bench(args)) = parse(&["bench", "m"]) else { panic!("does not parse") };
        assert_eq!((args.prompt_tokens, args.gen_tokens, args.depth, args.repeat), (512, 128, 0, 5));
        assert_eq!(args.batch, [1, 8, 32]);
    }

    #[test]
    fn serve_takes_lists_and_has_the_defaults_of_the_contract() {
        let Ok(Command::Serve(args)) = parse(&["serve", "m"]) else { panic!("does not parse") };
        assert_eq!((args.host.as_str(), args.port, args.limits.max_num_queued_reqs), ("127.0.0.1", 8000, None));
        assert_eq!((args.limits.shutdown_timeout.as_secs(), args.limits.max_body), (30, 32 << 20));
        assert_eq!((args.limits.write_timeout.as_secs(), args.limits.max_bodies), (60, 256 << 20));
        assert_eq!(args.limits.on_engine_failure, EngineFailure::Exit);
        let line = ["serve", "m", "--api-key", "a,b", "--api-key", "c", "--served-model-name", "x, y"];
        let Ok(Command::Serve(args)) = parse(&line) else { panic!("does not parse") };
        assert_eq!(
            (args.access.api_key, args.served_model_name),
            (vec!["a".into(), "b".into(), "c".into()], vec!["x".to_owned(), "y".into()])
        );
        let line = ["serve", "m", "--lora-modules", "a=x/y", "b=z"];
        let Ok(Command::Serve(args)) = parse(&line) else { panic!("does not parse") };
        let modules = args.lora_modules.iter().map(|module| (module.name.as_str(), module.path.as_path()));
        assert_eq!(modules.collect::<Vec<_>>(), [("a", "x/y".as_ref()), ("b", "z".as_ref())]);
    }

    #[cfg(feature = "pjrt")]
    #[test]
    fn every_command_that_computes_takes_a_device_and_a_type() {
        for line in
            [&["generate", "m", "--prompt", "a"][..], &["chat", "m"], &["bench", "m"], &["check", "m"], &["serve", "m"]]
        {
            for device in ["cpu", "pjrt:/a b/plugin.so", "cuda", "neuron"] {
                let command = parse(&[line, &["--device", device, "--dtype", "bf16"]].concat());
                let runtime = match command.unwrap() {
                    Command::Generate(args) => args.runtime,
                    Command::Chat(args) => args.runtime,
                    Command::Bench(args) => args.runtime,
                    Command::Check(args) => args.runtime,
                    Command::Serve(args) => args.runtime,
                    other => panic!("{other:?}"),
                };
                assert_eq!((runtime.device.to_string().as_str(), runtime.dtype), (device, Dtype::Bf16), "{line:?}");
            }
        }
    }

    #[cfg(not(feature = "pjrt"))]
    #[test]
    fn devices_that_are_not_built_in_are_usage_errors() {
        for device in ["pjrt:/plugin.so", "cuda", "neuron"] {
            let error = parse(&["chat", "m", "--device", device]).expect_err("parsed").to_string();
            assert!(error.contains("supported: `cpu`"), "{error}");
        }
    }

    #[test]
    fn wrong_lines_are_usage_errors_that_say_what_to_write() {
        for (line, text) in [
            (&["generate", "m"][..], "--prompt"),
            (&["generate", "m", "--prompt", "a", "--prompt-ids", "1"], "cannot be used with"),
            (&["generate", "m", "--prompt", "a", "--max-model-length", "4"], "'--max-model-len'"),
            (&["generate", "m", "--prompt", "a", "--top-k", "1", "--top-k", "2"], "cannot be used multiple times"),
            (&["generate", "m", "--prompt", "a", "--kv-cache-memory", "1e3"], "`4GiB`"),
            (&["generate", "m", "--prompt", "a", "--kv-cache-memory", "-1"], "`4GiB`"),
            (&["generate", "m", "--prompt", "a", "--device", "gpu"], "`gpu` is not a device"),
            (&["generate", "m", "--prompt", "a", "--device", "pjrt:"], "as in `pjrt:/path/to/plugin.so`"),
            (&["check", "m", "--dtype", "fp64"], "auto, f32, bf16, f16"),
            (&["generate", "m", "--prompt", "a", "--threads", "0"], "from 1 to 1024"),
            (&["generate", "m", "--prompt", "a", "--temperature", "-1"], "at least 0"),
            (&["generate", "m", "--prompt-ids", "1,x"], "`x` is not a token id"),
            (&["bench", "m", "--batch", "1,0"], "at least 1"),
            (&["serve", "m", "--port", "65536"], "0..=65535"),
            (&["serve", "m", "--max-body", "-1"], "`4GiB`"),
            (&["serve", "m", "--request-timeout", "0"], "above 0"),
            (&["serve", "m", "--write-timeout", "0"], "above 0"),
            (&["serve", "m", "--on-engine-failure", "restart"], "exit, stay"),
            (&["serve", "m", "--shutdown-timeout", "1e99"], "from 0 to"),
            (&["serve", "m", "--api-key", "two words"], "visible ASCII"),
            (&["serve", "m", "--cors-origins", "a.example"], "`a.example` is not an origin"),
            (&["serve", "m", "--speculative-config", "{}"], "speculative decoding is not in this build"),
            (&["serve", "m", "--lora-modules", "folder"], "`folder` is no adapter; write NAME=PATH"),
            (&["quantize", "m", "o"], "--scheme"),
            (&["quantize", "m", "o", "--scheme", "q5_9"], "q8_0, q4_0, q4_k, int8, fp8"),
            (&["quantize", "m", "o", "--scheme", "int8", "--max-shard-size", "0"], "a size of 0 bytes"),
            (&["chekc", "m"], "'check'"),
        ] {
            let error = parse(line).expect_err("parsed").to_string();
            assert!(error.contains(text), "{line:?}: {error}");
        }
    }
}
