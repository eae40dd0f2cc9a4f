//! What a server is told.

use nxd_engine::service::Limits;
use std::time::Duration;

/// What a server does once its engine has failed, and with it all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEngineFailure {
    /// It ends, for a supervisor to start it again.
    #[default]
    Exit,
    /// It stays and answers 503.
    Stay,
}

/// How requests are taken in. Limits hold for everybody; nothing in a request can raise them.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 for any free one.
    pub port: u16,
    /// Names that requests may give the model; the first one stands in replies. Never empty.
    pub served_model_names: Vec<String>,
    /// Keys of which a request must show one; none for an open server.
    pub api_keys: Vec<String>,
    /// Whether `/metrics` is served without a key.
    pub public_metrics: bool,
    /// Origins that browsers may call from; none by default.
    pub cors_origins: Vec<String>,
    /// What may wait for the engine.
    pub queue: Limits,
    /// The longest wait in the queue.
    pub queue_timeout: Option<Duration>,
    /// The longest time for a whole request.
    pub request_timeout: Option<Duration>,
    /// A step that takes longer makes the server unhealthy.
    pub step_timeout: Duration,
    /// What follows the engine's failure.
    pub on_engine_failure: OnEngineFailure,
    /// How long requests may go on after a signal to end.
    pub shutdown_timeout: Duration,
    /// Most bytes of a body.
    pub max_body_bytes: usize,
    /// Most bytes that all bodies may take together, from their first byte until they are understood. A single one may always come.
    pub max_bodies_bytes: usize,
    /// Most connections at once.
    pub max_connections: usize,
    /// The longest wait for a request's head; a connection that is kept open may be silent for as long.
    pub header_timeout: Duration,
    /// The longest wait for a whole body.
    pub body_timeout: Duration,
    /// The longest time for which a client may take nothing of a reply that waits for it.
    pub write_timeout: Duration,
    /// Silence in a stream of events after which a comment is sent, which also finds clients that have gone.
    pub ping_interval: Duration,
    /// Most completions of one prompt.
    pub max_n: u32,
    /// Most alternatives reported with each token.
    pub max_logprobs: u32,
    /// Most prompts in one request.
    pub max_prompts: usize,
    /// Whether a request may bring a chat template of its own.
    pub trust_request_chat_template: bool,
    /// Whether requests may load and unload adapters, from folders of this machine.
    pub allow_runtime_lora_updating: bool,
    /// How tool calls are written, in place of what the chat template suggests.
    pub tool_call_parser: Option<String>,
    /// Called on each of the server's threads as it starts, for whoever knows how they and the device's threads should share processors.
    pub thread_start: fn(),
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            host: "127.0.0.1".to_owned(),
            port: 8000,
            served_model_names: vec!["model".to_owned()],
            api_keys: Vec::new(),
            public_metrics: false,
            cors_origins: Vec::new(),
            queue: Limits::default(),
            queue_timeout: None,
            request_timeout: None,
            step_timeout: Duration::from_secs(300),
            on_engine_failure: OnEngineFailure::default(),
            shutdown_timeout: Duration::from_secs(30),
            max_body_bytes: 32 << 20,
            max_bodies_bytes: 256 << 20,
            max_connections: 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(15),
            max_n: 128,
            max_logprobs: 20,
            max_prompts: 1024,
            trust_request_chat_template: false,
            allow_runtime_lora_updating: false,
            tool_call_parser: None,
            thread_start: || {},
        }
    }
}
