//! A server over a golden model.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use nxd_engine::service::Service;
use nxd_engine::{Engine, EngineOptions};
use nxd_executor::{CpuExecutor, Executor, ExecutorOptions};
use nxd_models::{LoadMode, Model};
use nxd_server::router::router;
use nxd_server::{App, ServerOptions};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower::ServiceExt;

/// Longer than any test should wait.
const LONG: Duration = Duration::from_secs(60);

/// An engine over the model in `dir`.
pub(crate) fn engine(dir: &Path, wrap: impl FnOnce(CpuExecutor) -> Box<dyn Executor>) -> (Engine, Arc<Model>) {
    let model = Model::open(dir, LoadMode::default()).unwrap();
    let options = ExecutorOptions { threads: 1, ..ExecutorOptions::default() };
    let executor = CpuExecutor::load(&model, &options).unwrap();
    (Engine::new(wrap(executor), EngineOptions::default()), Arc::new(model))
}

pub(crate) struct Server {
    pub(crate) app: Arc<App>,
    router: Router,
    _service: Option<Service>,
}

/// The golden model that most tests use: 512 tokens, a context of 512, a chat template with Hermes tools.
pub(crate) const MODEL: &str = "qwen3-tied";

impl Server {
    pub(crate) fn start() -> Server {
        Server::with(ServerOptions::default())
    }

    pub(crate) fn with(options: ServerOptions) -> Server {
        Server::over(&nxd_testkit::goldens().join(MODEL), options, |executor| Box::new(executor))
    }

    /// A server over the model in `dir`, whose executor `wrap` may put another one around.
    pub(crate) fn over(
        dir: &Path,
        options: ServerOptions,
        wrap: impl FnOnce(CpuExecutor) -> Box<dyn Executor>,
    ) -> Server {
        let (engine, model) = engine(dir, wrap);
        let server = Server::loading(options);
        let app = Arc::clone(&server.app);
        let service =
            Service::start(engine, model, app.options.queue, move |report| app.metrics.observe(report)).unwrap();
        server.app.loaded(service.handle());
        Server { _service: Some(service), ..server }
    }

    /// A server whose model never comes.
    pub(crate) fn loading(options: ServerOptions) -> Server {
        let app = Arc::new(App::new(options));
        Server { router: router(Arc::clone(&app)), app, _service: None }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (u16, HeaderMap, Vec<u8>) {
        let reply = tokio::time::timeout(LONG, self.router.clone().oneshot(request)).await.unwrap().unwrap();
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        let body = tokio::time::timeout(LONG, reply.into_body().collect()).await.unwrap().unwrap();
        (status, headers, body.to_bytes().to_vec())
    }

    /// The status and the text of a route that is looked at.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.send(Request::get(path).body(Body::empty()).unwrap()).await;
        (status, String::from_utf8(body).unwrap())
    }

    /// The sum of a metric's samples; 0 while it has none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.app.metrics.text();
        let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once(' '));
        samples.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }

    /// Waits until a metric has a value, which must come soon.
    pub(crate) async fn until(&self, name: &str, value: f64) {
        let began = Instant::now();
        while self.metric(name) != value {
            assert!(began.elapsed() < LONG, "{name} is {} and does not become {value}", self.metric(name));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Posts a body that is sent as it is.
    pub(crate) async fn raw(&self, path: &str, body: impl Into<Body>) -> (u16, HeaderMap, Vec<u8>) {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap();
        self.send(request).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, body) = self.raw(path, body.to_string()).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Posts what must succeed.
    pub(crate) async fn ok(&self, path: &str, body: &Value) -> Value {
        let (status, reply) = self.post(path, body).await;
        assert_eq!(status, 200, "{body}: {reply}");
        reply
    }

    /// Posts what must be refused; gives status, `code` and `param`.
    pub(crate) async fn refused(&self, path: &str, body: &Value) -> (u16, String, Option<String>) {
        let (status, reply) = self.post(path, body).await;
        let text = |name: &str| reply["error"][name].as_str().map(str::to_owned);
        assert!(text("message").is_some_and(|message| message.len() < 4000), "{reply}");
        assert!(text("type").is_some(), "{reply}");
        (status, text("code").unwrap(), text("param"))
    }

    /// The chunks of a streamed reply.
    pub(crate) async fn chunks(&self, path: &str, body: &Value) -> Vec<Value> {
        let (status, headers, bytes) = self.raw(path, body.to_string()).await;
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(status, 200, "{body}: {text}");
        assert_eq!(headers[header::CONTENT_TYPE], "text/event-stream; charset=utf-8");
        assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
        assert_eq!(headers["x-accel-buffering"], "no");
        let mut events: Vec<&str> = text.split_terminator("\n\n").filter(|event| !event.starts_with(':')).collect();
        assert_eq!(events.pop(), Some("data: [DONE]"));
        events.into_iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }

    /// Waits until nothing is queued and no block is held, which must come soon.
    pub(crate) async fn until_idle(&self) {
        let began = Instant::now();
        while self.app.engine().unwrap().queued() != (0, 0) {
            assert!(began.elapsed() < LONG, "the queue does not empty");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
