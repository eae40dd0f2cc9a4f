//! `POST /v1/embeddings`: the last token's final-norm row, of length 1.

use super::fields::{Field, Fields, Integer, Other, integer, wrong};
use super::generate::{admit, blocking};
use super::params::asked_model;
use super::prompt::{self, Encoding};
use super::{generate, ids};
use crate::error::ApiError;
use crate::state::App;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nxd_engine::service::TextOptions;
use nxd_engine::{Request, Task};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

const INPUT: Other =
    Other { name: "input", about: "A text, token ids, or a list of one of these.", schema: prompt::schema };
const ENCODING_FORMAT: Other = Other {
    name: "encoding_format",
    about: "`float`, where absent, or `base64`: little-endian 32-bit floats.",
    schema: || json!({"enum": ["float", "base64", null]}),
};
const DIMENSIONS: Integer = Integer {
    name: "dimensions",
    about: "The model's number of dimensions: rows are not shortened.",
    min: 1,
    max: i64::MAX,
};

/// The fields of a request.
pub(super) fn fields() -> Vec<&'static dyn Field> {
    let own: [&dyn Field; 3] = [&INPUT, &ENCODING_FORMAT, &DIMENSIONS];
    [&own[..], prompt::FIELDS].concat()
}

/// A reply.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingReply {
    id: String,
    /// `list`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    /// One row an input, in their order.
    data: Vec<Embedding>,
    usage: EmbeddingUsage,
}

/// A row.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Embedding {
    /// `embedding`.
    object: &'static str,
    index: usize,
    embedding: Row,
}

/// Numbers, or their bytes.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Row {
    /// The numbers.
    Float(Vec<f32>),
    /// Little-endian 32-bit floats.
    Base64(String),
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingUsage {
    /// Tokens of all inputs.
    prompt_tokens: usize,
    /// The same.
    total_tokens: usize,
}

/// Embeds texts.
pub(super) async fn create(State(app): State<Arc<App>>, fields: Fields) -> Result<Json<EmbeddingReply>, ApiError> {
    let handle = app.engine()?;
    let (info, options) = (handle.info(), &app.options);
    let asked = asked_model(&fields, &app)?;
    let max_prompts = options.max_prompts.min(options.queue.max_queued_requests);
    let prompts = prompt::read(&fields, INPUT.name, max_prompts, info.vocab_size)?;
    let encoding = Encoding::read(&fields, true)?;
    let base64 = match fields.get(ENCODING_FORMAT.name) {
        None => false,
        Some(Value::String(format)) if format == "float" => false,
        Some(Value::String(format)) if format == "base64" => true,
        Some(other) => return Err(wrong(ENCODING_FORMAT.name, other, "\"float\" or \"base64\"")),
    };
    if let Some(value) = fields.get(DIMENSIONS.name)
        && integer(value).and_then(|found| usize::try_from(found).ok()) != Some(info.hidden_size)
    {
        let allowed = format!("{}, which the model has,", info.hidden_size);
        return Err(wrong(DIMENSIONS.name, value, &allowed));
    }
    let tickets = admit(handle, prompts.len())?;
    let (model, room) = (Arc::clone(handle.model()), info.max_model_len);
    let encoded = blocking(move || {
        let tokens = |prompt| encoding.tokens(prompt, model.tokenizer(), room, INPUT.name);
        prompts.into_iter().map(tokens).collect::<Result<Vec<_>, _>>()
    });
    let mut requests = Vec::new();
    let mut tokens = 0;
    for prompt in encoded.await? {
        tokens += prompt.len();
        requests.push(Request { prompt, task: Task::Embed, adapter: asked.adapter, ..Request::default() });
    }
    let mut running = generate::submit(&app, handle, INPUT.name, tickets, requests, &TextOptions::default())?;
    let mut data = Vec::new();
    for (index, outcome) in running.collect(1).await?.into_iter().enumerate() {
        let row = outcome.embedding.and_then(normalised).ok_or_else(|| {
            let message = format!("the embedding of `input` number {index} is not finite");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "numerical_error", message)
        })?;
        let embedding = if base64 { Row::Base64(in_base64(&row)) } else { Row::Float(row) };
        data.push(Embedding { object: "embedding", index, embedding });
    }
    Ok(Json(EmbeddingReply {
        id: ids::reply_id("embd-"),
        object: "list",
        created: ids::now(),
        model: asked.model,
        data,
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}

/// The row at length 1; `None` when that cannot be.
#[allow(clippy::cast_possible_truncation, reason = "each number is at most 1")]
fn normalised(row: Vec<f32>) -> Option<Vec<f32>> {
    let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let good = length.is_finite() && length > 0.0;
    good.then(|| row.into_iter().map(|x| (f64::from(x) / length) as f32).collect())
}

fn in_base64(row: &[f32]) -> String {
    let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_length_one_unless_they_are_nothing() {
        assert_eq!(normalised(vec![3.0, -4.0]), Some(vec![0.6, -0.8]));
        assert_eq!(normalised(vec![0.0, 0.0]), None);
        assert_eq!(normalised(vec![f32::NAN, 1.0]), None);
        assert_eq!(in_base64(&[1.0, -2.5]), "AACAPwAAIMA=");
    }
}
