//! `nxd serve` from outside: a real server on a tiny checkpoint, spoken to over plain sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::Home;

/// No answer of a live server takes this long.
const LONG: Duration = Duration::from_secs(60);

/// A server that ends with the test.
struct Server {
    child: Child,
    port: u16,
    lines: Receiver<String>,
    seen: Vec<String>,
    _home: Home,
}

/// What came back on one connection.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn code(&self) -> Value {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        body["error"]["code"].clone()
    }
}

impl Server {
    /// Starts a server on the tiny checkpoint and waits until it listens.
    fn start(more: &[&str]) -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/goldens/llama-mha-default");
        Server::of(model.to_str().unwrap(), more, &[])
    }

    /// Starts a server of `model` and waits until it listens.
    fn of(model: &str, more: &[&str], vars: &[(&str, &str)]) -> Self {
        let home = Home::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nxd"));
        command.args(["serve", model, "--port", "0", "--threads", "1"]).args(more);
        command.env_clear().env("HOME", home.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(vars.iter().copied());
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (line, lines) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let mut server = Server { child, port: 0, lines, seen: Vec::new(), _home: home };
        let listens = server.line_with("listening on http://");
        let address = listens.split("http://").nth(1).unwrap().split([',', ' ', '/']).next().unwrap();
        server.port = address.rsplit(':').next().unwrap().parse().unwrap();
        server
    }

    /// A server that takes requests.
    fn ready(more: &[&str]) -> Self {
        let mut server = Server::start(more);
        server.line_with("ready in ");
        server
    }

    /// The next line of stderr that holds `text`.
    fn line_with(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(LONG) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with `{text}` in {:#?}", self.seen),
            }
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends bytes as they are and reads to the connection's end.
    fn raw(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect();
        // The server may close before it has read all of it.
        let _ = stream.write_all(request);
        reply(&mut stream)
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.raw(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n").as_bytes())
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        let began = Instant::now();
        while began.elapsed() < LONG {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server does not end: {:#?}", self.seen)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A connection that is reset after its reply still has one.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[test]
fn a_server_tells_what_runs_and_answers() {
    let mut server = Server::ready(&[]);
    let banner = server.seen.join("\n");
    assert!(server.seen.len() <= 15, "{banner}");
    for text in
        ["llama", "weights ", " blocks × 16", "at once", "curl http://127.0.0.1:", "\"model\":\"llama-mha-default\""]
    {
        assert!(banner.contains(text), "no `{text}` in\n{banner}");
    }
    // The banner is printed when requests are taken.
    let health = server.ask("GET", "/health", &[]);
    assert_eq!((health.status, health.body.as_str()), (200, ""));
    assert_eq!(server.ask("GET", "/ready", &[]).status, 200);
    let models: Value = serde_json::from_str(&server.ask("GET", "/v1/models", &[]).body).unwrap();
    assert_eq!(models["data"][0]["id"], "llama-mha-default");
    assert!(models["data"][0]["max_model_len"].as_u64().is_some(), "{models}");
    let info: Value = serde_json::from_str(&server.ask("GET", "/model_info", &[]).body).unwrap();
    assert_eq!(info["architecture"], "LlamaForCausalLM");
    let missing = server.ask("GET", "/nowhere", &[]);
    assert_eq!((missing.status, missing.code()), (404, "not_found".into()));
    let wrong = server.ask("DELETE", "/v1/models", &[]);
    assert_eq!((wrong.status, wrong.code()), (405, "method_not_allowed".into()));
    let metrics = server.ask("GET", "/metrics", &[]);
    for name in [
        "vllm:cache_config_info{",
        "vllm:num_requests_running{",
        "http_requests_total{",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.body.contains(name), "no {name} in {metrics:?}");
    }
    let log = server.line_with("path=\"/nowhere\"");
    assert!(log.contains("status=404") && log.contains("request_id="), "{log}");
    server.signal("-TERM");
    assert_eq!(server.exit_code(), Some(0));
}

#[cfg(feature = "hub")]
#[test]
fn health_is_503_while_the_model_loads_and_a_signal_ends_that() {
    // A hub that takes connections and says nothing holds up the loading.
    let hub = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let mut server = Server::of("org/model", &[], &[("HF_ENDPOINT", &endpoint)]);
    for path in ["/health", "/ready", "/health/ready", "/ping"] {
        let reply = server.ask("GET", path, &[]);
        assert_eq!((reply.status, reply.code()), (503, "loading".into()), "{path}");
        assert!(reply.head.contains("retry-after: "), "{reply:?}");
    }
    assert_eq!(server.ask("GET", "/version", &[]).status, 200);
    assert_eq!(server.ask("GET", "/v1/models/org/model", &[]).status, 200);
    server.signal("-TERM");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn heads_and_bodies_are_bounded() {
    let server = Server::ready(&["--max-body", "1KiB"]);
    let long = server.ask("GET", "/version", &[("X-Long", &"x".repeat(1 << 20))]);
    assert_eq!(long.status, 431, "{}", long.head);
    let many: Vec<(String, String)> = (0..1000).map(|i| (format!("X-{i}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(server.ask("GET", "/version", &many).status, 431);
    let large = server.ask("POST", "/v1/completions", &[("Content-Length", "1048576")]);
    assert_eq!((large.status, large.code()), (413, "request_too_large".into()));
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], b"GET /\r\n\r\n", b"nonsense\r\n\r\n"]
    {
        assert_eq!(server.raw(garbage).status, 400, "{garbage:?}");
    }
    assert_eq!(server.ask("GET", "/health", &[]).status, 200);
}

#[test]
fn slow_and_idle_connections_are_closed_and_hold_up_nobody() {
    let server = Server::ready(&["--header-timeout", "1"]);
    let mut slow: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\nX-Slow: ").unwrap();
    }
    assert_eq!(server.ask("GET", "/health", &[]).status, 200);
    for stream in &mut slow {
        let reply = reply(stream);
        assert!([0, 408].contains(&reply.status), "{reply:?}");
    }
}

#[test]
fn everything_but_probes_needs_the_key() {
    let server = Server::ready(&["--api-key", "first,second"]);
    assert_eq!(server.ask("GET", "/health", &[]).status, 200);
    assert_eq!(server.ask("GET", "/version", &[]).status, 200);
    for headers in [
        &[][..],
        &[("Authorization", "Bearer third")],
        &[("Authorization", "Basic first")],
        &[("Authorization", "Bearer first"), ("Authorization", "Bearer first")],
    ] {
        let reply = server.ask("GET", "/v1/models", headers);
        assert_eq!((reply.status, reply.code()), (401, "invalid_api_key".into()), "{headers:?}");
    }
    for path in ["/metrics", "//v1/models", "/v1/../metrics", "/%2e%2e/metrics", "/nowhere"] {
        assert_eq!(server.ask("GET", path, &[]).status, 401, "{path}");
    }
    for header in [("Authorization", "Bearer second"), ("X-Api-Key", "first")] {
        assert_eq!(server.ask("GET", "/v1/models", &[header]).status, 200, "{header:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_exit_code_6() {
    let server = Server::start(&[]);
    let port = server.port.to_string();
    let run = Home::new().nxd(&["serve", "anything", "--port", &port], &[]);
    assert_eq!(run.code, Some(6), "{run:?}");
    assert!(run.err.contains(&format!("cannot listen on 127.0.0.1:{port}")) && run.err.contains("--port"), "{run:?}");
}

#[test]
fn a_model_that_does_not_load_ends_the_server_with_its_code() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("empty")).unwrap();
    let run = home.nxd(&["serve", "empty", "--port", "0"], &[]);
    assert_eq!(run.code, Some(3), "{run:?}");
    let run = home.nxd(&["serve", "empty", "--host", "no such host", "--port", "0"], &[]);
    assert_eq!(run.code, Some(6), "{run:?}");
}

#[test]
fn the_interrupt_signal_ends_an_idle_server_at_once() {
    let mut server = Server::ready(&["--shutdown-timeout", "3600"]);
    server.signal("-INT");
    assert_eq!(server.exit_code(), Some(0));
}
