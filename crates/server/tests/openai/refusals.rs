//! Requests that cannot be meant: each gets its status, and is told which field is wrong.

use crate::server::Server;
use axum::body::Body;
use axum::http::{Request, header};
use nxd_engine::service::Limits;
use nxd_server::ServerOptions;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// `body` with `fields` in it.
fn with(body: &Value, fields: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

async fn refuses(server: &Server, path: &str, body: Value, param: &str) {
    let (status, _, found) = server.refused(path, &body).await;
    let short: String = body.to_string().chars().take(200).collect();
    assert_eq!((status, found.as_deref()), (400, Some(param)), "{short}");
}

#[tokio::test]
async fn parameters_of_both_routes_are_checked() {
    let server = Server::start();
    let many: Vec<String> = (0..1000).map(|index| index.to_string()).collect();
    let biases: serde_json::Map<String, Value> = (0..2000).map(|id| (id.to_string(), json!(1))).collect();
    let cases = [
        ("temperature", json!([-1, "NaN", 1e308, [], {}])),
        ("top_p", json!([0, 1.1, "1"])),
        ("min_p", json!([-1, 1.5])),
        ("top_k", json!([-2, "5", 1.5])),
        ("presence_penalty", json!([3, -3])),
        ("frequency_penalty", json!([3, -3, "0"])),
        ("repetition_penalty", json!([0, -1])),
        ("seed", json!([18_446_744_073_709_551_615_u64, "1", 1.5])),
        ("n", json!([0, -1, 1_000_000_000, "2"])),
        ("max_tokens", json!([-1, 0, 9_223_372_036_854_775_808_u64, "5"])),
        ("min_tokens", json!([-1, 100])),
        ("prompt_logprobs", json!([-1, 21, "1"])),
        ("logit_bias", json!([{"abc": 1}, {"999999999": 1}, {"1": "x"}, {"1": 1e9}, [], biases])),
        ("stop", json!(["", ["", ""], many, "x".repeat(1 << 20), 5, [1]])),
        ("stop_token_ids", json!([[512], [-1], "1", ["a"]])),
        ("allowed_token_ids", json!([[], [512], 1])),
        ("stream", json!(["yes", 1])),
        ("stream_options", json!([{"include_usage": true}, 1])),
        ("ignore_eos", json!(["yes"])),
        ("cache_salt", json!(["", 1, "x".repeat(2000)])),
        ("priority", json!(["high"])),
        ("best_of", json!([2, 0])),
        ("use_beam_search", json!([true])),
        ("bad_words", json!([["a"]])),
        ("truncate_prompt_tokens", json!([-2, 0])),
        ("guided_regex", json!([1, "(((((", "(?<=x)*"])),
        ("guided_choice", json!(["a", []])),
        ("response_format", json!(["json"])),
        ("response_format.type", json!([{"type": 123}, {"type": "hiccup"}])),
        ("response_format.json_schema", json!([{"type": "json_schema"}])),
    ];
    let completion = json!({"prompt": "a", "max_tokens": 5});
    let chat = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 5});
    for (param, values) in cases {
        let field = param.split('.').next().unwrap();
        for value in values.as_array().unwrap() {
            refuses(&server, COMPLETIONS, with(&completion, &json!({field: value})), param).await;
            refuses(&server, CHAT, with(&chat, &json!({field: value})), param).await;
        }
    }
    server.ok(COMPLETIONS, &completion).await;
}

#[tokio::test]
async fn prompts_are_checked() {
    let server = Server::start();
    for prompt in [
        json!(null),
        json!(""),
        json!([]),
        json!([[]]),
        json!([-1]),
        json!([512]),
        json!([1.5]),
        json!(["a", 1]),
        json!({}),
    ] {
        refuses(&server, COMPLETIONS, json!({"prompt": prompt}), "prompt").await;
    }
    refuses(&server, COMPLETIONS, json!({"prompt": vec!["a"; 100_000]}), "prompt").await;
    for (body, param) in [
        (json!({"prompt": vec![1; 1_000_000]}), "prompt"),
        (json!({"prompt": "word ".repeat(1 << 20)}), "prompt"),
        (json!({"prompt": vec![1; 512]}), "prompt"),
        (json!({"prompt": vec![1; 500], "max_tokens": 13}), "max_tokens"),
    ] {
        let (status, code, found) = server.refused(COMPLETIONS, &body).await;
        assert_eq!((status, code.as_str(), found.as_deref()), (400, "context_length_exceeded", Some(param)));
    }
    for (fields, param) in [
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"logprobs": -2}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"stream": true, "stream_options": {"include_usage": "yes"}}), "stream_options.include_usage"),
        (json!({"n": 128, "prompt": vec!["a"; 64]}), "n"),
    ] {
        refuses(&server, COMPLETIONS, with(&json!({"prompt": "a"}), &fields), param).await;
    }
}

#[tokio::test]
async fn conversations_are_checked() {
    let server = Server::start();
    let user = json!({"role": "user", "content": "a"});
    let assistant = json!({"role": "assistant", "content": "a"});
    for (messages, param) in [
        (json!(null), "messages"),
        (json!("x"), "messages"),
        (json!([]), "messages"),
        (json!([123]), "messages[0]"),
        (json!([{}]), "messages[0].role"),
        (json!([{"role": 123, "content": "a"}]), "messages[0].role"),
        (json!([{"role": "wizard", "content": "a"}]), "messages[0].role"),
        (json!([{"role": "user", "content": 123}]), "messages[0].content"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([user, {"role": "user", "content": [{"type": "smell", "text": "a"}]}]), "messages[1].content[0].type"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]),
            "messages[0].content[0].type",
        ),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (json!([user, {"role": "tool", "content": "a"}]), "messages[1].tool_call_id"),
        (
            json!([{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!([user, assistant, assistant]), "messages"),
    ] {
        refuses(&server, CHAT, json!({"messages": messages}), param).await;
    }
    let tool = |function: Value| json!({"type": "function", "function": function});
    for (fields, param) in [
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"logprobs": 1}), "logprobs"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"add_generation_prompt": true, "continue_final_message": true}), "continue_final_message"),
        (json!({"continue_final_message": true}), "continue_final_message"),
        (json!({"chat_template": "{{ messages }}"}), "chat_template"),
        (json!({"chat_template_kwargs": {"tokenize": true, "messages": []}}), "chat_template_kwargs.tokenize"),
        (json!({"chat_template_kwargs": []}), "chat_template_kwargs"),
        (json!({"tools": [tool(json!({"name": ""}))]}), "tools[0].function.name"),
        (json!({"tools": [tool(json!({"name": "f", "parameters": []}))]}), "tools[0].function.parameters"),
        (json!({"tools": [tool(json!({"name": "f"}))], "tool_choice": tool(json!({"name": "g"}))}), "tool_choice"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tools": [tool(json!({"name": "f", "parameters": {"type": "object", "properties": {"a": {"pattern": "(((", "type": "string"}}}}))], "tool_choice": "required"}),
            "tools",
        ),
    ] {
        refuses(&server, CHAT, with(&json!({"messages": [user]}), &fields), param).await;
    }
}

#[tokio::test]
async fn schemas_that_cannot_be_held_to_are_refused() {
    let server = Server::start();
    let mut deep = json!({"type": "string"});
    for _ in 0..100 {
        deep = json!({"items": deep});
    }
    let field = "response_format.json_schema.schema";
    for schema in [
        json!({"type": 123}),
        json!({"type": "hiccup"}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        json!({"$ref": "http://127.0.0.1:1/schema.json"}),
        json!({"type": "string", "pattern": "(?<=x)*"}),
        json!({"type": "string", "pattern": "(a{1000}){1000}"}),
        json!({"type": "array", "minItems": 1_000_000_000}),
        json!({"enum": (0..100_000).collect::<Vec<_>>()}),
        deep,
    ] {
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        refuses(&server, COMPLETIONS, json!({"prompt": "a", "response_format": format}), field).await;
    }
    server.ok(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 1})).await;
}

#[tokio::test]
async fn models_that_are_not_served_are_not_found() {
    let server = Server::start();
    let long = "m".repeat(1 << 20);
    for name in ["other", "", long.as_str()] {
        for path in [COMPLETIONS, CHAT, "/v1/embeddings", "/tokenize", "/detokenize"] {
            let (status, code, param) = server.refused(path, &json!({"model": name})).await;
            assert_eq!((status, code.as_str(), param.as_deref()), (404, "model_not_found", Some("model")));
        }
    }
    refuses(&server, COMPLETIONS, json!({"model": 5, "prompt": "a"}), "model").await;
}

#[tokio::test]
async fn bodies_are_bounded_and_of_one_type() {
    let server = Server::with(ServerOptions { max_body_bytes: 1000, ..ServerOptions::default() });
    assert_eq!(server.raw(COMPLETIONS, "x".repeat(1001)).await.0, 413);
    for body in ["not json", "[]", "\"x\"", "null", "", &"[".repeat(900)] {
        assert_eq!(server.raw(COMPLETIONS, body.to_owned()).await.0, 400, "{body}");
    }
    let text = Request::post(CHAT).header(header::CONTENT_TYPE, "text/plain").body(Body::from("{}")).unwrap();
    assert_eq!(server.send(text).await.0, 415);
    assert_eq!(server.send(Request::get(CHAT).body(Body::empty()).unwrap()).await.0, 405);
}

#[tokio::test]
async fn a_server_that_cannot_serve_says_why() {
    let good = json!({"prompt": "a", "max_tokens": 1});
    let loading = Server::loading(ServerOptions::default());
    assert_eq!(loading.refused(COMPLETIONS, &good).await, (503, "loading".into(), None));
    let full = Limits { max_queued_requests: 0, ..Limits::default() };
    let full = Server::with(ServerOptions { queue: full, ..ServerOptions::default() });
    let chat = json!({"messages": [{"role": "user", "content": "a"}]});
    assert_eq!(full.refused(CHAT, &chat).await, (429, "queue_full".into(), None));
    let server = Server::start();
    server.app.engine().unwrap().drain();
    assert_eq!(server.refused(COMPLETIONS, &good).await, (503, "draining".into(), None));
    assert_eq!(server.post("/tokenize", &json!({"prompt": "a"})).await.0, 200);
}
