//! Embeddings, tokens and the schema.

use crate::server::Server;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

fn floats(row: &Value) -> Vec<f64> {
    row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn embeddings_are_rows_of_length_one_in_the_order_of_the_inputs() {
    let server = Server::start();
    let tokens = server.ok("/tokenize", &json!({"prompt": "the cat"})).await["tokens"].clone();
    let reply = server.ok("/v1/embeddings", &json!({"input": ["a dog", "the cat"]})).await;
    let alone = server.ok("/v1/embeddings", &json!({"input": [tokens], "encoding_format": "float"})).await;
    assert_eq!(reply["data"][1]["embedding"], alone["data"][0]["embedding"]);
    assert_eq!((&reply["object"], &reply["data"][1]["index"]), (&json!("list"), &json!(1)));
    let row = floats(&alone["data"][0]["embedding"]);
    assert!((row.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5 && row.len() == 64);
    let encoded =
        server.ok("/v1/embeddings", &json!({"input": "the cat", "encoding_format": "base64", "dimensions": 64})).await;
    assert_eq!(encoded["data"][0]["embedding"].as_str().unwrap().len(), (64 * 4_usize).div_ceil(3) * 4);
    assert_eq!(encoded["usage"]["prompt_tokens"], encoded["usage"]["total_tokens"]);
}

#[tokio::test]
async fn embeddings_that_cannot_be_are_refused() {
    let server = Server::start();
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": [600]}), "input"),
        (json!({"input": vec![1; 513]}), "input"),
        (json!({"input": "a", "dimensions": 32}), "dimensions"),
        (json!({"input": "a", "dimensions": "64"}), "dimensions"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
    ] {
        let (status, _, found) = server.refused("/v1/embeddings", &body).await;
        assert_eq!((status, found.as_deref()), (400, Some(param)), "{body}");
    }
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let server = Server::start();
    let reply = server.ok("/tokenize", &json!({"prompt": "the cat", "return_token_strs": true})).await;
    assert_eq!(reply["token_strs"].as_array().unwrap().len(), reply["count"].as_u64().unwrap() as usize);
    assert_eq!(reply["max_model_len"], 512);
    let back = server.ok("/detokenize", &json!({"tokens": reply["tokens"]})).await;
    assert_eq!(back, json!({"prompt": "the cat"}));
    assert_eq!(server.ok("/tokenize", &json!({"content": "the cat"})).await["tokens"], reply["tokens"]);
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": 5}), "prompt"),
        ("/tokenize", json!({"messages": []}), "messages"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": [512]}), "tokens"),
        ("/detokenize", json!({"tokens": "1"}), "tokens"),
    ] {
        let (status, _, found) = server.refused(path, &body).await;
        assert_eq!((status, found.as_deref()), (400, Some(param)), "{path} {body}");
    }
}

#[tokio::test]
async fn the_schema_is_served() {
    let server = Server::start();
    let (status, _, body) = server.send(Request::get("/openapi.json").body(Body::empty()).unwrap()).await;
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    assert!(document["paths"]["/v1/completions"]["post"]["responses"]["429"].is_object());
}
