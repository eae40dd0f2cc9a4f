"""Mixed load on one server: nothing is lost, nothing leaks, and what was asked before is answered as before.

    NXD_BIN=target/debug/nxd python load.py --seconds 120

Requests arrive by chance (a Poisson process) at a share of what the server can do, which is measured first. Some are cancelled, some
cannot be meant, some want several choices, share a prefix or are held to a schema; some are repeated, and have to get the answer that
they got when the server was idle. At the end the server's own counts have to agree with ours, and nothing may be held.
"""

import argparse
import contextlib
import json
import math
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import requests
from serving import Server, eventually, events

LONGEST_PROMPT, LONGEST_ANSWER = 1000, 48
# So small a cache that requests lose their blocks to others at times, which nobody may notice.
LIMITS = ("--max-model-len", "1280", "--kv-cache-memory", "40MiB", "--max-num-seqs", "16")
# A machine that has become slower since it was measured gets no more than this at once: a full queue is another test's.
MOST_AT_ONCE = 32
VOCABULARY = range(1000, 40_000)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "count": {"type": "integer", "minimum": 0, "maximum": 999}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
INVALID = [{"prompt": ""}, {"prompt": "a", "n": 0}, {"prompt": [10**9]}, {"prompt": "a", "temperature": -1}, {"prompt": "word " * 9000}, {}]
# Shares of all requests; the rest is plain.
SHARES = {"cancel": 0.10, "invalid": 0.05, "choices": 0.05, "prefix": 0.10, "schema": 0.10, "replay": 0.05}
LOAD = 0.7
MEASURE_SECONDS = 10
# Bounds for an unoptimised server that shares its cores with this program and with whatever else runs.
HEALTH_SECONDS = 1.0
# Rows of logits and of candidates are made when that many requests first share a step; a leak passes this in the ten minutes of a soak.
GROWTH_BYTES = 24 << 20
DRAIN_SECONDS = 30


class Mix:
    """Bodies by chance, but the same ones in every run."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.prefixes = [self.ids(256) for _ in range(3)]
        self.replays = [self.plain() | {"seed": number, "temperature": 0.9, "logprobs": 2} for number in range(8)]

    def ids(self, count):
        return self.random.choices(VOCABULARY, k=count)

    def length(self, longest):
        """Log-uniform from 1."""
        return max(1, round(math.exp(self.random.uniform(0, math.log(longest)))))

    def plain(self):
        return {"prompt": self.ids(self.length(LONGEST_PROMPT)), "max_tokens": self.length(LONGEST_ANSWER), "seed": self.random.getrandbits(31)}

    def next(self):
        """A kind, a path and a body."""
        kind = self.random.choices([*SHARES, "plain"], [*SHARES.values(), 1 - sum(SHARES.values())])[0]
        body = self.plain()
        match kind:
            case "invalid":
                return kind, "/v1/completions", self.random.choice(INVALID)
            case "cancel":
                body |= {"max_tokens": 200, "ignore_eos": True}
            case "choices":
                body |= {"n": self.random.randint(2, 4)}
            case "prefix":
                body |= {"prompt": self.random.choice(self.prefixes) + self.ids(self.length(64))}
            case "replay":
                return kind, "/v1/completions", self.random.choice(self.replays) | {"stream": self.random.random() < 0.5}
            case "schema":
                format = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
                messages = [{"role": "user", "content": f"Thing number {self.random.randrange(10**6)} as JSON."}]
                body = {"messages": messages, "max_tokens": 80, "response_format": format, "seed": body["seed"]}
                return kind, "/v1/chat/completions", body
        return kind, "/v1/completions", body | {"stream": self.random.random() < 0.5}


def answer_of(server, path, body):
    """The choices of an answer by their index, streamed or not, as (text, log-probabilities, reason), and the tokens that it took."""
    streamed = body.get("stream", False)
    more = {"stream_options": {"include_usage": True}} if streamed else {}
    with server.post(path, body | more, stream=streamed) as response:
        if response.status_code != 200:
            raise AssertionError(f"{response.status_code} {response.text[:500]}")
        if not streamed:
            whole = response.json()
            message = [choice.get("text", choice.get("message", {}).get("content")) for choice in whole["choices"]]
            probs = [(choice.get("logprobs") or {}).get("token_logprobs") for choice in whole["choices"]]
            reasons = [choice["finish_reason"] for choice in whole["choices"]]
            return list(zip(message, probs, reasons)), whole["usage"]["completion_tokens"]
        parts = [[] for _ in range(body.get("n", 1))]
        usage = None
        for chunk in events(response):
            if "error" in chunk:
                raise AssertionError(f"an error in a stream: {chunk}")
            usage = chunk["usage"] or usage
            for choice in chunk["choices"]:
                parts[choice["index"]].append(choice)
    choices = []
    for of_one in parts:
        probs = [prob for part in of_one if part["logprobs"] for prob in part["logprobs"]["token_logprobs"]]
        reasons = [part["finish_reason"] for part in of_one if part["finish_reason"]]
        assert len(reasons) == 1, f"{len(reasons)} ends of a choice"
        choices.append(("".join(part["text"] for part in of_one), probs if "logprobs" in body else None, reasons[0]))
    return choices, usage["completion_tokens"]


class Load:
    """What is asked, and what came of it."""

    def __init__(self, server, seed):
        self.server = server
        self.mix = Mix(seed)
        self.lock = threading.Lock()
        self.outcomes = Counter()
        self.tokens = 0
        self.problems = []
        self.seconds = []
        self.first_answers = [answer_of(server, "/v1/completions", body) for body in self.mix.replays]
        self.sent = len(self.first_answers)
        self.book("replay", self.first_answers[0][1])
        for _, tokens in self.first_answers[1:]:
            self.book("replay", tokens)

    def book(self, outcome, tokens=0):
        with self.lock:
            self.outcomes[outcome] += 1
            self.tokens += tokens

    def ask(self, kind, path, body, patience):
        """Sends one request to its end; what is not as it should be is a problem."""
        began = time.monotonic()
        try:
            tokens = self.ask_as(kind, path, body, patience)
        except Exception as error:  # noqa: BLE001 whatever it is, a request was lost by it
            with self.lock:
                self.problems.append(f"{kind}: {type(error).__name__}: {error}"[:1000])
            return
        self.book(kind, tokens)
        with self.lock:
            self.seconds.append(time.monotonic() - began)

    def ask_as(self, kind, path, body, patience):
        match kind:
            case "invalid":
                response = self.server.post(path, body)
                assert response.status_code == 400, f"{response.status_code} {response.text[:500]}"
                return 0
            case "cancel":
                self.leave(path, body, patience)
                return 0
        choices, tokens = answer_of(self.server, path, body)
        assert len(choices) == body.get("n", 1)
        assert all(reason in ["stop", "length"] for *_, reason in choices), choices
        if kind == "schema" and choices[0][2] == "stop":
            jsonschema.validate(json.loads(choices[0][0]), SCHEMA)
        if kind == "replay":
            plain = {name: value for name, value in body.items() if name != "stream"}
            expected = self.first_answers[self.mix.replays.index(plain)]
            assert (choices, tokens) == expected, f"seed {body['seed']}: {choices} instead of {expected}"
        return tokens

    def leave(self, path, body, patience):
        """Goes away after a while, in the midst of whatever happens."""
        data = json.dumps(body).encode()
        host = f"{self.server.address[0]}:{self.server.address[1]}"
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        with self.server.socket() as connection:
            connection.sendall(head.encode() + data)
            connection.settimeout(patience)
            with contextlib.suppress(TimeoutError):
                while connection.recv(65536):
                    pass

    def draw(self):
        with self.lock:
            self.sent += 1
            kind, path, body = self.mix.next()
            return kind, path, body, self.mix.random.uniform(0.05, 2)

    def capacity(self, seconds):
        """Requests a second that eight clients get answered who ask as soon as they may."""
        until, done = time.monotonic() + seconds, Counter()

        def client(number):
            while time.monotonic() < until:
                self.ask(*self.draw())
                done[number] += 1

        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, range(8)))
        return sum(done.values()) / (time.monotonic() - began)

    def arrive(self, rate, seconds):
        """Requests by chance, each on a thread of its own, so that none waits for another."""
        chance = random.Random(1)
        until = time.monotonic() + seconds
        threads = []
        while time.monotonic() < until:
            thread = threading.Thread(target=self.ask, args=self.draw())
            thread.start()
            threads = [other for other in threads if other.is_alive()] + [thread]
            time.sleep(chance.expovariate(rate))
            while sum(other.is_alive() for other in threads) >= MOST_AT_ONCE:
                threads[0].join(1)
                threads = [other for other in threads if other.is_alive()]
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "requests are still not answered after 120 s"


class Watch:
    """What the process holds and how fast /health is, from the start to the end of a load."""

    def __init__(self, server):
        self.server = server
        self.samples = []
        self.health = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=work) for work in (self.sample, self.probe)]

    def held(self):
        """Bytes of memory beside the mapped files, file descriptors, and threads."""
        folder = f"/proc/{self.server.process.pid}"
        with open(f"{folder}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["RssAnon"].split()[0]) << 10, len(os.listdir(f"{folder}/fd")), int(fields["Threads"])

    def sample(self):
        while not self.over.wait(0.5):
            self.samples.append(self.held())

    def probe(self):
        with requests.Session() as session:
            while not self.over.wait(0.1):
                began = time.monotonic()
                status = session.get(f"{self.server.url}/health", timeout=60).status_code
                self.health.append((time.monotonic() - began, status))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def growth(self):
        """Bytes that memory grew by after a first third in which caches fill: the median of the end over that of the middle."""
        memory = [sample[0] for sample in self.samples[len(self.samples) // 3:]]
        part = max(1, len(memory) // 4)
        return statistics.median(memory[-part:]) - statistics.median(memory[:part])


def check_counts(load, before, after):
    """The server's counts against ours. Of cancelled requests we do not know how far they came."""
    def grown(name, **labels):
        return after.total(name, **labels) - before.total(name, **labels)

    outcomes = load.outcomes
    cancelled = outcomes["cancel"]
    answered = sum(outcomes.values()) - cancelled - outcomes["invalid"]
    handlers = ["/v1/completions", "/v1/chat/completions"]
    received = sum(grown("http_requests_total", handler=handler) for handler in handlers)
    assert received == load.sent, f"{received} requests received, {load.sent} sent"
    errors = sum(grown("http_requests_total", handler=handler, status="5xx") for handler in handlers)
    assert errors == 0, f"{errors} replies with the server's errors"
    ended = {reason: grown("vllm:request_success_total", finished_reason=reason) for reason in ["stop", "length", "abort"]}
    assert answered <= ended["stop"] + ended["length"] <= answered + cancelled, f"{answered} answered, ended: {ended}"
    assert ended["abort"] <= cancelled, f"{cancelled} cancelled, ended: {ended}"
    generated = grown("vllm:generation_tokens_total")
    assert generated >= load.tokens, f"{generated} tokens generated, {load.tokens} received"
    assert grown("vllm:corrupted_requests_total") == 0
    for name in ["queue", "inference"]:
        assert grown(f"vllm:request_{name}_time_seconds_count") >= answered, name
    return {"ended": ended, "preemptions": grown("vllm:num_preemptions_total"), "prefix_hits": grown("vllm:prefix_cache_hits_total")}


def run(seconds, seed):
    with Server(limits=LIMITS) as server:
        # The first request makes what lives as long as the server.
        server.complete("Once upon a time")
        server.becomes_idle()
        before = server.metrics()
        watch = Watch(server)
        _, files, threads = watch.held()
        load = Load(server, seed)
        rate = LOAD * load.capacity(min(MEASURE_SECONDS, seconds / 4))
        print(f"{rate:.1f} requests a second for {seconds} s", flush=True)
        with watch:
            load.arrive(rate, seconds)
        assert not load.problems, f"{len(load.problems)} of {load.sent} requests lost, the first ones:\n" + "\n".join(load.problems[:10])
        assert sum(load.outcomes.values()) == load.sent
        server.becomes_idle(10)
        eventually(lambda: watch.held()[1] <= files + 1, 30, "file descriptors are still open")
        eventually(lambda: watch.held()[2] <= threads + 1, 60, "threads are still there")
        counts = check_counts(load, before, server.metrics())
        growth = watch.growth()
        assert growth < GROWTH_BYTES, f"memory grew by {growth / 2**20:.1f} MiB"
        assert {status for _, status in watch.health} == {200}
        health = sorted(took for took, _ in watch.health)
        p99 = health[int(0.99 * (len(health) - 1))]
        assert p99 < HEALTH_SECONDS, f"the 99th percentile of /health is {p99:.3f} s"
        server.signal(signal.SIGTERM)
        assert server.exit_code(DRAIN_SECONDS) == 0
        errors = [line for line in server.lines if "ERROR" in line or "panicked" in line]
        assert not errors, errors[:10]
        took = sorted(load.seconds)
        summary = {
            "requests": load.sent, "outcomes": dict(load.outcomes), "tokens": load.tokens, **counts,
            "seconds_p50": round(statistics.median(took), 3), "seconds_p99": round(took[int(0.99 * (len(took) - 1))], 3),
            "health_p99": round(p99, 4), "memory_mib": round(watch.samples[-1][0] / 2**20), "memory_growth_mib": round(growth / 2**20, 2),
        }
        print(json.dumps(summary))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=120, help="how long requests arrive")
    arguments.add_argument("--seed", type=int, default=1, help="of the mix")
    given = arguments.parse_args()
    run(given.seconds, given.seed)
