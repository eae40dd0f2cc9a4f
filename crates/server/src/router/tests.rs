//! Routes without a socket and without a model.

use super::*;
use crate::options::ServerOptions;
use axum::body::Body;
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

struct Reply {
    status: u16,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

fn ask(options: &ServerOptions, request: axum::http::Request<Body>) -> Reply {
    let routes = router(Arc::new(App::new(options.clone())))
        .route("/panics", get(panics))
        .layer(CatchPanicLayer::custom(panicked));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response: Response = routes.oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Reply { status: head.status.as_u16(), headers: head.headers, text }
    })
}

async fn panics() {
    panic!("of the test's own");
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> axum::http::Request<Body> {
    let builder = axum::http::Request::builder().method(method).uri(path);
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(Body::empty()).unwrap()
}

fn with_key() -> ServerOptions {
    ServerOptions { api_keys: vec!["secret".to_owned()], ..ServerOptions::default() }
}

#[test]
fn what_is_not_there_is_said_in_the_envelope() {
    let options = ServerOptions::default();
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "//v1/models", 404, "not_found"),
        ("GET", "/v1/../metrics", 404, "not_found"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/health", 503, "loading"),
        ("GET", "/ready", 503, "loading"),
        ("GET", "/server_info", 503, "loading"),
    ] {
        let reply = ask(&options, request(method, path, &[]));
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (status, Some(code)), "{method} {path}");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        assert_eq!(reply.headers.contains_key("allow"), status == 405, "{method} {path}");
    }
}

#[test]
fn a_server_that_loads_says_what_it_will_serve() {
    let names = vec!["org/model".to_owned(), "alias".to_owned()];
    let options = ServerOptions { served_model_names: names, ..ServerOptions::default() };
    let list = ask(&options, request("GET", "/v1/models", &[])).json();
    assert_eq!((&list["data"][0]["id"], &list["data"][1]["id"]), (&"org/model".into(), &"alias".into()));
    let one = ask(&options, request("GET", "/v1/models/org/model", &[])).json();
    assert_eq!((&one["object"], &one["owned_by"], &one["parent"]), (&"model".into(), &"nxd".into(), &Value::Null));
    assert_eq!(ask(&options, request("GET", "/version", &[])).json()["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn all_but_probes_and_the_page_need_a_key() {
    let options = with_key();
    for path in ["/health", "/health/live", "/health/ready", "/ready", "/ping", "/version", "/"] {
        assert_ne!(ask(&options, request("GET", path, &[])).status, 401, "{path}");
    }
    let spellings = ["/v1/models/", "//v1/models", "/v1/../metrics", "/%2e%2e/metrics", "/health/", "/nowhere"];
    for path in ["/v1/models", "/metrics", "/server_info", "/model_info"].iter().chain(&spellings) {
        let reply = ask(&options, request("GET", path, &[]));
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (401, &"invalid_api_key".into()), "{path}");
    }
    for header in [("authorization", "Bearer secret"), ("x-api-key", "secret")] {
        assert_eq!(ask(&options, request("GET", "/v1/models", &[header])).status, 200, "{header:?}");
    }
    let public = ServerOptions { public_metrics: true, ..options };
    assert_eq!(ask(&public, request("GET", "/metrics", &[])).status, 200);
    assert_eq!(ask(&public, request("GET", "/v1/models", &[])).status, 401);
}

#[test]
fn metrics_are_text_of_the_format_that_prometheus_reads() {
    let reply = ask(&ServerOptions::default(), request("GET", "/metrics", &[]));
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(reply.text.contains("# TYPE vllm:num_requests_running gauge\n"), "{}", reply.text);
}

#[test]
fn request_ids_come_back() {
    let options = ServerOptions::default();
    let id = |given: &[(&str, &str)]| {
        ask(&options, request("GET", "/version", given)).headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id(&[("x-request-id", "mine-1")]), "mine-1");
    assert_ne!(id(&[("x-request-id", "not mine")]), "not mine");
    assert_eq!(id(&[]).len(), 32);
}

#[test]
fn browsers_of_other_origins_are_let_in_where_they_are_named() {
    let asked = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
    let closed = ask(&ServerOptions::default(), request("OPTIONS", "/v1/models", &asked));
    assert!(!closed.headers.contains_key("access-control-allow-origin"));
    let open = ServerOptions { cors_origins: vec!["https://a.example".to_owned()], ..with_key() };
    let reply = ask(&open, request("OPTIONS", "/v1/models", &asked));
    assert_eq!(
        (reply.status, &reply.headers["access-control-allow-origin"]),
        (200, &"https://a.example".parse().unwrap())
    );
    let other = ask(&open, request("OPTIONS", "/v1/models", &[("origin", "https://b.example"), asked[1]]));
    assert!(!other.headers.contains_key("access-control-allow-origin"));
}

#[test]
fn a_handler_that_panics_gives_a_reply() {
    let reply = ask(&ServerOptions::default(), request("GET", "/panics", &[]));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (500, &"internal_error".into()));
}

#[test]
fn a_body_that_says_it_is_too_long_is_not_read() {
    let options = ServerOptions { max_body_bytes: 10, ..ServerOptions::default() };
    let reply = ask(&options, request("POST", "/v1/models", &[("content-length", "11")]));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &"request_too_large".into()));
    assert_eq!(reply.headers["connection"], "close");
}
