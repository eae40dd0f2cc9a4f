"""A request's answer does not depend on what is served beside it: the same tokens and log-probabilities, bit for bit.

Choices of one request draw different random numbers by their index, so `n` choices are not `n` requests of the same seed: of these, the
first choice alone is equal, and the others are equal to the same choices of any other request with that `n` or more.
"""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import Server, eventually

pytestmark = pytest.mark.usefixtures("idle")
WORDS = "the old boat crossed a grey sea while seven gulls counted waves and nobody on board said a word about the storm".split()
NEEDLES = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.1, "top_p": 0.95, "seed": 42},
    "penalised": {"temperature": 0.8, "top_k": 40, "min_p": 0.01, "seed": 7, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    "schema": {"temperature": 1.0, "seed": 3, "response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"]}}}},
}


def text(seed, words):
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(words))


def answered(server, prompt, **more):
    """Everything of an answer that has to be equal. Floats are printed with the digits that read back as the same bits."""
    body = {"prompt": prompt, "max_tokens": 12, "logprobs": 3, "return_token_ids": True} | more
    choices = server.answer("/v1/completions", body)["choices"]
    return [(choice["token_ids"], choice["text"], choice["logprobs"], choice["finish_reason"]) for choice in choices]


@pytest.mark.parametrize("kind", NEEDLES)
def test_alone_and_among_others(server, kind):
    needle = {"prompt": text("needle", 40), **NEEDLES[kind]}
    alone = answered(server, **needle)
    others = [{"prompt": text(number, 3 + 25 * number), "seed": number, "temperature": 1, "max_tokens": 6 + 5 * number, "n": 1 + number % 2}
              for number in range(8)]
    for trial in range(3):
        chosen = random.Random(trial)
        with ThreadPoolExecutor(9) as pool:
            beside = [pool.submit(answered, server, **other) for other in chosen.sample(others, 8)]
            eventually(lambda: server.metrics().total("vllm:num_requests_running") >= 2, 20, "nothing runs beside it")
            among = answered(server, **needle)
            for future in beside:
                future.result()
        assert among == alone, f"trial {trial}"


def test_all_of_a_crowd_at_once_and_one_after_the_other(server):
    requests = [{"prompt": text(100 + number, 5 + 10 * number), "seed": number, "temperature": 0.9} for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda request: answered(server, **request), requests))
    assert together == [answered(server, **request) for request in requests]


@pytest.mark.parametrize("kind", ["greedy", "seeded"])
def test_with_and_without_a_kept_prefix(server, kind):
    prefix = text("prefix", 80)
    request = {"prompt": prefix + " " + text("tail", 10), **NEEDLES[kind]}
    hits = server.metrics().total("vllm:prefix_cache_hits_total")
    cold = answered(server, **request, cache_salt=f"cold {kind}")
    assert server.metrics().total("vllm:prefix_cache_hits_total") == hits
    answered(server, prefix, cache_salt=f"warm {kind}", max_tokens=1)
    warm = answered(server, **request, cache_salt=f"warm {kind}")
    assert server.metrics().total("vllm:prefix_cache_hits_total") > hits
    again = answered(server, **request, cache_salt=f"warm {kind}")
    assert warm == cold and again == cold


def test_streamed_and_whole(server):
    request = {"prompt": text("stream", 20), "temperature": 0.9, "seed": 5, "max_tokens": 12, "logprobs": 3, "return_token_ids": True}
    [whole] = answered(server, **request)
    chunks = [chunk["choices"][0] for chunk in server.stream("/v1/completions", request)]
    tokens = [token for chunk in chunks for token in chunk["token_ids"] or []]
    assert (tokens, "".join(chunk["text"] for chunk in chunks)) == whole[:2]
    probs = [prob for chunk in chunks if chunk["logprobs"] for prob in chunk["logprobs"]["token_logprobs"]]
    assert probs == whole[2]["token_logprobs"]


def test_the_first_choice_is_what_one_choice_would_be(server):
    request = {"prompt": text("choices", 20), "temperature": 1, "seed": 5}
    [one] = answered(server, **request)
    four = answered(server, n=4, **request)
    two = answered(server, n=2, **request)
    assert four[0] == one and four[:2] == two
    assert len({tuple(choice[0]) for choice in four}) == 4


def test_one_prompt_and_several_in_one_request(server):
    prompts = [text(number, 8) for number in range(4)]
    together = answered(server, prompts, seed=9, temperature=0.7)
    assert together == [answered(server, prompt, seed=9, temperature=0.7)[0] for prompt in prompts]


def test_whatever_the_server_was_told_about_batches_and_memory(server):
    """Chunks of prompts, sizes of batches, preemption: none of them is seen in an answer."""
    requests = [{"prompt": text(200 + number, 60), "seed": number, "temperature": 0.9, "max_tokens": 32, "ignore_eos": True}
                for number in range(6)]
    expected = [answered(server, **request) for request in requests]
    small = ("--max-model-len", "256", "--kv-cache-memory", "8MiB", "--max-num-batched-tokens", "24", "--no-enable-prefix-caching")
    with Server(limits=small) as other, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda request: answered(other, **request), requests))
        other.becomes_idle()
        preempted = other.metrics().total("vllm:num_preemptions_total")
    assert found == expected
    assert preempted > 0, "the cache was meant to be too small for all of them"
