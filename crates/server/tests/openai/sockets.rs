//! What only a real connection shows: clients that read nothing, and the end of a server whose engine fails.

use crate::faulty::{Fault, Faulty, UNTIED};
use crate::server::engine;
use nxd_server::{OnEngineFailure, ServeError, Server, ServerOptions};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than any test should wait.
const LONG: Duration = Duration::from_secs(60);

type Ended = Result<(), ServeError<io::Error>>;

/// A server on a port of its own, and how it ends; one that nothing ends goes on until all tests are over.
fn start(options: ServerOptions, fault: &Arc<Mutex<Fault>>) -> (SocketAddr, Receiver<Ended>) {
    let server = Server::bind::<io::Error>(ServerOptions { port: 0, ..options }).unwrap();
    let (address, fault) = (server.address(), Arc::clone(fault));
    let ((ended, ends), (ready, is_ready)) = (channel(), channel());
    std::thread::spawn(move || {
        let load = move |loading: &nxd_server::Loading| {
            let (engine, model) = engine(&nxd_testkit::goldens().join(UNTIED), |inner| Faulty::around(inner, &fault));
            loading.start(engine, model)
        };
        let _ = ended.send(server.run(load, move |_| ready.send(()).unwrap()));
    });
    is_ready.recv_timeout(LONG).unwrap();
    (address, ends)
}

/// Sends a request and leaves its connection open.
fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let head = "Host: test\r\nConnection: close\r\nContent-Type: application/json\r\n";
    write!(stream, "{method} {path} HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

/// All that comes back.
fn read(mut stream: TcpStream) -> String {
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    String::from_utf8(reply).unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    read(send(address, "GET", path, ""))
}

/// The value of the first sample of a metric with this label; 0 while there is none.
fn metric(address: SocketAddr, name: &str, label: &str) -> f64 {
    let text = get(address, "/metrics");
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(label));
    line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_that_reads_nothing_is_given_up_and_holds_nothing() {
    let options = ServerOptions { write_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let (address, _ends) = start(options, &Arc::new(Mutex::new(Fault::Late(Duration::ZERO))));
    // Far more than the system keeps for a connection.
    let body = json!({"prompt": [5, 6], "max_tokens": 480, "n": 64, "seed": 1, "ignore_eos": true, "logprobs": 20, "stream": true});
    let deaf = send(address, "POST", "/v1/completions", &body.to_string());
    // One that reads slowly, but does, is served to its end.
    let mut slow = send(address, "POST", "/v1/completions", &body.to_string());
    let mut last = Vec::new();
    let mut bytes = [0; 1 << 16];
    loop {
        let count = slow.read(&mut bytes).unwrap();
        if count == 0 {
            break;
        }
        last.extend_from_slice(&bytes[..count]);
        last.drain(..last.len().saturating_sub(64));
        std::thread::sleep(Duration::from_micros(500));
    }
    assert!(String::from_utf8_lossy(&last).contains("data: [DONE]"), "{}", String::from_utf8_lossy(&last));
    eventually("the connection is given up", || metric(address, "http_requests_total", "status=\"4xx\"") == 1.0);
    eventually("nothing runs", || metric(address, "vllm:num_requests_running", "") == 0.0);
    assert_eq!(metric(address, "vllm:request_success_total", "abort"), 1.0);
    assert_eq!(metric(address, "vllm:kv_cache_usage_perc", ""), 0.0);
    // What the system had taken still comes, then the end: cut off, not said to be whole.
    let mut rest = Vec::new();
    let _ = { deaf }.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
}

#[test]
fn bodies_that_are_read_together_are_bounded() {
    let options = ServerOptions { max_bodies_bytes: 4000, ..ServerOptions::default() };
    let (address, _ends) = start(options, &Arc::new(Mutex::new(Fault::Late(Duration::ZERO))));
    let small = json!({"prompt": [5], "max_tokens": 1}).to_string();
    // Alone, a body may take what a body may take.
    let large = json!({"prompt": "a".repeat(6000), "max_tokens": 1}).to_string();
    assert!(read(send(address, "POST", "/v1/completions", &large)).contains("context_length_exceeded"));
    // This one comes slowly and is held meanwhile.
    let mut slow = TcpStream::connect(address).unwrap();
    slow.set_read_timeout(Some(LONG)).unwrap();
    let (first, second) = large.split_at(3900);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\n";
    write!(slow, "{head}Content-Length: {}\r\n\r\n{first}", large.len()).unwrap();
    eventually("there is no room", || {
        let reply = read(send(address, "POST", "/v1/completions", &small));
        if reply.starts_with("HTTP/1.1 200") {
            return false;
        }
        assert!(reply.starts_with("HTTP/1.1 429") && reply.contains("bodies_full"), "{reply}");
        assert!(reply.to_ascii_lowercase().contains("retry-after: 1"), "{reply}");
        true
    });
    assert!(get(address, "/health").starts_with("HTTP/1.1 200"), "what has no body goes on");
    slow.write_all(second.as_bytes()).unwrap();
    assert!(read(slow).contains("context_length_exceeded"), "the one that came first is read to its end");
    assert!(read(send(address, "POST", "/v1/completions", &small)).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_server_whose_engine_fails_answers_and_ends_or_stays() {
    let body = |stream| json!({"prompt": [5, 6], "max_tokens": 450, "ignore_eos": true, "stream": stream}).to_string();
    for on_engine_failure in [OnEngineFailure::Exit, OnEngineFailure::Stay] {
        let fault = Arc::new(Mutex::new(Fault::Late(Duration::from_millis(3))));
        let (address, ends) = start(ServerOptions { on_engine_failure, ..ServerOptions::default() }, &fault);
        let asked = [false, true].map(|stream| send(address, "POST", "/v1/completions", &body(stream)));
        eventually("both run", || metric(address, "vllm:num_requests_running", "") == 2.0);
        *fault.lock().unwrap() = Fault::Panic;
        let [whole, streamed] = asked.map(read);
        assert!(whole.starts_with("HTTP/1.1 500") && whole.contains("engine_dead"), "{whole}");
        assert!(streamed.contains("engine_dead") && streamed.contains("data: [DONE]"), "{streamed}");
        match on_engine_failure {
            OnEngineFailure::Exit => {
                let failure = ends.recv_timeout(LONG).unwrap().unwrap_err();
                assert_eq!(
                    failure.to_string(),
                    "the engine has failed: it panicked: told to; every request that it had was answered with an error"
                );
                assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
            }
            OnEngineFailure::Stay => {
                for path in ["/health", "/ready"] {
                    assert!(get(address, path).starts_with("HTTP/1.1 503"), "{path}");
                }
                let refused = read(send(address, "POST", "/v1/completions", &body(false)));
                assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("engine_dead"), "{refused}");
                assert!(ends.recv_timeout(Duration::from_millis(200)).is_err(), "it stays");
            }
        }
    }
}
