//! Adapters behind the server: named as models, loaded and unloaded while it runs.

use crate::server::Server;
use nxd_server::ServerOptions;
use serde_json::{Value, json};
use std::path::PathBuf;

const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";

fn golden() -> PathBuf {
    nxd_testkit::goldens().join("lora-llama")
}

fn server(allow_runtime_lora_updating: bool) -> Server {
    let options = ServerOptions { allow_runtime_lora_updating, ..ServerOptions::default() };
    Server::over(&golden().join("base"), options, |executor| Box::new(executor))
}

/// The status and the text of a reply that is no JSON.
async fn text(server: &Server, path: &str, body: &Value) -> (u16, String) {
    let (status, _, body) = server.raw(path, body.to_string()).await;
    (status, String::from_utf8(body).unwrap())
}

async fn tokens(server: &Server, model: &str) -> Value {
    let body = json!({"model": model, "prompt": [88, 240, 114, 182], "max_tokens": 8, "temperature": 0,
                      "ignore_eos": true, "return_token_ids": true});
    let reply = server.ok("/v1/completions", &body).await;
    assert_eq!(reply["model"], model);
    reply["choices"][0]["token_ids"].clone()
}

#[tokio::test]
async fn an_adapter_is_a_model_from_its_loading_to_its_unloading() {
    let server = server(true);
    let plain = tokens(&server, "model").await;
    for name in ["adapter-qv-r4", "adapter-all-rslora-r8"] {
        let body = json!({"lora_name": name, "lora_path": golden().join(name)});
        let expected = format!("Success: LoRA adapter '{name}' added successfully.");
        assert_eq!(text(&server, LOAD, &body).await, (200, expected));
        assert_eq!(server.refused(LOAD, &body).await.0, 400, "the name is taken");
    }
    let (first, second) = tokio::join!(tokens(&server, "adapter-qv-r4"), tokens(&server, "adapter-all-rslora-r8"));
    assert!(first != plain && second != plain && first != second);
    assert_eq!(tokens(&server, "model").await, plain);
    let (_, list) = server.get("/v1/models").await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let entries: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| (&m["id"], &m["parent"])).collect();
    let parent = json!("model");
    assert_eq!(entries.len(), 3);
    assert!(entries.contains(&(&json!("adapter-qv-r4"), &parent)) && entries.contains(&(&parent, &Value::Null)));
    let body = json!({"lora_name": "adapter-qv-r4"});
    let expected = "Success: LoRA adapter 'adapter-qv-r4' removed successfully.".to_owned();
    assert_eq!(text(&server, UNLOAD, &body).await, (200, expected));
    assert_eq!(server.refused(UNLOAD, &body).await.0, 404);
    let body = json!({"model": "adapter-qv-r4", "prompt": [1], "max_tokens": 1});
    assert_eq!(server.refused("/v1/completions", &body).await.1, "model_not_found");
    assert_eq!(tokens(&server, "adapter-all-rslora-r8").await, second);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused() {
    let closed = server(false);
    let body = json!({"lora_name": "a", "lora_path": golden().join("adapter-qv-r4")});
    assert_eq!(closed.post(LOAD, &body).await.0, 404);
    let server = server(true);
    let refused = async |body: Value| server.refused(LOAD, &body).await;
    let invalid = |param: &str| (400, "invalid_value".to_owned(), Some(param.to_owned()));
    assert_eq!(refused(json!({"lora_path": "x"})).await, invalid("lora_name"));
    assert_eq!(refused(json!({"lora_name": "a"})).await, invalid("lora_path"));
    assert_eq!(refused(json!({"lora_name": "a", "lora_path": "/nowhere"})).await, invalid("lora_path"));
    assert_eq!(refused(json!({"lora_name": "a", "lora_path": golden().join("base")})).await, invalid("lora_path"));
    let body = json!({"lora_name": "model", "lora_path": golden().join("adapter-qv-r4")});
    assert_eq!(refused(body).await, invalid("lora_name"));
}
