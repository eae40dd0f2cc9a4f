//! Chat: roles and reasons in chunks of their own, log-probabilities, tools, templates.

use crate::server::Server;
use nxd_server::ServerOptions;
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

fn user() -> Value {
    json!([{"role": "user", "content": "the cat"}])
}

#[tokio::test]
async fn a_reply_has_openais_shape() {
    let server = Server::start();
    let body =
        json!({"messages": user(), "max_completion_tokens": 5, "max_tokens": 9, "temperature": 0, "ignore_eos": true});
    let reply = server.ok(PATH, &body).await;
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(reply["object"], "chat.completion");
    let choice = &reply["choices"][0];
    assert_eq!((&choice["message"]["role"], &choice["finish_reason"]), (&json!("assistant"), &json!("length")));
    assert!(choice["message"]["content"].is_string() && choice["message"].get("tool_calls").is_none());
    let tokens = server.ok("/tokenize", &json!({"messages": user()})).await;
    assert_eq!((&reply["usage"]["prompt_tokens"], &reply["usage"]["completion_tokens"]), (&tokens["count"], &json!(5)));
}

#[tokio::test]
async fn a_stream_opens_with_the_role_and_closes_with_the_reason() {
    let server = Server::start();
    let mut body = json!({"messages": user(), "n": 2, "max_tokens": 12, "seed": 7, "temperature": 1.5, "logprobs": true, "top_logprobs": 2});
    let whole = server.ok(PATH, &body).await;
    body["stream"] = json!(true);
    let chunks = server.chunks(PATH, &body).await;
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let parts: Vec<&Value> =
            chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|part| part["index"] == index).collect();
        assert_eq!(parts[0]["delta"], json!({"role": "assistant", "content": null}));
        let (last, before) = parts.split_last().unwrap();
        assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &choice["finish_reason"]));
        assert!(before.iter().all(|part| part["finish_reason"].is_null()));
        let text: String = parts.iter().filter_map(|part| part["delta"]["content"].as_str()).collect();
        assert_eq!(text, choice["message"]["content"].as_str().unwrap());
        let scored: Vec<&Value> =
            parts.iter().filter_map(|part| part["logprobs"]["content"].as_array()).flatten().collect();
        assert_eq!(scored, choice["logprobs"]["content"].as_array().unwrap().iter().collect::<Vec<_>>());
        for entry in scored {
            assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
            let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), entry["token"].as_str().unwrap());
        }
    }
}

#[tokio::test]
async fn a_hidden_stop_token_has_no_log_probability_streamed_or_not() {
    let server = Server::start();
    let plain = json!({"messages": user(), "max_tokens": 9, "temperature": 0, "ignore_eos": true, "logprobs": true, "return_token_ids": true});
    let ids = server.ok(PATH, &plain).await["choices"][0]["token_ids"].clone();
    let ids: Vec<u64> = serde_json::from_value(ids).unwrap();
    // The first token that was not drawn before ends the reply behind it.
    let stop = ids[1..].iter().find(|id| **id != ids[0]).unwrap();
    let drawn = ids.iter().position(|id| id == stop).unwrap() + 1;
    for (include, shown) in [(false, drawn - 1), (true, drawn)] {
        let mut body = plain.clone();
        (body["stop_token_ids"], body["include_stop_str_in_output"]) = (json!([stop]), json!(include));
        let whole = server.ok(PATH, &body).await["choices"][0].clone();
        assert_eq!(whole["stop_reason"], json!(stop));
        let scored = whole["logprobs"]["content"].as_array().unwrap();
        assert_eq!(scored.len(), shown);
        body["stream"] = json!(true);
        let chunks = server.chunks(PATH, &body).await;
        let parts = || chunks.iter().map(|chunk| &chunk["choices"][0]);
        let streamed: Vec<&Value> =
            parts().filter_map(|part| part["logprobs"]["content"].as_array()).flatten().collect();
        assert_eq!(streamed, scored.iter().collect::<Vec<_>>(), "include_stop_str_in_output: {include}");
        let text: String = parts().filter_map(|part| part["delta"]["content"].as_str()).collect();
        assert_eq!(text, whole["message"]["content"].as_str().unwrap());
    }
}

#[tokio::test]
async fn forced_calls_are_calls() {
    let server = Server::start();
    let parameters = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": false});
    let tools = json!([{"type": "function", "function": {"name": "light", "parameters": parameters}}]);
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "light"}})] {
        let mut body = json!({"messages": user(), "tools": tools, "tool_choice": choice, "seed": 1, "max_tokens": 200, "parallel_tool_calls": false});
        let reply = server.ok(PATH, &body).await;
        let message = &reply["choices"][0]["message"];
        let call = &message["tool_calls"][0];
        assert!(message["content"].is_null() && reply["choices"][0]["finish_reason"] == "tool_calls", "{reply}");
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("light")));
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["on"].is_boolean());
        body["stream"] = json!(true);
        let chunks = server.chunks(PATH, &body).await;
        let deltas: Vec<&Value> =
            chunks.iter().flat_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].as_array()).flatten().collect();
        assert!(deltas[0]["id"].is_string() && deltas[1..].iter().all(|delta| delta.get("id").is_none()));
        let streamed: String = deltas.iter().filter_map(|delta| delta["function"]["arguments"].as_str()).collect();
        assert_eq!(streamed, call["function"]["arguments"].as_str().unwrap());
    }
}

#[tokio::test]
async fn schemas_of_strict_functions_are_held_to_or_refused() {
    let server = Server::start();
    let parameters = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": false});
    let tool = json!({"type": "function", "function": {"name": "light", "parameters": parameters, "strict": true}});
    let mut body = json!({"messages": user(), "tools": [tool], "max_tokens": 40, "seed": 1});
    let choice = server.ok(PATH, &body).await["choices"][0].clone();
    assert!(choice["message"]["content"].is_string() || choice["message"]["tool_calls"].is_array(), "{choice}");
    // What cannot be held to is refused, and taken where it is mere advice.
    body["tools"][0]["function"]["parameters"]["not"] = json!({});
    assert_eq!(server.refused(PATH, &body).await, (400, "invalid_value".into(), Some("tools".into())));
    body["tools"][0]["function"]["strict"] = json!(false);
    server.ok(PATH, &body).await;
}

#[tokio::test]
async fn json_comes_where_it_is_asked_for() {
    let server = Server::start();
    let schema = json!({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": true}});
    let reply = server.ok(PATH, &json!({"messages": user(), "response_format": format, "seed": 1})).await;
    let choice = &reply["choices"][0];
    let content: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
    assert!(content["on"].is_boolean() && choice["finish_reason"] == "stop");
}

#[tokio::test]
async fn the_last_message_can_be_continued() {
    let server = Server::start();
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "the cat "}]);
    let body = json!({"messages": messages, "continue_final_message": true, "max_tokens": 3, "temperature": 0, "ignore_eos": true, "echo": true});
    let reply = server.ok(PATH, &body).await;
    assert!(reply["choices"][0]["message"]["content"].as_str().unwrap().starts_with("the cat "));
    let tokens = server.ok("/tokenize", &json!({"messages": messages, "continue_final_message": true})).await;
    let text = server.ok("/detokenize", &json!({"tokens": tokens["tokens"]})).await;
    assert!(text["prompt"].as_str().unwrap().ends_with("the cat"), "{text}");
}

#[tokio::test]
async fn parts_are_joined_and_a_trusted_template_is_used() {
    let server = Server::with(ServerOptions { trust_request_chat_template: true, ..ServerOptions::default() });
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let messages = json!([{"role": "developer", "content": parts}]);
    let template = "{{ messages[0].role }}: {{ messages[0].content }}{{ mark }}";
    let kwargs = json!({"mark": "!"});
    let body = json!({"messages": messages, "chat_template": template, "chat_template_kwargs": kwargs});
    let tokens = server.ok("/tokenize", &body).await;
    let text = server.ok("/detokenize", &json!({"tokens": tokens["tokens"]})).await;
    assert_eq!(text["prompt"], "system: a\nb!");
    let raising = json!({"messages": messages, "chat_template": "{{ raise_exception('no such talk') }}"});
    assert_eq!(server.refused(PATH, &raising).await, (400, "invalid_value".into(), Some("messages".into())));
    let endless = json!({"messages": messages, "chat_template": "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}"});
    assert_eq!(server.refused(PATH, &endless).await.0, 400);
}
