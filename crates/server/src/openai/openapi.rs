//! `GET /openapi.json`: the schema of all routes. Requests are written from the fields that are read, replies from the types that are sent.

use super::chat::{ChatChunk, ChatReply};
use super::completions::{CompletionChunk, CompletionReply};
use super::embeddings::EmbeddingReply;
use super::fields::Field;
use super::tokenize::{DetokenizeReply, TokenizeReply};
use super::{chat, completions, embeddings, tokenize};
use crate::info::{ModelInfoReply, ModelList, ServerInfoReply, VersionReply};
use axum::Json;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// Statuses of errors and when they are answered.
const ERRORS: &[(&str, &str)] = &[
    ("400", "The request cannot be meant: `error.param` names the field."),
    ("401", "The key is missing or wrong."),
    ("404", "The model is not served here."),
    ("408", "The body did not come in time."),
    ("413", "The body is too large."),
    ("415", "The body is not JSON."),
    ("429", "The queue is full; `Retry-After` says when to come back."),
    ("500", "The engine failed, or the logits became NaN."),
    ("503", "The model is loading, the server is shutting down, or the engine is dead."),
    ("504", "The request took longer than is allowed."),
];

/// A route that is looked at: nothing is sent to it.
struct Look {
    path: &'static str,
    about: &'static str,
    /// The route's own errors.
    errors: &'static [&'static str],
    shows: Shows,
}

/// What stands in a reply's body.
enum Shows {
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// JSON that describes itself.
    Schema,
    /// Lines for people or programs.
    Text,
}

const LOOKS: &[Look] = &[
    Look { path: "/v1/models", about: "The served models.", errors: &["401"], shows: Shows::Json("ModelList") },
    Look {
        path: "/v1/models/{id}",
        about: "A served model.",
        errors: &["401", "404"],
        shows: Shows::Json("ModelEntry"),
    },
    Look { path: "/health", about: "200 when tokens can be generated.", errors: &["503"], shows: Shows::Nothing },
    Look { path: "/ready", about: "200 when requests are taken.", errors: &["503"], shows: Shows::Nothing },
    Look { path: "/version", about: "The server's version.", errors: &[], shows: Shows::Json("VersionReply") },
    Look {
        path: "/server_info",
        about: "The server's limits and what it holds.",
        errors: &["401", "503"],
        shows: Shows::Json("ServerInfoReply"),
    },
    Look {
        path: "/model_info",
        about: "What the served model is.",
        errors: &["401", "503"],
        shows: Shows::Json("ModelInfoReply"),
    },
    Look { path: "/metrics", about: "Metrics for Prometheus.", errors: &["401"], shows: Shows::Text },
    Look { path: "/openapi.json", about: "This document.", errors: &["401"], shows: Shows::Schema },
];

/// A route with a body.
struct Route {
    path: &'static str,
    about: &'static str,
    fields: Vec<&'static dyn Field>,
    required: &'static [&'static str],
    reply: &'static str,
    chunk: Option<&'static str>,
}

/// The document.
pub(super) async fn document() -> Json<Value> {
    Json(write())
}

fn routes() -> [Route; 5] {
    [
        Route {
            path: "/v1/completions",
            about: "Continues prompts.",
            fields: completions::fields(),
            required: &["prompt"],
            reply: "CompletionReply",
            chunk: Some("CompletionChunk"),
        },
        Route {
            path: "/v1/chat/completions",
            about: "Answers a conversation.",
            fields: chat::fields(),
            required: &["messages"],
            reply: "ChatReply",
            chunk: Some("ChatChunk"),
        },
        Route {
            path: "/v1/embeddings",
            about: "Embeds texts.",
            fields: embeddings::fields(),
            required: &["input"],
            reply: "EmbeddingReply",
            chunk: None,
        },
        Route {
            path: "/tokenize",
            about: "The tokens of a text or a conversation.",
            fields: tokenize::fields(),
            required: &[],
            reply: "TokenizeReply",
            chunk: None,
        },
        Route {
            path: "/detokenize",
            about: "The text of tokens.",
            fields: tokenize::detokenize_fields(),
            required: &["tokens"],
            reply: "DetokenizeReply",
            chunk: None,
        },
    ]
}

fn write() -> Value {
    let mut schemas = Map::new();
    add::<CompletionReply>(&mut schemas);
    add::<CompletionChunk>(&mut schemas);
    add::<ChatReply>(&mut schemas);
    add::<ChatChunk>(&mut schemas);
    add::<EmbeddingReply>(&mut schemas);
    add::<TokenizeReply>(&mut schemas);
    add::<DetokenizeReply>(&mut schemas);
    add::<ModelList>(&mut schemas);
    add::<VersionReply>(&mut schemas);
    add::<ServerInfoReply>(&mut schemas);
    add::<ModelInfoReply>(&mut schemas);
    schemas.insert("Error".to_owned(), error_schema());
    let mut paths = Map::new();
    for look in LOOKS {
        paths.insert(look.path.to_owned(), json!({"get": glance(look)}));
    }
    for route in routes() {
        paths.insert(route.path.to_owned(), json!({"post": operation(&route)}));
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "nxd", "version": env!("CARGO_PKG_VERSION"), "description": "OpenAI's API over one model."},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        // A server without keys takes requests without one.
        "security": [{}, {"key": []}],
    })
}

fn glance(look: &Look) -> Value {
    let mut ok = json!({"description": look.about});
    match look.shows {
        Shows::Nothing => {}
        Shows::Json(name) => ok["content"] = json!({"application/json": {"schema": reference(name)}}),
        Shows::Schema => ok["content"] = json!({"application/json": {"schema": {"type": "object"}}}),
        Shows::Text => ok["content"] = json!({"text/plain": {"schema": {"type": "string"}}}),
    }
    let mut responses = errors(look.errors);
    responses.insert("200".to_owned(), ok);
    let mut operation = json!({"summary": look.about, "responses": responses});
    if look.path.contains("{id}") {
        let id = json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}});
        operation["parameters"] = json!([id]);
    }
    operation
}

fn operation(route: &Route) -> Value {
    let mut properties = Map::new();
    for field in &route.fields {
        properties.insert(field.name().to_owned(), field.schema());
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if let (false, Value::Object(schema)) = (route.required.is_empty(), &mut schema) {
        schema.insert("required".to_owned(), json!(route.required));
    }
    let mut content = json!({"application/json": {"schema": reference(route.reply)}});
    if let (Some(chunk), Value::Object(content)) = (route.chunk, &mut content) {
        let about = format!("A {chunk}, an error, or `[DONE]` in the last event.");
        let data = json!({"type": "string", "description": about});
        // The schema of such a type is that of one event.
        let event = json!({"type": "object", "properties": {"data": data}, "required": ["data"]});
        content.insert("text/event-stream".to_owned(), json!({"schema": event}));
    }
    let every: Vec<&str> = ERRORS.iter().map(|(status, _)| *status).collect();
    let mut responses = errors(&every);
    responses.insert("200".to_owned(), json!({"description": "The reply.", "content": content}));
    let body = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    json!({"summary": route.about, "requestBody": body, "responses": responses})
}

fn errors(statuses: &[&str]) -> Map<String, Value> {
    let listed = ERRORS.iter().filter(|(status, _)| statuses.contains(status));
    let response =
        |about: &str| json!({"description": about, "content": {"application/json": {"schema": reference("Error")}}});
    listed.map(|(status, about)| ((*status).to_owned(), response(about))).collect()
}

fn error_schema() -> Value {
    let text = json!({"type": "string"});
    let param = json!({"type": ["string", "null"], "description": "The field that is wrong."});
    let error = json!({
        "type": "object",
        "properties": {"message": text, "type": text, "param": param, "code": text},
        "required": ["message", "type", "param", "code"],
    });
    json!({"type": "object", "properties": {"error": error}, "required": ["error"]})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Adds a type and those that it is made of.
fn add<T: ToSchema>(schemas: &mut Map<String, Value>) {
    let mut all = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut all);
    for (name, schema) in all {
        schemas.insert(name, serde_json::to_value(schema).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// All `$ref`s below `value`.
    fn references(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| references(value, into)),
            Value::Object(map) => {
                into.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, into));
            }
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = write();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.contains("#/components/schemas/ChatReply"));
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} is not in the document");
        }
    }

    #[test]
    fn replies_of_routes_that_are_looked_at_are_described() {
        let document = write();
        let content = |path: &str| document["paths"][path]["get"]["responses"]["200"]["content"].clone();
        let model = &document["components"]["schemas"]["ModelEntry"];
        assert_eq!(content("/v1/models")["application/json"]["schema"], reference("ModelList"));
        assert_eq!(content("/v1/models/{id}")["application/json"]["schema"], reference("ModelEntry"));
        assert!(model["properties"]["max_model_len"]["type"].as_array().unwrap().contains(&json!("null")), "{model}");
        assert_eq!(content("/metrics")["text/plain"]["schema"], json!({"type": "string"}));
        assert_eq!(content("/health"), Value::Null);
        assert_eq!(document["paths"]["/v1/models/{id}"]["get"]["parameters"][0]["in"], "path");
    }

    #[test]
    fn fields_are_described_once_with_their_ranges() {
        let document = write();
        for route in routes() {
            let names: BTreeSet<_> = route.fields.iter().map(|field| field.name()).collect();
            assert_eq!(names.len(), route.fields.len(), "{} describes a field twice", route.path);
        }
        let chat =
            &document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(chat["properties"]["temperature"]["maximum"], 2.0);
        assert_eq!(chat["required"], json!(["messages"]));
    }
}
