//! Flags of `serve`: the address, who may call, and what may wait.

use std::time::Duration;

use clap::{Args, ValueEnum, builder::BoolishValueParser};

use super::values::LoraModule;
use super::{EngineArgs, RuntimeArgs, values};

/// `nxd serve`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// A directory, a .gguf file, `org/name[@revision][:Q4_K_M|:file.gguf]`, or `demo`.
    pub(crate) model: String,

    /// Address to listen on; 0.0.0.0 for every one of this machine's.
    #[arg(long, env = "NXD_HOST", value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) host: String,

    /// Port to listen on; 0 for any free one.
    #[arg(long, env = "NXD_PORT", value_name = "PORT", default_value_t = 8000)]
    pub(crate) port: u16,

    /// Names that requests may give the model; the first one stands in replies [default: MODEL].
    #[arg(long, env = "NXD_SERVED_MODEL_NAME", value_name = "NAMES", value_delimiter = ',', value_parser = values::name)]
    pub(crate) served_model_name: Vec<String>,

    /// LoRA adapters, which requests name as their model: NAME=PATH, where PATH is a folder that PEFT saved.
    #[arg(long, env = "NXD_LORA_MODULES", value_name = "NAME=PATH", num_args = 1.., value_delimiter = ',',
          value_parser = values::lora_module)]
    pub(crate) lora_modules: Vec<LoraModule>,

    /// Let requests load and unload adapters: POST /v1/load_lora_adapter and /v1/unload_lora_adapter.
    #[arg(long, env = "NXD_ALLOW_RUNTIME_LORA_UPDATING", value_parser = BoolishValueParser::new())]
    pub(crate) allow_runtime_lora_updating: bool,

    #[command(flatten)]
    pub(crate) access: AccessArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
}

/// Who may call.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArgs {
    /// A key of which requests must show one; may be given several times. Safer in NXD_API_KEY: others can see command lines.
    #[arg(long, env = "NXD_API_KEY", value_name = "KEYS", value_delimiter = ',', value_parser = values::api_key,
          hide_env_values = true)]
    pub(crate) api_key: Vec<String>,

    /// Serve /metrics without a key.
    #[arg(long, env = "NXD_PUBLIC_METRICS", value_parser = BoolishValueParser::new())]
    pub(crate) public_metrics: bool,

    /// Origins of web pages that may call from a browser, as in `https://a.example,https://b.example`, or `*` [default: none].
    #[arg(long, env = "NXD_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = values::origin)]
    pub(crate) cors_origins: Vec<String>,
}

/// What may wait, and how long anything may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Most requests that wait; further ones get 429 [default: four times --max-num-seqs].
    #[arg(long, env = "NXD_MAX_NUM_QUEUED_REQS", value_name = "N", value_parser = values::positive,
          allow_negative_numbers = true)]
    pub(crate) max_num_queued_reqs: Option<usize>,

    /// Most tokens in the prompts of requests that wait.
    #[arg(long, env = "NXD_MAX_NUM_QUEUED_TOKENS", value_name = "TOKENS", default_value_t = 1 << 20,
          value_parser = values::positive, allow_negative_numbers = true)]
    pub(crate) max_num_queued_tokens: usize,

    /// The longest wait of a request in the queue, in seconds [default: none].
    #[arg(long, env = "NXD_QUEUE_TIMEOUT", value_name = "SECONDS", value_parser = values::seconds,
          allow_negative_numbers = true)]
    pub(crate) queue_timeout: Option<Duration>,

    /// The longest time for a whole request, in seconds [default: none].
    #[arg(long, env = "NXD_REQUEST_TIMEOUT", value_name = "SECONDS", value_parser = values::seconds,
          allow_negative_numbers = true)]
    pub(crate) request_timeout: Option<Duration>,

    /// Seconds after which a running step makes /health say 503.
    #[arg(long, env = "NXD_STEP_TIMEOUT", value_name = "SECONDS", default_value = "300", value_parser = values::seconds,
          allow_negative_numbers = true)]
    pub(crate) step_timeout: Duration,

    /// What follows the engine's failure, which ends every request with an error.
    #[arg(long, env = "NXD_ON_ENGINE_FAILURE", value_name = "WHAT", value_enum, default_value_t)]
    pub(crate) on_engine_failure: EngineFailure,

    /// How long requests may go on after SIGTERM or Ctrl-C, in seconds.
    #[arg(long, env = "NXD_SHUTDOWN_TIMEOUT", value_name = "SECONDS", default_value = "30",
          value_parser = values::seconds_or_none, allow_negative_numbers = true)]
    pub(crate) shutdown_timeout: Duration,

    /// The longest wait for a request's head, in seconds; a connection that is kept open may be silent for as long.
    #[arg(long, env = "NXD_HEADER_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = values::seconds,
          allow_negative_numbers = true)]
    pub(crate) header_timeout: Duration,

    /// The longest wait for a request's body, in seconds.
    #[arg(long, env = "NXD_BODY_TIMEOUT", value_name = "SECONDS", default_value = "60", value_parser = values::seconds,
          allow_negative_numbers = true)]
    pub(crate) body_timeout: Duration,

    /// The longest time for which a client may take nothing of a reply that waits for it, in seconds.
    #[arg(long, env = "NXD_WRITE_TIMEOUT", value_name = "SECONDS", default_value = "60", value_parser = values::seconds,
          allow_negative_numbers = true)]
    pub(crate) write_timeout: Duration,

    /// Largest body of a request.
    #[arg(long, env = "NXD_MAX_BODY", value_name = "SIZE", default_value = "32MiB", value_parser = values::size_bytes,
          allow_negative_numbers = true)]
    pub(crate) max_body: u64,

    /// Most memory for the bodies of all requests that are being read; beyond it 429. A single one is always read.
    #[arg(long, env = "NXD_MAX_BODIES", value_name = "SIZE", default_value = "256MiB", value_parser = values::size_bytes,
          allow_negative_numbers = true)]
    pub(crate) max_bodies: u64,

    /// Most connections at once; further ones wait.
    #[arg(long, env = "NXD_MAX_CONNECTIONS", value_name = "N", default_value_t = 1024, value_parser = values::positive,
          allow_negative_numbers = true)]
    pub(crate) max_connections: usize,
}

/// What a server does whose engine has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineFailure {
    /// End with exit code 1, for a supervisor to start it again.
    #[default]
    Exit,
    /// Stay, and answer 503.
    Stay,
}

/// What requests may ask for.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API")]
pub(crate) struct ApiArgs {
    /// Most completions of one prompt.
    #[arg(long, env = "NXD_MAX_N", value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) max_n: u32,

    /// Most alternatives that are reported with each token.
    #[arg(long, env = "NXD_MAX_LOGPROBS", value_name = "K", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub(crate) max_logprobs: u32,

    /// How the model writes tool calls [default: as its chat template suggests].
    #[arg(long, env = "NXD_TOOL_CALL_PARSER", value_name = "NAME")]
    pub(crate) tool_call_parser: Option<String>,

    /// Let requests bring a chat template of their own.
    #[arg(long, env = "NXD_TRUST_REQUEST_CHAT_TEMPLATE", value_parser = BoolishValueParser::new())]
    pub(crate) trust_request_chat_template: bool,

    /// Seconds of silence in a stream after which a comment is sent.
    #[arg(long, env = "NXD_SSE_PING_INTERVAL", value_name = "SECONDS", default_value = "15",
          value_parser = values::seconds, allow_negative_numbers = true)]
    pub(crate) sse_ping_interval: Duration,

    /// Drafts of tokens that the model verifies. This build has none.
    #[arg(long, env = "NXD_SPECULATIVE_CONFIG", value_name = "JSON", value_parser = values::no_speculation)]
    pub(crate) speculative_config: Option<String>,
}
