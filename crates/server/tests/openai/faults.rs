//! Faults below the server: each ends what it must end, with an error, and nothing else.

use crate::faulty::{Fault, Faulty, UNTIED, poisoned};
use crate::server::Server;
use nxd_server::ServerOptions;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
/// A step that is long enough for requests to meet in it.
const SLOW: Fault = Fault::Late(Duration::from_millis(3));
/// A token whose embedding is NaN.
const POISON: u32 = 77;

fn slowed(fault: &Arc<Mutex<Fault>>) -> Arc<Server> {
    let dir = nxd_testkit::goldens().join(UNTIED);
    Arc::new(Server::over(&dir, ServerOptions::default(), |executor| Faulty::around(executor, fault)))
}

/// `code` of the error of a reply, or of an event.
fn code(reply: &Value) -> &str {
    reply["error"]["code"].as_str().unwrap_or_else(|| panic!("no error: {reply}"))
}

/// Sends requests that will take long, so that they meet: two for whole replies, two for streams.
fn begin_four(server: &Arc<Server>) -> (JoinSet<(u16, Value)>, JoinSet<Vec<Value>>) {
    let (mut whole, mut streams) = (JoinSet::new(), JoinSet::new());
    for (path, input) in [
        (COMPLETIONS, json!({"prompt": [5, 6, 7]})),
        (CHAT, json!({"messages": [{"role": "user", "content": "the cat"}]})),
    ] {
        let mut body = input;
        (body["max_tokens"], body["temperature"], body["ignore_eos"]) = (json!(450), json!(0), json!(true));
        let (shared, sent) = (Arc::clone(server), body.clone());
        whole.spawn(async move { shared.post(path, &sent).await });
        body["stream"] = json!(true);
        let shared = Arc::clone(server);
        streams.spawn(async move { shared.chunks(path, &body).await });
    }
    (whole, streams)
}

#[tokio::test]
async fn logits_that_become_nan_end_one_request_and_its_neighbours_say_what_they_say_alone() {
    let dir = poisoned(POISON as usize);
    let fault = Arc::new(Mutex::new(SLOW));
    let server =
        Arc::new(Server::over(dir.path(), ServerOptions::default(), |executor| Faulty::around(executor, &fault)));
    let neighbour = |seed: u64| json!({"prompt": [5, 6, 7 + seed], "max_tokens": 60, "ignore_eos": true, "logprobs": 3, "seed": seed, "allowed_token_ids": (3..70).collect::<Vec<_>>()});
    let mut alone = Vec::new();
    for seed in 0..3 {
        alone.push(server.ok(COMPLETIONS, &neighbour(seed)).await["choices"].clone());
    }

    let mut beside = JoinSet::new();
    for seed in 0..3 {
        let shared = Arc::clone(&server);
        beside.spawn(async move { (seed, shared.ok(COMPLETIONS, &neighbour(seed)).await["choices"].clone()) });
    }
    server.until("vllm:num_requests_running", 3.0).await;
    // Its prompt is poisoned: nothing is ever drawn.
    let poisoned = json!({"prompt": [5, POISON, 7], "max_tokens": 9});
    let (status, reply) = server.post(COMPLETIONS, &poisoned).await;
    assert_eq!((status, code(&reply)), (500, "numerical_error"));
    assert!(reply["error"]["message"].as_str().unwrap().contains("after 0 generated tokens"), "{reply}");
    // It draws the poison itself: the first token is sound, the second one is not.
    for (path, input) in [
        (COMPLETIONS, json!({"prompt": [5, 6]})),
        (CHAT, json!({"messages": [{"role": "user", "content": "the cat"}]})),
    ] {
        let mut body = input;
        (body["max_tokens"], body["allowed_token_ids"]) = (json!(9), json!([POISON]));
        let (status, reply) = server.post(path, &body).await;
        assert_eq!((status, code(&reply)), (500, "numerical_error"));
        assert!(reply["error"]["message"].as_str().unwrap().contains("after 1 generated tokens"), "{reply}");
        body["stream"] = json!(true);
        let chunks = server.chunks(path, &body).await;
        let (last, before) = chunks.split_last().unwrap();
        assert_eq!(code(last), "numerical_error");
        assert!(!before.is_empty() && before.iter().all(|chunk| chunk.get("error").is_none()), "{before:?}");
        assert!(before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()), "{before:?}");
    }
    let (status, reply) = server.post("/v1/embeddings", &json!({"input": [5, POISON, 7]})).await;
    assert_eq!((status, code(&reply)), (500, "numerical_error"));

    while let Some(done) = beside.join_next().await {
        let (seed, choices) = done.unwrap();
        assert_eq!(choices, alone[usize::try_from(seed).unwrap()], "a neighbour is disturbed");
    }
    // Later requests get the blocks that were poisoned.
    for seed in 0..3 {
        let after = server.ok(COMPLETIONS, &neighbour(seed)).await;
        assert_eq!(after["choices"], alone[usize::try_from(seed).unwrap()], "a successor is disturbed");
    }
    // The embedding too.
    assert_eq!(server.metric("vllm:corrupted_requests_total"), 6.0);
    assert_eq!(server.metric("nxd:request_failures_total"), 6.0);
    assert_eq!((server.get("/health").await.0, server.get("/ready").await.0), (200, 200));
    assert!(server.get("/metrics").await.1.contains("vllm:corrupted_requests_total"));
    server.until("vllm:num_requests_running", 0.0).await;
    assert_eq!(server.metric("vllm:kv_cache_usage_perc"), 0.0, "blocks are still held");
}

#[tokio::test]
async fn an_engine_that_fails_answers_all_it_had_and_the_server_says_that_it_is_dead() {
    for (broken, why) in [(Fault::Panic, "it panicked: told to"), (Fault::Error, "told to")] {
        let fault = Arc::new(Mutex::new(SLOW));
        let server = slowed(&fault);
        let (mut whole, mut streams) = begin_four(&server);
        server.until("vllm:num_requests_running", 4.0).await;
        *fault.lock().unwrap() = broken;
        while let Some(done) = whole.join_next().await {
            let (status, reply) = done.unwrap();
            assert_eq!((status, code(&reply)), (500, "engine_dead"));
            assert!(reply["error"]["message"].as_str().unwrap().contains(why), "{reply}");
        }
        while let Some(done) = streams.join_next().await {
            let chunks = done.unwrap();
            let (last, before) = chunks.split_last().unwrap();
            assert_eq!(code(last), "engine_dead");
            assert!(before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()), "{before:?}");
        }
        for path in ["/health", "/ready"] {
            let (status, body) = server.get(path).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, code(&body)), (503, "engine_dead"), "{path}");
        }
        for (path, body) in [
            (COMPLETIONS, json!({"prompt": [5]})),
            (COMPLETIONS, json!({"prompt": [5], "stream": true})),
            (CHAT, json!({"messages": [{"role": "user", "content": "a"}]})),
            ("/v1/embeddings", json!({"input": [5]})),
        ] {
            assert_eq!(server.refused(path, &body).await, (503, "engine_dead".into(), None), "{path}");
        }
        // What needs no engine goes on.
        assert_eq!(server.post("/tokenize", &json!({"prompt": "the cat"})).await.0, 200);
        assert_eq!(server.get("/v1/models").await.0, 200);
        assert_eq!(server.metric("nxd:request_failures_total"), 4.0);
        assert_eq!(server.metric("vllm:num_requests_running"), 0.0);
    }
}

#[tokio::test]
async fn a_step_that_takes_too_long_makes_the_server_unhealthy_until_it_ends() {
    let fault = Arc::new(Mutex::new(Fault::Late(Duration::from_millis(1500))));
    let options = ServerOptions { step_timeout: Duration::from_millis(50), ..ServerOptions::default() };
    let dir = nxd_testkit::goldens().join(UNTIED);
    let server = Arc::new(Server::over(&dir, options, |executor| Faulty::around(executor, &fault)));
    let shared = Arc::clone(&server);
    let asked = tokio::spawn(async move { shared.post(COMPLETIONS, &json!({"prompt": [5], "max_tokens": 1})).await });
    let began = Instant::now();
    while server.get("/health").await.0 == 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "a step that hangs is not noticed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, body) = server.get("/ready").await;
    assert!(status == 503 && body.contains("stalled"), "{status} {body}");
    *fault.lock().unwrap() = SLOW;
    assert_eq!(asked.await.unwrap().0, 200);
    assert_eq!((server.get("/health").await.0, server.get("/ready").await.0), (200, 200));
}

/// Constraints that cost as much as any that is let in, or are refused for what they would cost.
fn heavy_constraints() -> Vec<Value> {
    let words: Vec<String> = (0..1000).map(|number| format!("{number:060}")).collect();
    let rules: String = (0..900).map(|rule| format!("r{rule}: \"a\" r{} | \"b\"\n", rule + 1)).collect();
    let mut deep = json!({"type": "string"});
    for _ in 0..20 {
        deep = json!({"type": "object", "properties": {"a": deep, "b": {"type": "integer"}}, "required": ["a", "b"]});
    }
    let ambiguous = "start: e\ne: e e | \"a\" | \"b\" | e \"+\" e";
    vec![
        json!({"guided_choice": words}),
        json!({"guided_grammar": format!("start: r0\n{rules}r900: \"c\"")}),
        json!({"guided_grammar": ambiguous}),
        json!({"guided_regex": "(a|b|ab|ba|aab|abb){1,200}(x|y|xy){1,200}"}),
        json!({"guided_regex": "([a-z]{1,50}[0-9]{1,50}){1,20}"}),
        json!({"guided_json": deep}),
    ]
}

#[tokio::test]
async fn constraints_that_cost_much_hold_up_nobody() {
    let server = Arc::new(Server::start());
    let plain = json!({"prompt": [5, 6, 7], "max_tokens": 40, "temperature": 0, "ignore_eos": true});
    let alone = server.ok(COMPLETIONS, &plain).await["choices"].clone();
    let mut heavy = JoinSet::new();
    for fields in heavy_constraints().into_iter().cycle().take(18) {
        let mut body = json!({"prompt": [5], "max_tokens": 3, "seed": 1});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let shared = Arc::clone(&server);
        heavy.spawn(async move { shared.post(COMPLETIONS, &body).await });
    }
    let mut slowest = Duration::ZERO;
    let mut answered = 0;
    while !heavy.is_empty() {
        let began = Instant::now();
        assert_eq!(server.ok(COMPLETIONS, &plain).await["choices"], alone);
        slowest = slowest.max(began.elapsed());
        while let Some(done) = heavy.try_join_next() {
            let (status, reply) = done.unwrap();
            assert!([200, 400, 429, 500].contains(&status), "{status} {reply}");
            // Where the grammar's own bounds end a reply, the reply says so.
            assert!(status != 500 || code(&reply) == "internal_error", "{reply}");
            answered += 1;
        }
    }
    assert_eq!(answered, 18);
    // Far less than compiling all of them takes where one waits for another; machines that test are busy.
    assert!(slowest < Duration::from_secs(10), "a request without a constraint took {slowest:?}");
    server.until_idle().await;
}
