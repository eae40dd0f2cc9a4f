"""Clients that go away, or read slowly: their blocks come back, and nobody else notices."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from serving import eventually, status_of

PROMPT = "Once upon a time there was a small boat"
LONG = {"prompt": PROMPT, "max_tokens": 1500, "ignore_eos": True}
NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 200}
LIST = {"type": "object", "properties": {"names": NAMES}, "required": ["names"]}
KINDS = {
    "plain": {},
    "three choices": {"n": 3, "temperature": 1},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": LIST}}},
}
pytestmark = pytest.mark.usefixtures("idle")


def ask_and_leave(server, body, seconds):
    """A client whose patience ends before the answer does."""
    with pytest.raises(requests.Timeout):
        server.post("/v1/completions", body, timeout=(10, seconds))


def running(server):
    metrics = server.metrics()
    return metrics.total("vllm:num_requests_running") + metrics.total("vllm:num_requests_waiting")


def test_a_good_request_is_answered_soon_after_many_that_were_given_up(server):
    expected = server.complete(PROMPT)["choices"][0]["text"]
    with ThreadPoolExecutor(40) as pool:
        left = [pool.submit(ask_and_leave, server, LONG | {"seed": number}, 0.5) for number in range(200)]
        for future in left:
            future.result(timeout=60)
    # An optimised server on a quiet machine answers in a tenth of it.
    answer = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 8, "temperature": 0}, timeout=5).json()
    assert answer["choices"][0]["text"] == expected


def test_the_gauges_return_to_zero(server):
    with ThreadPoolExecutor(20) as pool:
        left = [pool.submit(ask_and_leave, server, LONG | {"seed": number}, 1) for number in range(20)]
        eventually(lambda: running(server) > 0, 10, "nothing runs")
        for future in left:
            future.result(timeout=60)
    server.becomes_idle(10)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_leaves_while_tokens_are_generated(server, stream, kind):
    body = json.dumps(LONG | KINDS[kind] | {"stream": stream}).encode()
    with server.socket() as connection:
        connection.sendall(head(body) + body)
        if stream:
            received = b""
            while received.count(b"data: ") < 3:
                received += connection.recv(4096)
        else:
            eventually(lambda: running(server) > 0, 10, "it does not run")
    server.becomes_idle(5)


def test_a_client_that_resets_its_connection(server):
    body = json.dumps(LONG | {"stream": True}).encode()
    connection = server.socket()
    connection.sendall(head(body) + body)
    assert connection.recv(4096)
    # A close with unread data and no lingering is a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    server.becomes_idle(5)


def test_a_client_that_leaves_during_its_prompt(server):
    long_prompt = list(range(1000, 2900))
    with server.socket() as connection:
        body = json.dumps({"prompt": long_prompt, "max_tokens": 100, "ignore_eos": True}).encode()
        connection.sendall(head(body) + body)
        eventually(lambda: running(server) > 0, 10, "it does not run")
    server.becomes_idle(5)


def test_a_client_that_leaves_before_its_body_is_whole(server):
    for sent in [0, 1, 20]:
        body = json.dumps(LONG).encode()
        with server.socket() as connection:
            connection.sendall(head(body) + body[:sent])
    server.complete(PROMPT, max_tokens=1)


def test_a_client_that_leaves_after_the_last_token(server):
    body = json.dumps({"prompt": PROMPT, "max_tokens": 2, "stream": True}).encode()

    def ended():
        return server.metrics().total("vllm:request_success_total", finished_reason="length")

    before = ended()
    with server.socket() as connection:
        connection.sendall(head(body) + body)
        received = b""
        while b"[DONE]" not in received:
            received += connection.recv(4096)
    # The client knows of the end a moment before the metrics do.
    eventually(lambda: ended() == before + 1, 5, "it did not end by its length")


def test_clients_that_leave_at_any_moment(server):
    """Fifty, each a little later than the one before: in the queue, in the prompt, between tokens."""
    def leave(number):
        body = json.dumps(LONG | {"stream": number % 2 == 0, "prompt": list(range(100, 100 + 20 * number + 1))}).encode()
        with server.socket() as connection:
            connection.sendall(head(body) + body)
            # How far the request comes is the point, so time it is that differs here.
            time.sleep(number * 0.02)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(50)))
    server.becomes_idle(10)


def test_a_slow_reader_holds_nobody_else(server):
    body = json.dumps(LONG | {"stream": True, "max_tokens": 600, "return_token_ids": True, "logprobs": 20}).encode()
    stop = threading.Event()
    with socket.socket() as slow:
        # A small window: what is not read stays with the server after a few chunks.
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(server.address)
        slow.sendall(head(body) + body)

        def sip():
            while not stop.wait(0.5) and slow.recv(1):
                pass

        sipping = threading.Thread(target=sip)
        sipping.start()
        try:
            began = time.monotonic()
            for _ in range(5):
                server.complete(PROMPT, max_tokens=4)
            assert time.monotonic() - began < 30
        finally:
            stop.set()
            sipping.join()
    server.becomes_idle(10)


def test_a_reader_that_comes_late_gets_all_of_it(server):
    body = {"prompt": PROMPT, "max_tokens": 64, "ignore_eos": True, "temperature": 0}
    expected = server.complete(PROMPT, max_tokens=64, ignore_eos=True)["choices"][0]["text"]
    with server.post("/v1/completions", body | {"stream": True}, stream=True) as response:
        lines = response.iter_lines()
        first = next(lines)
        # The engine is done before the rest is read.
        server.becomes_idle(30)
        texts = [first, *lines]
    chunks = [json.loads(line[6:]) for line in texts if line.startswith(b"data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected


def test_a_client_that_half_closes_still_gets_its_answer_or_is_let_go(server):
    body = json.dumps({"prompt": PROMPT, "max_tokens": 4}).encode()
    reply = server.raw(head(body, "Connection: close\r\n") + body, half_close=True)
    assert status_of(reply) in [200, None]
    server.becomes_idle(10)


def head(body, headers=""):
    return f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
