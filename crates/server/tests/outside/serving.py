"""A server seen from outside: its process, its metrics, its streams, and HTTP as badly as it can be spoken.

NXD_BIN names the program, NXD_URL a server that runs already, NXD_MODEL the model that further servers load.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time
from urllib.parse import urlsplit

import requests

BIN = os.environ["NXD_BIN"]
MODEL = os.environ.get("NXD_MODEL", "demo")
# An unoptimised server on a busy machine still passes: these end a test that hangs, they measure nothing.
START_SECONDS = 60
ANSWER_SECONDS = 120
# What a small model is served in.
SMALL = ("--max-model-len", "2048", "--kv-cache-memory", "128MiB")
# Errors echo nothing at length.
LONGEST_ERROR_BYTES = 32 << 10


def eventually(check, seconds, what):
    """Waits until `check()` gives something true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"after {seconds} s: {what}"
        time.sleep(0.05)


class Metrics:
    """One reading of /metrics."""

    LINE = re.compile(r'^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?$')
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.samples = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                found = self.LINE.match(line)
                assert found, f"not a line of Prometheus' text: {line!r}"
                name, labels, value = found.groups()
                self.samples.append((name, dict(self.LABEL.findall(labels or "")), float(value)))
        self.types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))

    def labels(self, name):
        return [labels for found, labels, _ in self.samples if found == name]

    def total(self, name, **labels):
        """The sum over all samples of this name with these labels; an absent name is a failure."""
        values = [value for found, has, value in self.samples if found == name and labels.items() <= has.items()]
        assert values or name in {found for found, _, _ in self.samples}, f"no metric `{name}`"
        return sum(values)


class Target:
    """A server's address, and how one talks to it without a client library."""

    def __init__(self, url, key=None):
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        self.address = (parts.hostname, parts.port)
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path, **more):
        return requests.get(self.url + path, **{"timeout": ANSWER_SECONDS, "headers": self.headers} | more)

    def post(self, path, body=None, **more):
        if body is not None:
            more["json"] = body
        return requests.post(self.url + path, **{"timeout": ANSWER_SECONDS, "headers": self.headers} | more)

    def answer(self, path, body):
        """The JSON of a request that has to succeed."""
        response = self.post(path, body)
        assert response.status_code == 200, f"{path} {json.dumps(body)[:500]}: {response.status_code} {response.text[:2000]}"
        return response.json()

    def complete(self, prompt, **more):
        return self.answer("/v1/completions", {"prompt": prompt, "max_tokens": 8, "temperature": 0} | more)

    def chat(self, text, **more):
        messages = [{"role": "user", "content": text}]
        return self.answer("/v1/chat/completions", {"messages": messages, "max_tokens": 8, "temperature": 0} | more)

    def stream(self, path, body):
        """The JSON of every event of a stream, which has to end as it should."""
        with self.post(path, body | {"stream": True}, stream=True) as response:
            assert response.status_code == 200, response.text[:2000]
            assert response.headers["content-type"].replace(" ", "").lower() == "text/event-stream;charset=utf-8"
            yield from events(response)

    def tokens(self, prompt, **more):
        return self.answer("/tokenize", {"prompt": prompt} | more)["tokens"]

    def metrics(self):
        response = self.get("/metrics")
        assert response.status_code == 200, response.text[:2000]
        return Metrics(response.text)

    def ended(self, requests):
        """The metrics once so many requests have ended: a client knows of an end a moment before they do."""
        def reading():
            metrics = self.metrics()
            return metrics if metrics.total("vllm:request_success_total") >= requests else None

        return eventually(reading, 10, f"{requests} requests have not ended")

    def idle(self):
        """Whether nothing runs, waits or holds a block."""
        metrics = self.metrics()
        gauges = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"]
        return all(metrics.total(gauge) == 0 for gauge in gauges)

    def becomes_idle(self, seconds=10):
        eventually(self.idle, seconds, "requests or blocks are still held")

    def socket(self, timeout=30):
        return socket.create_connection(self.address, timeout=timeout)

    def raw(self, data, timeout=30, half_close=False):
        """Sends bytes as they are and reads until the server closes, or says nothing more for `timeout`."""
        with self.socket(timeout) as connection:
            # A server that refuses early may close before it has read everything.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


def events(response):
    """The JSON of every `data:` line up to `[DONE]`, after which nothing may come."""
    ended = False
    for line in response.iter_lines():
        if not line or line.startswith(b":"):
            continue
        assert not ended, f"an event after [DONE]: {line[:200]!r}"
        assert line.startswith(b"data: "), line[:200]
        if line == b"data: [DONE]":
            ended = True
        else:
            yield json.loads(line[len(b"data: "):].decode("utf-8", errors="strict"))
    assert ended, "the stream ended without [DONE]"


def read_all(connection):
    """What comes until the connection is closed or silent for its time-out."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except (TimeoutError, ConnectionResetError):
        pass
    return received


def status_of(reply):
    """The status of the first reply among raw bytes, or None where there is none."""
    found = re.match(rb"HTTP/1\.[01] (\d{3})", reply)
    return int(found.group(1)) if found else None


def check_error(response, status, param=None, code=None):
    """An error has OpenAI's envelope, names the field and is short."""
    shown = f"{response.status_code} {response.text[:1000]}"
    assert response.status_code == status, f"expected {status}: {shown}"
    assert len(response.content) < LONGEST_ERROR_BYTES, f"{len(response.content)} bytes of error"
    assert response.headers.get("content-type", "").startswith("application/json"), response.headers
    error = response.json()["error"]
    assert isinstance(error["message"], str) and error["message"], shown
    assert isinstance(error["type"], str) and error["type"], shown
    assert {"param", "code"} <= error.keys(), shown
    assert error["code"] is None or isinstance(error["code"], str), shown
    if param is not None:
        wanted = {param} if isinstance(param, str) else set(param)
        # A path into the field, as in `messages[0].role`, names it too.
        assert re.split(r"[.\[]", error["param"] or "")[0] in wanted, f"expected param {wanted}: {shown}"
    if code is not None:
        assert error["code"] == code, shown
    return error


class Server(Target):
    """`nxd serve` on a free port, started here and ended here."""

    def __init__(self, *flags, key=None, model=MODEL, wait=True, limits=SMALL, before=(), port=0):
        command = [*before, BIN, "serve", model, "--port", str(port), *limits, *flags]
        if key:
            command += ["--api-key", key]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, errors="replace", **pipes)
        self.lines = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        try:
            super().__init__(self.listening(), key)
            if wait:
                self.becomes_ready()
        except BaseException:
            self.__exit__()
            raise

    def read(self):
        # The pipe is emptied as long as the server lives: a full one would stop it.
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def said(self):
        return "\n".join(self.lines)

    def listening(self):
        def address():
            if self.process.poll() is not None:
                self.reader.join(5)
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.said()}")
            found = (re.search(r"listening on (http://[^\s/,]+)", line) for line in list(self.lines))
            return next((match.group(1) for match in found if match), None)

        return eventually(address, START_SECONDS, "the server does not say where it listens")

    def becomes_ready(self):
        eventually(lambda: self.get("/health").status_code == 200, START_SECONDS, f"not healthy:\n{self.said()}")

    def signal(self, number):
        self.process.send_signal(number)

    def exit_code(self, seconds=30):
        """The exit code of a server that was told to end."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.said()}") from None
        self.reader.join(5)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
