"""The ends of a server: asked, asked twice, while it loads, by force, and where its address is taken."""

import contextlib
import json
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from serving import BIN, MODEL, SMALL, Server, check_error, eventually

PROMPT = "Once upon a time there was a small boat"


def start_stream(server, tokens):
    """A stream whose first chunk has come."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": True}
    response = server.post("/v1/completions", body, stream=True)
    assert response.status_code == 200
    lines = response.iter_lines()
    return response, lines, next(lines)


def rest_of(lines):
    """What still comes: the chunks, and whether the stream ended as it should."""
    chunks, done = [], False
    with contextlib.suppress(requests.RequestException):
        for line in lines:
            if line == b"data: [DONE]":
                done = True
            elif line.startswith(b"data: "):
                chunks.append(json.loads(line[6:]))
    return chunks, done


def test_an_idle_server_ends_at_once_and_well():
    with Server() as server:
        server.complete(PROMPT, max_tokens=1)
        server.signal(signal.SIGTERM)
        assert server.exit_code(5) == 0


def test_an_interrupt_ends_it_too():
    with Server() as server:
        server.signal(signal.SIGINT)
        assert server.exit_code(5) == 0


def test_idle_connections_do_not_hold_it():
    with Server() as server, requests.Session() as session, server.socket():
        assert session.get(server.url + "/health", timeout=10).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.exit_code(5) == 0


def test_what_runs_is_finished_and_nothing_new_is_taken():
    tokens = 200
    with Server() as server, ThreadPoolExecutor(1) as pool:
        response, lines, first = start_stream(server, tokens)
        body = {"prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
        whole = pool.submit(server.post, "/v1/completions", body)
        eventually(lambda: server.metrics().total("vllm:num_requests_running") == 2, 10, "they do not both run")
        server.signal(signal.SIGTERM)
        eventually(lambda: server.get("/ready").status_code == 503, 5, "still ready")
        assert server.get("/health").status_code == 200, "what drains is alive"
        check_error(server.get("/ready"), 503, code="draining")
        refused = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 1})
        check_error(refused, 503, code="draining")
        assert int(refused.headers["retry-after"]) <= 120
        assert refused.headers["connection"] == "close"
        chunks, done = rest_of(lines)
        chunks = [json.loads(first[6:]), *chunks]
        assert done and chunks[-1]["choices"][0]["finish_reason"] == "length"
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        answer = whole.result(timeout=60).json()
        assert answer["usage"]["completion_tokens"] == tokens
        assert answer["choices"][0]["text"] == text
        response.close()
        assert server.exit_code(10) == 0


@pytest.mark.parametrize("seconds", ["0", "1"])
def test_what_does_not_end_in_time_is_told_so(seconds):
    with Server("--shutdown-timeout", seconds) as server, ThreadPoolExecutor(1) as pool:
        response, lines, _ = start_stream(server, 1900)
        body = {"prompt": PROMPT, "max_tokens": 1900, "ignore_eos": True}
        whole = pool.submit(server.post, "/v1/completions", body)
        eventually(lambda: server.metrics().total("vllm:num_requests_running") == 2, 10, "they do not both run")
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.exit_code(10) == 0
        assert time.monotonic() - began < 4 + int(seconds)
        chunks, done = rest_of(lines)
        assert chunks[-1]["error"]["code"] == "draining", "a stream that is cut off says why"
        assert "shutting down" in chunks[-1]["error"]["message"]
        assert done, "and ends as streams do"
        check_error(whole.result(timeout=30), 503, code="draining")
        response.close()


def test_what_waits_is_served_too():
    with Server("--max-num-seqs", "1") as server, ThreadPoolExecutor(2) as pool:
        response, lines, _ = start_stream(server, 200)
        body = {"prompt": PROMPT, "max_tokens": 5, "ignore_eos": True}
        waiting = [pool.submit(server.post, "/v1/completions", body) for _ in range(2)]
        eventually(lambda: server.metrics().total("vllm:num_requests_waiting") == 2, 10, "they do not wait")
        server.signal(signal.SIGTERM)
        assert rest_of(lines)[1]
        for future in waiting:
            reply = future.result(timeout=60)
            assert reply.status_code == 200 and reply.json()["usage"]["completion_tokens"] == 5
        response.close()
        assert server.exit_code(10) == 0


def test_a_client_that_does_not_read_its_stream_does_not_hold_it():
    # More than the system keeps for a connection, so that the reply cannot leave.
    body = {"prompt": PROMPT, "max_tokens": 300, "n": 64, "ignore_eos": True, "logprobs": 20, "stream": True}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    with Server("--shutdown-timeout", "1") as server, server.socket() as deaf:
        deaf.sendall(head.encode() + data)
        eventually(lambda: server.metrics().total("vllm:num_requests_running") == 64, 30, "it does not run")
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.exit_code(15) == 0
        assert time.monotonic() - began < 8


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(second):
    with Server("--shutdown-timeout", "300") as server, ThreadPoolExecutor(1) as pool:
        response, lines, _ = start_stream(server, 1900)
        whole = pool.submit(server.post, "/v1/completions", {"prompt": PROMPT, "max_tokens": 1900, "ignore_eos": True})
        eventually(lambda: server.metrics().total("vllm:num_requests_running") == 2, 10, "they do not both run")
        server.signal(signal.SIGTERM)
        eventually(lambda: server.get("/ready").status_code == 503, 5, "still ready")
        server.signal(second)
        began = time.monotonic()
        assert server.exit_code(5) == 0
        assert time.monotonic() - began < 3
        assert not rest_of(lines)[1], "what is cut off does not look whole"
        with pytest.raises(requests.ConnectionError):
            whole.result(timeout=30)
        response.close()


def test_a_server_that_loads_says_so_and_ends_when_asked():
    # Whether the model is still loading when the first question comes is a matter of luck; what may be said is not.
    with Server(wait=False) as server:
        statuses = set()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            reply = server.get("/health")
            statuses.add(reply.status_code)
            if reply.status_code == 200:
                break
            check_error(reply, 503, code="loading")
            refused = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 1})
            if refused.status_code != 200:
                check_error(refused, 503, code="loading")
                assert int(refused.headers["retry-after"]) >= 1
        assert 200 in statuses and statuses <= {200, 503}
    with Server(wait=False) as server:
        server.signal(signal.SIGTERM)
        assert server.exit_code(5) == 0


def test_sigterm_during_a_long_prompt():
    with Server("--shutdown-timeout", "0") as server, ThreadPoolExecutor(1) as pool:
        body = {"prompt": list(range(1000, 2900)), "max_tokens": 100, "ignore_eos": True}
        whole = pool.submit(server.post, "/v1/completions", body)
        eventually(lambda: server.metrics().total("vllm:num_requests_running") == 1, 10, "it does not run")
        server.signal(signal.SIGTERM)
        assert server.exit_code(8) == 0
        with contextlib.suppress(requests.ConnectionError):
            assert whole.result(timeout=30).status_code in [200, 503]


def test_killed_and_started_again_at_once_on_the_same_port():
    with Server() as first:
        response, lines, _ = start_stream(first, 1900)
        port = first.address[1]
        first.signal(signal.SIGKILL)
        assert first.exit_code(5) == -signal.SIGKILL
        with Server(port=port) as second:
            assert second.address[1] == port
            second.complete(PROMPT, max_tokens=1)
        rest_of(lines)
        response.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_cannot_be_had(host):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [BIN, "serve", MODEL, *SMALL, "--host", host, "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert ended.returncode == 6, ended.stderr
    assert (port if host == "127.0.0.1" else host) in ended.stderr
    assert ended.stdout == "" and "panicked" not in ended.stderr


@pytest.mark.parametrize("flags, code", [
    (["--max-model-len", "100000000"], (3, 4)),
    (["--kv-cache-memory", "1KiB"], (4,)),
    (["--max-model-len", "8192", "--kv-cache-memory", "1MiB"], (4,)),
    (["--no-such-flag"], (2,)),
    (["--port", "99999"], (2,)),
    (["--max-num-seqs", "0"], (2,)),
    (["--queue-timeout", "-1"], (2,)),
])
def test_what_cannot_be_started_says_why(flags, code):
    command = [BIN, "serve", MODEL, "--port", "0", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert ended.returncode in code, ended.stderr
    assert "error" in ended.stderr and "panicked" not in ended.stderr
    assert ended.stdout == ""


def test_a_model_that_is_not_there():
    command = [BIN, "serve", "/no/such/model", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert ended.returncode == 3 and "/no/such/model" in ended.stderr


def test_memory_that_cannot_be_had_is_an_error():
    limit = ["prlimit", f"--as={700 << 20}"]
    command = [*limit, BIN, "serve", MODEL, "--port", "0", "--max-model-len", "2048", "--kv-cache-memory", "2GiB"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert ended.returncode == 4, f"{ended.returncode}: {ended.stderr}"


def test_a_banner_of_few_lines_says_what_fits_and_how_to_ask():
    with Server(limits=()) as server:
        server.signal(signal.SIGTERM)
        assert server.exit_code(10) == 0
        said = server.said()
    banner = said[: said.index("curl")].splitlines()
    assert len(banner) <= 15, said
    assert "KV" in said and server.url in said


def test_requests_that_wait_too_long_are_given_up():
    with Server("--max-num-seqs", "1", "--queue-timeout", "1", "--max-num-queued-reqs", "2") as server, ThreadPoolExecutor(4) as pool:
        response, *_ = start_stream(server, 1900)
        body = {"prompt": PROMPT, "max_tokens": 1}
        waiting = [pool.submit(server.post, "/v1/completions", body) for _ in range(2)]
        eventually(lambda: server.metrics().total("vllm:num_requests_waiting") == 2, 5, "they do not wait")
        full = server.post("/v1/completions", body)
        check_error(full, 429, code="queue_full")
        assert 1 <= int(full.headers["retry-after"]) <= 120
        assert server.get("/health").status_code == 200 and server.get("/ready").status_code == 200
        for future in waiting:
            late = future.result(timeout=20)
            check_error(late, 503, code="queue_timeout")
            assert int(late.headers["retry-after"]) >= 1
        response.close()
        server.becomes_idle()
        server.complete(PROMPT, max_tokens=1)


def test_requests_that_take_too_long_are_ended():
    with Server("--request-timeout", "2") as server:
        body = {"prompt": PROMPT, "max_tokens": 1900, "ignore_eos": True}
        check_error(server.post("/v1/completions", body), 504, code="request_timeout")
        response, lines, _ = start_stream(server, 1900)
        chunks, done = rest_of(lines)
        assert chunks[-1]["error"]["code"] == "request_timeout" and done
        response.close()
        server.becomes_idle()
