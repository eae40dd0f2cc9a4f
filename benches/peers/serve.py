#!/usr/bin/env python3
"""Measures `nxd serve` beside llama.cpp's server under one load, and writes one JSON file and a table in Markdown.

    cargo build --release -p nxd-cli
    benches/peers/serve.py --gguf SmolLM2-135M-Instruct.Q8_0.gguf --llama-server FILE --repeat 3 --out serve.json

The load: clients that each send one streaming request at a time, chat and completions mixed, prompts and answers of mixed lengths, all of it from
a seed, so that every server gets the same work. The servers take turns, each in a process of its own. Then, of nxd alone: the time to the first
token with a prefix that it has seen against one that it has not, and one request at a time against `nxd bench`.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import time
import urllib.request

WORDS = (
    "river stone window letter garden winter morning engine table market story paper music bridge forest number street "
    "summer doctor island minute valley picture captain silver answer kitchen weather journey lantern"
).split()
PROMPT_WORDS = [16, 64, 128, 256, 400]
MAX_TOKENS = [32, 64, 96, 128]


def main():
    options = arguments()
    servers = {"nxd": nxd_command(options), "llama.cpp": llama_command(options)}
    results = {name: [] for name in servers}
    for repetition in range(options.repeat):
        order = list(servers) if repetition % 2 == 0 else list(servers)[::-1]
        for name in order:
            with Server(servers[name], options.port) as server:
                result = asyncio.run(load(options, jobs(options)))
                result["rss_mib"] = server.rss_mib()
            results[name].append(result)
            print(name, json.dumps(result), flush=True)
    report = {"load": results, "clients": options.clients, "requests": options.requests, "threads": options.threads}
    report["prefix"] = prefix(options)
    report["single"] = single(options)
    with open(options.out, "w") as file:
        json.dump(report, file, indent=1)
    print(table(report))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nxd", default="target/release/nxd")
    parser.add_argument("--llama-server", required=True, metavar="FILE")
    parser.add_argument("--gguf", required=True, metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--out", default="serve.json")
    return parser.parse_args()


def nxd_command(options):
    return [options.nxd, "serve", options.gguf, "--port", str(options.port), "-t", str(options.threads)]


def llama_command(options):
    # A context for each of as many slots as there are clients; without its reuse of prompts nothing of the load changes.
    context = 1024 * options.clients
    return [options.llama_server, "-m", options.gguf, "--port", str(options.port), "-t", str(options.threads),
            "-np", str(options.clients), "-c", str(context), "--no-webui"]


class Server:
    """A server's process, up while the block runs."""

    def __init__(self, command, port):
        self.port = port
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **quiet)

    def __enter__(self):
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                pass
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode}")
            time.sleep(0.1)
        raise SystemExit("the server is not ready after a minute")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            kib = next(line.split()[1] for line in file if line.startswith("VmHWM:"))
        return int(kib) // 1024


def jobs(options):
    draw = random.Random(options.seed)
    made = []
    for index in range(options.requests):
        words = " ".join(draw.choice(WORDS) for _ in range(draw.choice(PROMPT_WORDS)))
        text = f"Request {index}: {words}. Continue the text."
        made.append((draw.choice(["chat", "completions"]), text, draw.choice(MAX_TOKENS)))
    return made


async def load(options, work):
    """Runs the jobs, as many at once as there are clients."""
    await ask(options.port, ("chat", "Hello there", 4))
    queue = list(reversed(work))
    answers = []

    async def client():
        while queue:
            answers.append(await ask(options.port, queue.pop()))

    start = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(options.clients)])
    wall = time.perf_counter() - start
    first = sorted(answer["first"] for answer in answers)
    between = sorted(gap for answer in answers for gap in answer["between"])
    tokens = sum(answer["tokens"] for answer in answers)
    return {
        "output_tokens_per_s": round(tokens / wall, 1),
        "output_tokens": tokens,
        "first_p50_s": round(percentile(first, 50), 4),
        "first_p99_s": round(percentile(first, 99), 4),
        "between_p50_s": round(percentile(between, 50), 4),
        "between_p99_s": round(percentile(between, 99), 4),
    }


def percentile(values, p):
    at = (len(values) - 1) * p / 100
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


async def ask(port, job):
    """Sends one streaming request and notes when its pieces come."""
    kind, text, max_tokens = job
    body = {"max_tokens": max_tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    if kind == "chat":
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": text}]
    else:
        path, body["prompt"] = "/v1/completions", text
    start = time.perf_counter()
    stamps, tokens = [], None
    async for event in events(port, path, body):
        if "error" in event:
            raise SystemExit(f"the server answered {event}")
        for choice in event.get("choices") or []:
            piece = choice.get("text") if kind == "completions" else choice.get("delta", {}).get("content")
            if piece:
                stamps.append(time.perf_counter())
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
    between = [later - earlier for earlier, later in zip(stamps, stamps[1:])]
    return {"first": stamps[0] - start, "between": between, "tokens": tokens or len(stamps)}


async def events(port, path, body):
    """The server-sent events of one request. Hardly more than a socket, so that the client takes little of the processor."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)
    status = await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"{status!r}: {await reader.read(2000)!r}")
    while line := await reader.readline():
        # Lines between events are empty or lengths of chunks.
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield json.loads(line[6:])
    writer.close()


def prefix(options):
    """Time to the first token with a prefix of about 512 tokens, seen before and not."""
    draw = random.Random(options.seed)
    text = lambda: " ".join(draw.choice(WORDS) for _ in range(440))
    cold, warm = [], []
    with Server(nxd_command(options), options.port):
        asyncio.run(ask(options.port, ("completions", "Hello", 2)))
        for _ in range(9):
            shared = text()
            cold.append(asyncio.run(ask(options.port, ("completions", shared + " One.", 2)))["first"])
            warm.append(asyncio.run(ask(options.port, ("completions", shared + " Two.", 2)))["first"])
    return {"cold_first_s": round(statistics.median(cold), 4), "warm_first_s": round(statistics.median(warm), 4)}


def single(options):
    """One request at a time through the server, as a whole and streamed, and `nxd bench`, in turns, as machines that are shared drift: tokens a
    second after the first one, and the medians of the ratios of neighbours. The clients do next to nothing: they read on the processors that the
    model is computed on."""
    whole, streamed, bench = [], [], []
    command = [options.nxd, "bench", options.gguf, "-t", str(options.threads), "--prompt-tokens", "0", "--gen-tokens", "128",
               "--batch", "1", "--repeat", "3", "--json"]
    with Server(nxd_command(options), options.port):
        streamed_rate(options.port, 129)
        for _ in range(10):
            rows = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            bench.append(rows[0]["tokens_per_s"]["median"])
            whole.append(128 / (seconds_of_whole(options.port, 129) - seconds_of_whole(options.port, 1)))
            streamed.append(streamed_rate(options.port, 129))
    ratio = lambda rates: round(statistics.median(rate / beside for rate, beside in zip(rates, bench)), 3)
    return {"whole": ratio(whole), "streamed": ratio(streamed), "whole_tokens_per_s": round(statistics.median(whole), 1),
            "streamed_tokens_per_s": round(statistics.median(streamed), 1), "bench_tokens_per_s": round(statistics.median(bench), 1)}


def streamed_rate(port, tokens):
    """Tokens a second of a stream after its first one: when each part arrived is noted, and looked at afterwards."""
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    parts = []
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall((head + body).encode())
        while part := client.recv(1 << 16):
            parts.append((time.perf_counter(), part))
    times = [at for at, part in parts if b'"text"' in part]
    assert len(times) > tokens // 2, "tokens came in few parts, whose times say little"
    return (tokens - 1) / (times[-1] - times[0])


def seconds_of_whole(port, max_tokens):
    """How long a reply that is not streamed takes."""
    body = {"prompt": "Once upon a time", "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), headers)
    start = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        answer.read()
    return time.perf_counter() - start


def table(report):
    median = lambda name, key: statistics.median(result[key] for result in report["load"][name])
    rows = ["| | nxd | llama.cpp | ratio |", "|---|---|---|---|"]
    for key, label in [
        ("output_tokens_per_s", "output tokens/s"),
        ("first_p50_s", "time to first token, p50 (s)"),
        ("first_p99_s", "time to first token, p99 (s)"),
        ("between_p50_s", "between tokens, p50 (s)"),
        ("between_p99_s", "between tokens, p99 (s)"),
        ("rss_mib", "peak memory (MiB)"),
    ]:
        ours, theirs = median("nxd", key), median("llama.cpp", key)
        rows.append(f"| {label} | {ours} | {theirs} | {ours / theirs:.2f} |")
    prefix, single = report["prefix"], report["single"]
    rows += [
        "",
        f"First token with a known prefix of about 512 tokens: {prefix['warm_first_s']} s, with a new one {prefix['cold_first_s']} s: "
        f"{prefix['warm_first_s'] / prefix['cold_first_s']:.2f}.",
        f"One request at a time: {single['whole']} of `nxd bench` as a whole reply, {single['streamed']} streamed "
        f"({single['whole_tokens_per_s']}, {single['streamed_tokens_per_s']} and {single['bench_tokens_per_s']} tokens/s).",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
