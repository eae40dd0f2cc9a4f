"""Metrics: vLLM's names, and counts that are exact."""

import pytest
from serving import Server, eventually

GAUGES = ["num_requests_running", "num_requests_waiting", "num_requests_waiting_by_reason", "kv_cache_usage_perc"]
COUNTERS = [
    "prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total", "prompt_tokens_total",
    "generation_tokens_total", "request_success_total", "corrupted_requests_total",
]
HISTOGRAMS = [
    "iteration_tokens_total", "request_prompt_tokens", "request_generation_tokens", "request_params_n",
    "request_params_max_tokens", "request_num_preemptions", "time_to_first_token_seconds", "inter_token_latency_seconds",
    "e2e_request_latency_seconds", "request_queue_time_seconds", "request_inference_time_seconds",
    "request_prefill_time_seconds", "request_decode_time_seconds",
]
PROMPT = "Once upon a time there was a small boat"
REQUESTS, TOKENS = 10, 10


@pytest.fixture(scope="module")
def counted():
    """A server that was asked ten times for ten tokens, and for nothing else."""
    with Server() as server:
        before = server.metrics()
        for number in range(REQUESTS):
            more = {"max_tokens": TOKENS, "ignore_eos": True}
            if number % 2:
                list(server.stream("/v1/completions", {"prompt": PROMPT, "temperature": 0} | more))
            else:
                server.complete(PROMPT, **more)
        yield server, before, server.ended(REQUESTS)


def test_every_name_is_there_before_the_first_request(counted):
    _, before, _ = counted
    for kind, names in [("gauge", GAUGES), ("counter", COUNTERS), ("histogram", HISTOGRAMS)]:
        for name in names:
            assert before.types.get(f"vllm:{name}") == kind, name
    names = {name for name, _, _ in before.samples}
    for name in HISTOGRAMS:
        assert {f"vllm:{name}_{part}" for part in ["bucket", "sum", "count"]} <= names, name


def test_every_vllm_metric_names_model_and_engine(counted):
    server, _, after = counted
    model = server.get("/v1/models").json()["data"][0]["id"]
    for name, labels, _ in after.samples:
        if name.startswith("vllm:"):
            assert labels["model_name"] == model and labels["engine"] == "0", name


def test_counts_are_exact(counted):
    server, _, after = counted
    prompt_tokens = len(server.tokens(PROMPT))
    expected = {
        "time_to_first_token_seconds_count": REQUESTS,
        "inter_token_latency_seconds_count": REQUESTS * (TOKENS - 1),
        "e2e_request_latency_seconds_count": REQUESTS,
        "request_queue_time_seconds_count": REQUESTS,
        "request_inference_time_seconds_count": REQUESTS,
        "request_prefill_time_seconds_count": REQUESTS,
        "request_decode_time_seconds_count": REQUESTS,
        "request_prompt_tokens_count": REQUESTS,
        "request_prompt_tokens_sum": REQUESTS * prompt_tokens,
        "request_generation_tokens_count": REQUESTS,
        "request_generation_tokens_sum": REQUESTS * TOKENS,
        "request_params_n_sum": REQUESTS,
        "request_params_max_tokens_sum": REQUESTS * TOKENS,
        "prompt_tokens_total": REQUESTS * prompt_tokens,
        "generation_tokens_total": REQUESTS * TOKENS,
        "request_success_total": REQUESTS,
        "num_preemptions_total": 0,
        "corrupted_requests_total": 0,
        "num_requests_running": 0,
        "num_requests_waiting": 0,
        "kv_cache_usage_perc": 0,
    }
    found = {name: after.total(f"vllm:{name}") for name in expected}
    assert found == expected
    assert after.total("vllm:request_success_total", finished_reason="length") == REQUESTS


def test_buckets_rise_to_the_count(counted):
    _, _, after = counted
    for name in HISTOGRAMS:
        buckets = [(labels, value) for found, labels, value in after.samples if found == f"vllm:{name}_bucket"]
        counts = [value for _, value in buckets]
        assert counts == sorted(counts), name
        assert buckets[-1][0]["le"] == "+Inf" and counts[-1] == after.total(f"vllm:{name}_count"), name


def test_the_cache_is_described(counted):
    server, _, after = counted
    [labels] = after.labels("vllm:cache_config_info")
    block_size, blocks = int(labels["block_size"]), int(labels["num_gpu_blocks"])
    assert block_size > 0 and blocks > 0
    model_len = server.get("/v1/models").json()["data"][0]["max_model_len"]
    assert block_size * blocks >= model_len, "one request of full length fits"


def test_gauges_show_what_runs(counted):
    server, *_ = counted
    body = {"prompt": PROMPT, "max_tokens": 400, "ignore_eos": True}
    with server.post("/v1/completions", body | {"stream": True}, stream=True) as response:
        # Held on to: an iterator that is dropped takes the connection with it.
        lines = response.iter_lines()
        next(lines)
        eventually(lambda: server.metrics().total("vllm:num_requests_running") == 1, 5, "nobody runs")
        assert 0 < server.metrics().total("vllm:kv_cache_usage_perc") <= 1
    server.becomes_idle()
    assert server.metrics().total("vllm:request_success_total", finished_reason="abort") == 1


def test_http_requests_are_counted_by_route(counted):
    server, *_ = counted
    before = server.metrics()
    server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": -1})
    for path in ["/nowhere", "/nowhere/else"]:
        server.get(path)

    def grown(**labels):
        return server.metrics().total("http_requests_total", **labels) - before.total("http_requests_total", **labels)

    refused = {"handler": "/v1/completions", "method": "POST", "status": "4xx"}
    eventually(lambda: grown(**refused) == 1, 5, "the refusal is not counted")
    # Unknown paths make no series of their own.
    eventually(lambda: grown(handler="none", method="GET", status="4xx") == 2, 5, "unknown paths are not counted")
    after = server.metrics()
    assert not any("nowhere" in str(labels) for labels in after.labels("http_requests_total"))
    assert after.total("http_request_duration_seconds_count") > 0


def test_prefix_hits_are_counted_in_tokens():
    with Server() as server:
        block = int(server.metrics().labels("vllm:cache_config_info")[0]["block_size"])
        prompt = list(range(100, 100 + 4 * block + 1))
        for asked, hits in enumerate([0, 4 * block]):
            before = server.ended(asked)
            server.complete(prompt, max_tokens=1)
            after = server.ended(asked + 1)
            grown = {
                name: after.total(f"vllm:prefix_cache_{name}_total") - before.total(f"vllm:prefix_cache_{name}_total")
                for name in ["queries", "hits"]
            }
            assert grown == {"queries": len(prompt), "hits": hits}
        server.complete(prompt, max_tokens=1, cache_salt="another tenant")
        assert server.ended(3).total("vllm:prefix_cache_hits_total") == 4 * block, "a salt keeps tenants apart"
