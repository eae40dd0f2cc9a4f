//! What completions and chat have in common: how tokens are drawn, when a text ends, and what is reported of it.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

use super::fields::{
    Field, Fields, Flag, Ids, Integer, Number, Other, Text, found, integer, too_many, unsupported, wrong,
};
use super::ids;
use crate::error::ApiError;
use crate::state::App;
use nxd_engine::service::TextOptions;
use nxd_engine::{AdapterId, Request, SamplingParams};
use serde_json::{Value, json};

/// Most stop strings, and most bytes of one: a text is searched for each of them with each token.
const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 4096;
/// Most tokens that a request may name to be biased or to stop at.
const MAX_LISTED_IDS: usize = 1024;

const MODEL: Other = Other {
    name: "model",
    about: "One of the served names; the only model where absent.",
    schema: || json!({"type": ["string", "null"]}),
};
const TEMPERATURE: Number = Number {
    name: "temperature",
    about: "Divides the logits; 0 takes the most likely token. 1 where absent.",
    min: 0.0,
    above: false,
    max: 2.0,
};
const TOP_P: Number = Number {
    name: "top_p",
    about: "Keeps the most likely tokens whose probabilities reach this together.",
    min: 0.0,
    above: true,
    max: 1.0,
};
const TOP_K: Integer = Integer {
    name: "top_k",
    about: "Keeps so many of the most likely tokens; 0 and -1 keep all.",
    min: -1,
    max: i32::MAX as i64,
};
const MIN_P: Number = Number {
    name: "min_p",
    about: "Keeps tokens at least this fraction as likely as the most likely one.",
    min: 0.0,
    above: false,
    max: 1.0,
};
const PRESENCE_PENALTY: Number = Number {
    name: "presence_penalty",
    about: "Subtracted once from the logits of generated tokens.",
    min: -2.0,
    above: false,
    max: 2.0,
};
const FREQUENCY_PENALTY: Number = Number {
    name: "frequency_penalty",
    about: "Subtracted from the logits of generated tokens as often as they occur.",
    min: -2.0,
    above: false,
    max: 2.0,
};
const REPETITION_PENALTY: Number = Number {
    name: "repetition_penalty",
    about: "Divides positive and multiplies negative logits of tokens in prompt and reply.",
    // Far smaller ones would make logits infinite.
    min: 0.01,
    above: false,
    max: 100.0,
};
const SEED: Integer = Integer {
    name: "seed",
    about: "The same seed and parameters give the same tokens, whatever else is served.",
    min: i64::MIN,
    max: i64::MAX,
};
const N: Integer = Integer { name: "n", about: "Completions of each prompt.", min: 1, max: 128 };
const MIN_TOKENS: Integer = Integer {
    name: "min_tokens",
    about: "Tokens before which the text does not end by a token.",
    min: 0,
    max: i64::MAX,
};
const STOP: Other = Other {
    name: "stop",
    about: "Texts before which the reply ends.",
    schema: || {
        let one = json!({"type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES / 4});
        json!({"anyOf": [one, {"type": "array", "items": one, "maxItems": MAX_STOPS}, {"type": "null"}]})
    },
};
const STOP_TOKEN_IDS: Ids =
    Ids { name: "stop_token_ids", about: "Tokens that end the reply.", max_items: MAX_LISTED_IDS };
const ALLOWED_TOKEN_IDS: Ids =
    Ids { name: "allowed_token_ids", about: "The only tokens that may be drawn.", max_items: 1 << 20 };
const INCLUDE_STOP: Flag =
    Flag { name: "include_stop_str_in_output", about: "Whether what ends the reply stays in it." };
const IGNORE_EOS: Flag = Flag { name: "ignore_eos", about: "Go on after the model's own end of text." };
const SKIP_SPECIAL: Flag =
    Flag { name: "skip_special_tokens", about: "Leave control tokens out of the text; true where absent." };
const LOGIT_BIAS: Other = Other {
    name: "logit_bias",
    about: "Added to the logits of tokens, by id.",
    schema: || {
        let bias = json!({"type": "number", "minimum": -100, "maximum": 100});
        json!({"type": ["object", "null"], "additionalProperties": bias, "maxProperties": MAX_LISTED_IDS})
    },
};
const PRIORITY: Integer =
    Integer { name: "priority", about: "Lower ones are served first.", min: i64::MIN, max: i64::MAX };
const CACHE_SALT: Text = Text {
    name: "cache_salt",
    about: "Kept prefixes are shared among requests of one salt alone.",
    min_chars: 1,
    max_chars: 1024,
};
const PROMPT_LOGPROBS: Integer = Integer {
    name: "prompt_logprobs",
    about: "Report so many of the most likely tokens with each token of the prompt.",
    min: 0,
    max: 20,
};
const STREAM: Flag = Flag { name: "stream", about: "Send the reply in parts, as it is generated." };
const STREAM_OPTIONS: Other = Other {
    name: "stream_options",
    about: "What a stream tells beside the reply.",
    schema: || {
        let flag = json!({"type": ["boolean", "null"]});
        json!({"type": ["object", "null"], "properties": {"include_usage": flag, "continuous_usage_stats": flag}})
    },
};
const TOKEN_IDS: Flag = Flag { name: "return_token_ids", about: "Report token ids beside the text." };
const TOKENS_AS_IDS: Flag =
    Flag { name: "return_tokens_as_token_ids", about: "Write tokens among log-probabilities as `token_id:N`." };
const INCLUDE_USAGE: Flag = Flag { name: "include_usage", about: "" };
const CONTINUOUS_USAGE: Flag = Flag { name: "continuous_usage_stats", about: "" };

/// The fields that this file reads.
pub(super) const FIELDS: &[&dyn Field] = &[
    &MODEL,
    &TEMPERATURE,
    &TOP_P,
    &TOP_K,
    &MIN_P,
    &PRESENCE_PENALTY,
    &FREQUENCY_PENALTY,
    &REPETITION_PENALTY,
    &SEED,
    &N,
    &MIN_TOKENS,
    &STOP,
    &STOP_TOKEN_IDS,
    &ALLOWED_TOKEN_IDS,
    &INCLUDE_STOP,
    &IGNORE_EOS,
    &SKIP_SPECIAL,
    &LOGIT_BIAS,
    &PRIORITY,
    &CACHE_SALT,
    &PROMPT_LOGPROBS,
    &STREAM,
    &STREAM_OPTIONS,
    &TOKEN_IDS,
    &TOKENS_AS_IDS,
];

/// What a request says about drawing and reporting.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    /// The engine's request, still without prompt, `max_tokens`, `logprobs` and the model's own end of text.
    pub(super) request: Request,
    pub(super) text: TextOptions,
    pub(super) ignore_eos: bool,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) continuous_usage: bool,
    /// Whether ids are reported beside the text.
    pub(super) token_ids: bool,
    /// Whether tokens among log-probabilities are written as ids.
    pub(super) tokens_as_ids: bool,
    /// The model's name in the reply.
    pub(super) model: String,
}

impl Sampling {
    /// Reads the fields.
    ///
    /// # Errors
    /// The first one that is wrong.
    pub(super) fn read(fields: &Fields, app: &App, vocab_size: usize) -> Result<Sampling, ApiError> {
        let options = &app.options;
        let Asked { model, adapter } = asked_model(fields, app)?;
        refuse_unsupported(fields)?;
        let n = N.count(fields, i64::from(options.max_n))?.unwrap_or(1);
        if let Some(best_of) = fields.get("best_of")
            && integer(best_of) != Some(i64::from(n))
        {
            return Err(wrong("best_of", best_of, &format!("the number of completions, `n`, which is {n},")));
        }
        let stream = STREAM.is_set(fields)?;
        let (include_usage, continuous_usage) = stream_options(fields, stream)?;
        let prompt_logprobs = PROMPT_LOGPROBS.count(fields, i64::from(options.max_logprobs))?;
        if stream && prompt_logprobs.is_some() {
            return Err(ApiError::invalid(
                "prompt_logprobs",
                "`prompt_logprobs` cannot be streamed; leave out `stream`",
            ));
        }
        let min_tokens = MIN_TOKENS.read(fields)?.unwrap_or(0);
        let allowed_ids = ALLOWED_TOKEN_IDS.read(fields, vocab_size)?;
        if allowed_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(ApiError::invalid(
                "allowed_token_ids",
                "`allowed_token_ids` is empty; name a token, or leave it out",
            ));
        }
        let request = Request {
            params: drawing(fields)?,
            min_tokens: usize::try_from(min_tokens).unwrap_or(usize::MAX),
            stop_ids: STOP_TOKEN_IDS.read(fields, vocab_size)?.unwrap_or_default(),
            prompt_logprobs,
            n,
            priority: PRIORITY.read(fields)?.unwrap_or(0),
            logit_bias: logit_bias(fields, vocab_size)?,
            allowed_ids,
            cache_salt: CACHE_SALT.read(fields)?,
            adapter,
            ..Request::default()
        };
        let text = TextOptions {
            stop: stops(fields)?,
            include_stop: INCLUDE_STOP.is_set(fields)?,
            skip_special: SKIP_SPECIAL.read(fields)?.unwrap_or(true),
        };
        Ok(Sampling {
            request,
            text,
            ignore_eos: IGNORE_EOS.is_set(fields)?,
            stream,
            include_usage,
            continuous_usage,
            token_ids: TOKEN_IDS.is_set(fields)?,
            tokens_as_ids: TOKENS_AS_IDS.is_set(fields)?,
            model,
        })
    }

    /// Checks what depends on how many tokens are asked for.
    pub(super) fn check_min_tokens(&self, max_tokens: Option<u32>) -> Result<(), ApiError> {
        let (min, max) = (self.request.min_tokens, max_tokens.map_or(usize::MAX, |max| max as usize));
        if min > max {
            let message = format!("`min_tokens` is {min}; at most `max_tokens`, which is {max}, is allowed");
            return Err(ApiError::invalid("min_tokens", message));
        }
        Ok(())
    }
}

/// The model that a request asks for.
pub(super) struct Asked {
    /// Its name in the reply.
    pub(super) model: String,
    pub(super) adapter: Option<AdapterId>,
}

/// The model that is asked for, which has to be served here: the one there is, with or without one of its adapters.
pub(super) fn asked_model(fields: &Fields, app: &App) -> Result<Asked, ApiError> {
    let plain = || Asked { model: app.model_name().to_owned(), adapter: None };
    match fields.get(MODEL.name) {
        None => Ok(plain()),
        Some(Value::String(name)) if app.options.served_model_names.contains(name) => Ok(plain()),
        Some(Value::String(name)) => match app.adapters.find(name) {
            Some(id) => Ok(Asked { model: name.clone(), adapter: Some(id) }),
            None => Err(ApiError::no_such_model(name)),
        },
        Some(other) => Err(wrong(MODEL.name, other, "the name of a served model")),
    }
}

fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    let empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        _ => false,
    };
    for name in ["bad_words", "use_beam_search", "suffix", "prompt_embeds", "logits_processors"] {
        if fields.get(name).is_some_and(|value| !empty(value)) {
            return Err(unsupported(name));
        }
    }
    Ok(())
}

fn drawing(fields: &Fields) -> Result<SamplingParams, ApiError> {
    Ok(SamplingParams {
        temperature: TEMPERATURE.read(fields)?.unwrap_or(1.0),
        top_k: TOP_K.read(fields)?.and_then(|k| u32::try_from(k).ok()).unwrap_or(0),
        top_p: TOP_P.read(fields)?.unwrap_or(1.0),
        min_p: MIN_P.read(fields)?.unwrap_or(0.0),
        repetition_penalty: REPETITION_PENALTY.read(fields)?.unwrap_or(1.0),
        presence_penalty: PRESENCE_PENALTY.read(fields)?.unwrap_or(0.0),
        frequency_penalty: FREQUENCY_PENALTY.read(fields)?.unwrap_or(0.0),
        seed: SEED.read(fields)?.map_or_else(ids::seed, i64::cast_unsigned),
        ..SamplingParams::default()
    })
}

fn stops(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let list = match fields.get(STOP.name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(other) => return Err(wrong(STOP.name, other, "a string or a list of strings")),
    };
    if list.len() > MAX_STOPS {
        return Err(too_many(STOP.name, list.len(), MAX_STOPS));
    }
    let stop = |value: &Value| match value {
        Value::String(text) if (1..=MAX_STOP_BYTES).contains(&text.len()) => Ok(text.clone()),
        other => Err(wrong(STOP.name, other, &format!("a string of 1 to {MAX_STOP_BYTES} bytes"))),
    };
    list.iter().map(stop).collect()
}

fn logit_bias(fields: &Fields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let map = match fields.get(LOGIT_BIAS.name) {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(wrong(LOGIT_BIAS.name, other, "an object of biases by token id")),
    };
    if map.len() > MAX_LISTED_IDS {
        return Err(too_many(LOGIT_BIAS.name, map.len(), MAX_LISTED_IDS));
    }
    let entry = |(key, value): (&String, &Value)| {
        let id = key.parse::<u32>().ok().filter(|id| (*id as usize) < vocab_size).ok_or_else(|| {
            let key = found(&Value::from(key.as_str()));
            let last = vocab_size.saturating_sub(1);
            ApiError::invalid(
                LOGIT_BIAS.name,
                format!("`logit_bias` has the key {key}; a token id from 0 to {last} is allowed"),
            )
        })?;
        #[allow(clippy::cast_possible_truncation, reason = "from -100 to 100")]
        let bias = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)).map(|bias| bias as f32);
        let bias = bias.ok_or_else(|| wrong(LOGIT_BIAS.name, value, "a number from -100 to 100"))?;
        Ok((id, bias))
    };
    map.iter().map(entry).collect()
}

fn stream_options(fields: &Fields, stream: bool) -> Result<(bool, bool), ApiError> {
    match fields.get(STREAM_OPTIONS.name) {
        None => Ok((false, false)),
        Some(_) if !stream => {
            Err(ApiError::invalid(STREAM_OPTIONS.name, "`stream_options` is allowed with `stream: true` alone"))
        }
        Some(Value::Object(map)) => {
            let inner = Fields::new(map.clone());
            let within = |error: ApiError| {
                let param = error.param.map(|name| format!("stream_options.{name}"));
                ApiError { param, ..error }
            };
            let include = INCLUDE_USAGE.is_set(&inner).map_err(within)?;
            Ok((include, include && CONTINUOUS_USAGE.is_set(&inner).map_err(within)?))
        }
        Some(other) => Err(wrong(STREAM_OPTIONS.name, other, "an object")),
    }
}
