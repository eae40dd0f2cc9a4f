//! Flags of `generate` and `chat`: what is asked and how tokens are drawn.

use std::path::PathBuf;

use clap::{ArgGroup, Args, builder::BoolishValueParser};

use super::{EngineArgs, RuntimeArgs, TokenIds, values};

/// `nxd generate`.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("input").required(true).args(["prompt", "prompt_ids", "prompts"]))]
pub(crate) struct GenerateArgs {
    /// A directory, a .gguf file, `org/name[@revision][:Q4_K_M|:file.gguf]`, or `demo`.
    pub(crate) model: String,

    /// The text to continue.
    #[arg(long, short = 'p', env = "NXD_PROMPT", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,

    /// The prompt as token ids, taken as they are: `1,2,3`.
    #[arg(long, env = "NXD_PROMPT_IDS", value_name = "IDS", value_parser = values::token_ids,
          allow_hyphen_values = true)]
    pub(crate) prompt_ids: Option<TokenIds>,

    /// Many prompts: a line each of {"prompt":TEXT}, {"prompt_ids":[…]} or {"messages":[…]}.
    #[arg(long, env = "NXD_PROMPTS", value_name = "FILE.jsonl")]
    pub(crate) prompts: Option<PathBuf>,

    /// Put the prompt into the model's chat template, as a user's message.
    #[arg(long, env = "NXD_CHAT", value_parser = BoolishValueParser::new(), conflicts_with = "prompt_ids")]
    pub(crate) chat: bool,

    /// A LoRA adapter for all prompts: a folder that PEFT saved.
    #[arg(long, env = "NXD_LORA", value_name = "PATH")]
    pub(crate) lora: Option<PathBuf>,

    /// One JSON array on stdout, an object a completion.
    #[arg(long, env = "NXD_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,

    /// For each generated token, the K most likely ones (with --json).
    #[arg(long, env = "NXD_LOGPROBS", value_name = "K")]
    pub(crate) logprobs: Option<u32>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
}

/// `nxd chat`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ChatArgs {
    /// A directory, a .gguf file, `org/name[@revision][:Q4_K_M|:file.gguf]`, or `demo`.
    pub(crate) model: String,

    /// The system message of the conversation.
    #[arg(long, env = "NXD_SYSTEM", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,

    /// A LoRA adapter: a folder that PEFT saved.
    #[arg(long, env = "NXD_LORA", value_name = "PATH")]
    pub(crate) lora: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
}

/// How tokens are drawn and when an answer ends.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Most tokens of an answer.
    #[arg(long, env = "NXD_MAX_TOKENS", value_name = "N", default_value_t = 256, value_parser = values::positive,
          allow_negative_numbers = true)]
    pub(crate) max_tokens: usize,

    /// 0 takes the most likely token; higher is more varied.
    #[arg(long, env = "NXD_TEMPERATURE", value_name = "T", default_value_t = 0.0, value_parser = values::temperature,
          allow_negative_numbers = true)]
    pub(crate) temperature: f32,

    /// Draw among the K most likely tokens; 0 is all.
    #[arg(long, env = "NXD_TOP_K", value_name = "K", default_value_t = 0)]
    pub(crate) top_k: u32,

    /// Draw among the fewest tokens that together have this probability.
    #[arg(long, env = "NXD_TOP_P", value_name = "P", default_value_t = 1.0, value_parser = values::top_p,
          allow_negative_numbers = true)]
    pub(crate) top_p: f32,

    /// Leave out tokens less likely than this share of the most likely one.
    #[arg(long, env = "NXD_MIN_P", value_name = "P", default_value_t = 0.0, value_parser = values::min_p,
          allow_negative_numbers = true)]
    pub(crate) min_p: f32,

    /// Makes drawing repeatable [default: a new one each run].
    #[arg(long, env = "NXD_SEED", value_name = "SEED")]
    pub(crate) seed: Option<u64>,

    /// Divides the positive logits of tokens already seen, multiplies the negative ones.
    #[arg(long, env = "NXD_REPETITION_PENALTY", value_name = "X", default_value_t = 1.0,
          value_parser = values::repetition_penalty, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: f32,

    /// Taken from the logit of every token already generated.
    #[arg(long, env = "NXD_PRESENCE_PENALTY", value_name = "X", default_value_t = 0.0,
          value_parser = values::additive_penalty, allow_negative_numbers = true)]
    pub(crate) presence_penalty: f32,

    /// Taken from the logit of a token once for each time it was generated.
    #[arg(long, env = "NXD_FREQUENCY_PENALTY", value_name = "X", default_value_t = 0.0,
          value_parser = values::additive_penalty, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: f32,

    /// Text that ends the answer; may be given several times.
    #[arg(long, env = "NXD_STOP", value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,

    /// Go on after the model's end-of-text token.
    #[arg(long, env = "NXD_IGNORE_EOS", value_parser = BoolishValueParser::new())]
    pub(crate) ignore_eos: bool,
}
