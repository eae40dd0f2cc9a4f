//! Completions: whole and streamed replies, several prompts and choices, log-probabilities, echoes.

use crate::server::Server;
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

/// The text, last reason and chunks' count of the choice `index`.
fn joined(chunks: &[Value], index: usize) -> (String, Vec<String>) {
    let choices =
        || chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()).filter(|c| c["index"] == index);
    let reasons = choices().filter_map(|choice| choice["finish_reason"].as_str().map(str::to_owned)).collect();
    (choices().map(|choice| choice["text"].as_str().unwrap()).collect(), reasons)
}

#[tokio::test]
async fn a_reply_has_openais_shape() {
    let server = Server::start();
    let body = json!({"model": "model", "prompt": "the cat", "max_tokens": 5, "temperature": 0, "ignore_eos": true});
    let reply = server.ok(PATH, &body).await;
    assert!(reply["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!((&reply["object"], &reply["model"]), (&json!("text_completion"), &json!("model")));
    let choice = &reply["choices"][0];
    assert_eq!(
        (&choice["index"], &choice["finish_reason"], &choice["logprobs"]),
        (&json!(0), &json!("length"), &json!(null))
    );
    let prompt = server.ok("/tokenize", &json!({"prompt": "the cat"})).await;
    let count = prompt["count"].as_u64().unwrap();
    assert_eq!(reply["usage"], json!({"prompt_tokens": count, "total_tokens": count + 5, "completion_tokens": 5}));
    let ids = server
        .ok(PATH, &json!({"prompt": prompt["tokens"], "max_tokens": 5, "temperature": 0, "ignore_eos": true}))
        .await;
    assert_eq!(ids["choices"], reply["choices"]);
}

#[tokio::test]
async fn a_stream_says_what_the_whole_reply_says() {
    let server = Server::start();
    let mut body =
        json!({"prompt": ["the cat", "a dog"], "n": 3, "max_tokens": 12, "seed": 7, "temperature": 1.5, "stop": "e"});
    let whole = server.ok(PATH, &body).await;
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let mut chunks = server.chunks(PATH, &body).await;
    let last = chunks.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["created"] == chunks[0]["created"]));
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 6);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        let (text, reasons) = joined(&chunks, index);
        assert_eq!(text, choice["text"].as_str().unwrap());
        assert_eq!(reasons, [choice["finish_reason"].as_str().unwrap()]);
        assert!(!text.contains('e'));
    }
    let texts: std::collections::BTreeSet<_> = choices[..3].iter().map(|choice| choice["text"].as_str()).collect();
    assert!(texts.len() > 1, "choices of one seed differ");
}

#[tokio::test]
async fn the_last_text_and_the_reason_come_together() {
    let server = Server::start();
    let body =
        json!({"prompt": "the", "max_tokens": 4, "temperature": 0, "ignore_eos": true, "stream": true, "logprobs": 0});
    let chunks = server.chunks(PATH, &body).await;
    assert_eq!(chunks.len(), 4, "one chunk a token");
    let last = &chunks[3]["choices"][0];
    assert_eq!(last["finish_reason"], "length");
    assert_eq!(last["logprobs"]["tokens"].as_array().unwrap().len(), 1);
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn usage_can_be_told_all_along() {
    let server = Server::start();
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 3, "ignore_eos": true, "logprobs": 0, "stream": true, "stream_options": options});
    let chunks = server.chunks(PATH, &body).await;
    let counts: Vec<_> = chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3, 3]);
    assert!(chunks.iter().all(|chunk| chunk["usage"]["prompt_tokens"] == 3));
}

#[tokio::test]
async fn log_probabilities_have_one_entry_a_token() {
    let server = Server::start();
    let body = json!({"prompt": "the", "max_tokens": 6, "temperature": 0, "ignore_eos": true, "logprobs": 3, "skip_special_tokens": false});
    let choice = server.ok(PATH, &body).await["choices"][0].clone();
    let logprobs = &choice["logprobs"];
    let len = |name: &str| logprobs[name].as_array().unwrap().len();
    assert_eq!([len("tokens"), len("token_logprobs"), len("top_logprobs"), len("text_offset")], [6; 4]);
    for (top, own) in
        logprobs["top_logprobs"].as_array().unwrap().iter().zip(logprobs["token_logprobs"].as_array().unwrap())
    {
        assert!((1..=4).contains(&top.as_object().unwrap().len()));
        assert!(own.as_f64().unwrap() <= 0.0 && top.as_object().unwrap().values().any(|value| value == own));
    }
    let zero = server.ok(PATH, &json!({"prompt": "the", "max_tokens": 1, "temperature": 0, "logprobs": 0})).await;
    assert_eq!(zero["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn an_echo_scores_the_prompt() {
    let server = Server::start();
    for max_tokens in [1, 0] {
        let body = json!({"prompt": [5, 6, 7], "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true, "echo": true, "logprobs": 1});
        let reply = server.ok(PATH, &body).await;
        let logprobs = &reply["choices"][0]["logprobs"];
        let scores = logprobs["token_logprobs"].as_array().unwrap();
        assert_eq!(scores.len(), 3 + max_tokens);
        assert!(scores[0].is_null() && scores[1..].iter().all(|score| score.as_f64().unwrap() <= 0.0));
        assert!(logprobs["top_logprobs"][0].is_null());
        assert_eq!(reply["usage"]["completion_tokens"], max_tokens);
        assert_eq!(reply["choices"][0]["finish_reason"], "length");
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        let (text, _) = joined(&server.chunks(PATH, &streamed).await, 0);
        assert_eq!(text, reply["choices"][0]["text"].as_str().unwrap());
    }
    let plain = server.ok(PATH, &json!({"prompt": "the cat", "max_tokens": 0, "echo": true, "n": 2})).await;
    assert_eq!(
        plain["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect::<Vec<_>>(),
        ["the cat"; 2]
    );
    let of_prompt = server.ok(PATH, &json!({"prompt": [5, 6, 7], "max_tokens": 1, "prompt_logprobs": 1})).await;
    let entries = of_prompt["choices"][0]["prompt_logprobs"].as_array().unwrap().clone();
    assert!(entries.len() == 3 && entries[0].is_null() && entries[1]["6"]["logprob"].is_number(), "{entries:?}");
}

#[tokio::test]
async fn what_stopped_a_completion_is_told() {
    let server = Server::start();
    let body = json!({"prompt": "the", "max_tokens": 1, "temperature": 0, "return_token_ids": true});
    let first = server.ok(PATH, &body).await["choices"][0]["token_ids"][0].clone();
    let stopped =
        server.ok(PATH, &json!({"prompt": "the", "max_tokens": 9, "temperature": 0, "stop_token_ids": [first]})).await;
    let choice = &stopped["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["stop_reason"], &choice["text"]),
        (&json!("stop"), &first, &json!(""))
    );
    assert_eq!(stopped["usage"]["completion_tokens"], 1);
}

#[tokio::test]
async fn constraints_hold() {
    let server = Server::start();
    let body = json!({"prompt": "the", "max_tokens": 30, "seed": 3, "guided_choice": ["yes", "no"]});
    let reply = server.ok(PATH, &body).await;
    let choice = &reply["choices"][0];
    assert!(["yes", "no"].contains(&choice["text"].as_str().unwrap()), "{choice}");
    assert_eq!(choice["finish_reason"], "stop");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    use tower::ServiceExt;
    let server = Server::start();
    for stream in [true, false] {
        let body = json!({"prompt": "the", "max_tokens": 400, "ignore_eos": true, "n": 8, "stream": stream});
        let router = nxd_server::openai::routes(&server.app.options).with_state(std::sync::Arc::clone(&server.app));
        let request = axum::http::Request::post(PATH).header("content-type", "application/json");
        let request = request.body(axum::body::Body::from(body.to_string())).unwrap();
        let reply = tokio::time::timeout(std::time::Duration::from_millis(50), router.oneshot(request)).await;
        drop(reply);
        server.until_idle().await;
    }
    server.ok(PATH, &json!({"prompt": "the", "max_tokens": 1})).await;
}
