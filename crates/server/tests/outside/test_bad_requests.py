"""Requests that cannot be meant, and HTTP that is not: each is refused with what it is, and the next good one is answered.

A case is a body and the field that the error has to name; all of them are sent to a running server.
"""

import contextlib
import gzip
import json
import socket
import ssl
import time

import pytest
import requests
from serving import LONGEST_ERROR_BYTES, Server, check_error, events, eventually, read_all, status_of

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
GOOD = {"prompt": "Once upon a time", "max_tokens": 3, "temperature": 0}
HI = [{"role": "user", "content": "Hi."}]
JSON = {"Content-Type": "application/json"}
# What cannot be meant is known before anything is computed.
REFUSED_SECONDS = 5


@pytest.fixture(scope="module")
def answer(server):
    return server.answer(COMPLETIONS, GOOD)["choices"][0]["text"]


@pytest.fixture(autouse=True)
def the_next_good_request_is_answered(server, answer):
    yield
    assert server.answer(COMPLETIONS, GOOD)["choices"][0]["text"] == answer


def refused(server, path, body, param=None, status=400, code=None):
    began = time.monotonic()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = server.post(path, data=data, headers=server.headers | JSON)
    took = time.monotonic() - began
    error = check_error(response, status, param, code)
    assert took < REFUSED_SECONDS, f"{took:.1f} s to refuse"
    assert "/root" not in error["message"] and "/home" not in error["message"], "no paths of the server"
    return error


def completion(**fields):
    return GOOD | fields


def chat(**fields):
    return {"messages": HI, "max_tokens": 3} | fields


def nested(depth):
    inner = {"type": "string"}
    for _ in range(depth):
        inner = {"type": "array", "items": inner}
    return inner


def cases(*rows):
    """Rows of (name, body, …) as parameters with the name as their id."""
    return [pytest.param(*rest, id=name) for name, *rest in rows]


# 81: bodies that are no JSON objects.
@pytest.mark.parametrize("body", cases(
    ("words", b"not json"), ("nothing", b""), ("a list", b"[]"), ("a string", b'"x"'), ("null", b"null"), ("a number", b"7"),
    ("10 MB of [", b"[" * (10 << 20)), ("10 MB of {", b'{"a":' * (2 << 20)),
    ("a key twice", b'{"prompt": "a", "prompt": "b", "max_tokens": 1}'),
    ("half a surrogate pair", b'{"prompt": "\\ud800", "max_tokens": 1}'),
    ("a raw NUL", b'{"prompt": "a\x00b", "max_tokens": 1}'),
    ("bytes that are no UTF-8", b'{"prompt": "\xff\xfe", "max_tokens": 1}'),
    ("an overlong UTF-8 form", b'{"prompt": "\xc0\xaf", "max_tokens": 1}'),
    ("more after the end", b'{"prompt": "a", "max_tokens": 1} {}'),
    ("cut off", b'{"prompt": "a", "max_tok'), ("NaN", b'{"prompt": "a", "temperature": NaN}'),
    ("a number beyond all floats", b'{"prompt": "a", "temperature": 1e999}'),
))
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, EMBEDDINGS, "/tokenize", "/detokenize"])
def test_bodies_that_are_no_json_object(server, path, body):
    refused(server, path, body)


def test_an_escaped_nul_is_a_character(server):
    assert server.tokens("a\0b")
    server.complete("a\0b", max_tokens=1)


# 82: bodies and what they say of their length.
class TestBodies:
    def test_one_over_the_limit(self, server):
        body = b'{"prompt": "' + b"a" * (33 << 20) + b'", "max_tokens": 1}'
        with contextlib.suppress(requests.ConnectionError):
            # A server that refuses early may close before all of it is sent; what it said is looked at below.
            refused(server, COMPLETIONS, body, status=413)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
        assert status_of(server.raw(head, timeout=5)) == 413

    def test_chunks_over_the_limit(self, server):
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert status_of(server.raw(head + 40 * chunk, timeout=10)) in [413, None]

    def test_a_length_that_is_too_small_cuts_the_body(self, server):
        assert status_of(server.raw(post(b'{"prompt": "abc"}', length=5), timeout=5)) == 400

    def test_a_length_that_is_too_large_is_given_up(self):
        with Server("--body-timeout", "2") as server:
            began = time.monotonic()
            reply = server.raw(post(b'{"prompt": "abc"}', length=500), timeout=20)
            assert status_of(reply) in [408, None] and time.monotonic() - began < 15
            # The client that says so by closing its side gets no more than an answer.
            assert status_of(server.raw(post(b'{"prompt": "abc"}', length=500), half_close=True)) in [400, 408, None]
            server.answer(COMPLETIONS, GOOD)

    @pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "99999999999999999999999", "5, 6", ""])
    def test_a_length_that_is_no_number(self, server, length):
        reply = server.raw(post(b"{}", length=length), timeout=5)
        assert status_of(reply) in [400, 413, None]

    def test_two_lengths(self, server):
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 7\r\n\r\n{}"
        assert status_of(server.raw(head, timeout=5)) in [400, None]

    @pytest.mark.parametrize("chunks", [b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n", b"ffffffffffffffffff\r\n{}\r\n", b"2\r\n{}xx0\r\n\r\n"])
    def test_chunks_of_bad_sizes(self, server, chunks):
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert status_of(server.raw(head + chunks, timeout=5)) in [400, None]

    def test_packed_bodies_are_not_unpacked(self, server):
        bomb = gzip.compress(b" " * (100 << 20))
        headers = server.headers | JSON | {"Content-Encoding": "gzip"}
        assert 400 <= server.post(COMPLETIONS, data=bomb, headers=headers).status_code < 500


def post(body, length=None, path=COMPLETIONS, headers=""):
    length = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n"
    return head.encode() + body


# 83: heads and sockets.
class TestHeads:
    def test_a_header_of_a_megabyte(self, server):
        reply = server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * (1 << 20) + b"\r\n\r\n", timeout=10)
        assert status_of(reply) in [431, 400, None] and len(reply) < LONGEST_ERROR_BYTES

    def test_a_thousand_headers(self, server):
        lines = b"".join(b"X-%d: a\r\n" % number for number in range(1000))
        reply = server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n", timeout=10)
        assert status_of(reply) in [431, 400, None]

    def test_a_path_of_a_megabyte(self, server):
        reply = server.raw(b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n", timeout=10)
        assert status_of(reply) in [414, 431, 400, None] and len(reply) < LONGEST_ERROR_BYTES

    def test_sockets_that_say_nothing_or_little_hold_nobody_up(self):
        """200 of them: silent, half a head, half a body, half closed, one byte at a time."""
        with Server("--header-timeout", "3", "--body-timeout", "3") as server, contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(server.socket()) for _ in range(200)]
            for number, connection in enumerate(sockets):
                match number % 4:
                    case 1:
                        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                    case 2:
                        connection.sendall(post(b'{"prompt":', length=1000))
                    case 3:
                        connection.shutdown(socket.SHUT_WR)
            slow = sockets[1]
            for _ in range(4):
                began = time.monotonic()
                server.answer(COMPLETIONS, GOOD)
                assert server.get("/health").status_code == 200
                assert time.monotonic() - began < 10
                with contextlib.suppress(OSError):
                    slow.sendall(b"a")

            def closed(connection):
                connection.settimeout(0.01)
                try:
                    return connection.recv(4096) == b""
                except TimeoutError:
                    return False
                except OSError:
                    return True

            left = list(sockets)

            def all_closed():
                left[:] = [connection for connection in left if not closed(connection)]
                return not left

            eventually(all_closed, 30, "slow connections are still open")

    def test_connections_beyond_the_limit_wait_and_are_served(self):
        with Server("--max-connections", "8", "--header-timeout", "2") as server, contextlib.ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(server.socket())
            # The silent ones are closed in turns of two seconds.
            assert server.get("/health", timeout=30).status_code == 200

    def test_file_descriptors_may_run_out(self):
        with Server(before=("prlimit", "--nofile=48")) as server, contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(server.socket())
            stack.close()
            assert server.get("/health", timeout=30).status_code == 200
            server.answer(COMPLETIONS, GOOD)


# 84: paths, methods, types, and what is no HTTP/1.1.
class TestRoutes:
    @pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/", "/v1/completions/", "/v1/nothing", "/" + "a" * 5000, "/%00", "/health/x"])
    def test_unknown_paths(self, server, path):
        check_error(server.get(path), 404)
        check_error(server.post(path, {}), 404)

    @pytest.mark.parametrize("method, path", [
        ("GET", COMPLETIONS), ("PUT", CHAT), ("DELETE", "/v1/models"), ("POST", "/health"), ("PATCH", "/metrics"),
        ("POST", "/v1/models"), ("GET", "/tokenize"), ("BREW", COMPLETIONS),
    ])
    def test_wrong_methods(self, server, method, path):
        response = requests.request(method, server.url + path, headers=server.headers, timeout=30)
        check_error(response, 405)
        assert response.headers["allow"]

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None])
    @pytest.mark.parametrize("path", [COMPLETIONS, CHAT, EMBEDDINGS, "/tokenize"])
    def test_wrong_types(self, server, path, kind):
        headers = server.headers | ({} if kind is None else {"Content-Type": kind})
        check_error(server.post(path, data=json.dumps(GOOD).encode(), headers=headers), 415)

    def test_a_type_with_parameters_is_json_too(self, server):
        headers = server.headers | {"Content-Type": "application/json; charset=utf-8"}
        assert server.post(COMPLETIONS, data=json.dumps(GOOD).encode(), headers=headers).status_code == 200

    @pytest.mark.parametrize("data", cases(
        ("words", b"hello there\r\n\r\n"), ("HTTP/0.9", b"GET /health\r\n\r\n"), ("HTTP/7.7", b"GET /health HTTP/7.7\r\nHost: x\r\n\r\n"),
        ("no method", b" / HTTP/1.1\r\n\r\n"), ("zeros", b"\0" * 4096), ("line ends", b"\r\n" * 4096),
        ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 64),
        ("a header without a name", b"GET /health HTTP/1.1\r\n: x\r\n\r\n"),
        ("a header with NUL", b"GET /health HTTP/1.1\r\nX: a\0b\r\n\r\n"),
        ("a space before the colon", b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n"),
    ))
    def test_what_is_no_http(self, server, data):
        reply = server.raw(data, timeout=15, half_close=True)
        assert status_of(reply) in [400, 404, 405, 505, None]
        assert len(reply) < LONGEST_ERROR_BYTES

    def test_a_tls_hello_on_the_plain_port(self, server):
        context = ssl.create_default_context()
        with server.socket(timeout=10) as plain, pytest.raises(OSError):
            context.wrap_socket(plain, server_hostname="localhost")

    def test_two_requests_at_once_on_one_connection_are_both_answered(self, server):
        once = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert server.raw(once + last, timeout=10).count(b"HTTP/1.1 200") == 2


# 85: the model's name.
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, EMBEDDINGS, "/tokenize", "/detokenize"])
def test_models_that_are_not_served(server, path):
    body = {"prompt": "a", "messages": HI, "input": "a", "tokens": [1]}
    if path == "/tokenize":
        body.pop("messages")
    for name in ["other", "", "x" * (1 << 20), "../../etc/passwd"]:
        refused(server, path, body | {"model": name}, "model", status=404, code="model_not_found")
    for name in [7, ["a"], {"a": 1}, True]:
        refused(server, path, body | {"model": name}, "model")


# 86: prompts.
@pytest.mark.parametrize("prompt", cases(
    ("empty", ""), ("none", []), ("an empty list", [[]]), ("empty among others", ["a", ""]), ("an empty list among others", [[1], []]),
    ("negative", [-1]), ("a list with a negative one", [[1, -1]]), ("outside the vocabulary", [49152]), ("2^32", [2**32]),
    ("2^64", [2**64]), ("half a token", [1.5]), ("mixed", ["a", 1]), ("ids and texts", [1, "a"]), ("null", None), ("a number", 7),
    ("an object", {"a": 1}), ("true", True), ("deep", [[[1]]]), ("a million tokens", [1] * 1_000_000),
    ("100,000 prompts", ["a"] * 100_000), ("a long text", "word " * 200_000),
))
def test_prompts(server, prompt):
    error = refused(server, COMPLETIONS, completion(prompt=prompt))
    assert error["param"] in ["prompt", None]
    assert error["code"] in ["invalid_value", "context_length_exceeded"]
    if error["code"] != "context_length_exceeded":
        assert error["param"] == "prompt"


def test_a_prompt_is_needed(server):
    refused(server, COMPLETIONS, {"max_tokens": 3}, "prompt")
    refused(server, EMBEDDINGS, {}, "input")
    refused(server, "/tokenize", {}, ("prompt", "messages"))
    refused(server, "/detokenize", {}, "tokens")


@pytest.mark.parametrize("given", ["", [], [[]], [-1], [49152], [1.5], 7, {}, None, True])
def test_inputs_of_embeddings(server, given):
    refused(server, EMBEDDINGS, {"input": given}, "input")


@pytest.mark.parametrize("tokens", ["a", [-1], [49152], [1.5], ["a"], {}, None])
def test_tokens_to_decode(server, tokens):
    refused(server, "/detokenize", {"tokens": tokens}, "tokens")


def test_other_fields_of_embeddings(server):
    refused(server, EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, "encoding_format")
    for dimensions in [0, -1, 3, "x", 10**9]:
        refused(server, EMBEDDINGS, {"input": "a", "dimensions": dimensions}, "dimensions")
    assert refused(server, EMBEDDINGS, {"input": "word " * 9000})["code"] == "context_length_exceeded"


# 87: messages.
@pytest.mark.parametrize("messages", cases(
    ("null", None), ("a text", "x"), ("none", []), ("a number in the list", [123]), ("an empty object", [{}]), ("an object", {"role": "user"}),
    ("no content", [{"role": "user"}]), ("no role", [{"content": "Hi."}]), ("role 123", [{"role": 123, "content": "Hi."}]),
    ("an unknown role", [{"role": "wizard", "content": "Hi."}]), ("content 123", [{"role": "user", "content": 123}]),
    ("content null", [{"role": "user", "content": None}]), ("content true", [{"role": "user", "content": True}]),
    ("an object as content", [{"role": "user", "content": {"type": "text"}}]),
    ("an unknown part", [{"role": "user", "content": [{"type": "smell", "text": "x"}]}]),
    ("a part without a type", [{"role": "user", "content": [{"text": "x"}]}]),
    ("a part without a text", [{"role": "user", "content": [{"type": "text"}]}]),
    ("a part that is a number", [{"role": "user", "content": [7]}]),
    ("a result without an id", [*HI, {"role": "tool", "content": "21"}]),
    ("two of the assistant at the end", [*HI, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]),
    ("calls of the user", [{"role": "user", "content": "a", "tool_calls": [{}]}]),
    ("calls that are no list", [*HI, {"role": "assistant", "tool_calls": "x"}, *HI]),
    ("a call that is no object", [*HI, {"role": "assistant", "tool_calls": [7]}, *HI]),
    ("arguments that are no JSON", [*HI, {"role": "assistant", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}]}, *HI]),
    ("5000 bad ones", [{"role": "wizard"}] * 5000),
))
def test_messages(server, messages):
    refused(server, CHAT, chat(messages=messages), "messages")


def test_messages_are_needed(server):
    refused(server, CHAT, {"max_tokens": 3}, "messages")


def test_a_conversation_that_is_too_long(server):
    long = [{"role": "user", "content": "word " * 9000}]
    assert refused(server, CHAT, chat(messages=long))["code"] == "context_length_exceeded"


# 88: numbers. Each field against what lies outside its range, and against other types.
OTHER_TYPES = ["x", "5", [], [1], {}, True]
NUMBERS = {
    "temperature": [-1, -1e-9, 1e308, -1e308, "NaN", 2.5],
    "top_p": [0, 1.1, -1, 1e308],
    "min_p": [-1, 1.5, 1e308],
    "top_k": [-2, 1.5, 2**63],
    "presence_penalty": [3, -3, 1e308],
    "frequency_penalty": [3, -3, 1e308],
    "repetition_penalty": [0, -1, -1e308],
    "seed": [2**64, -(2**64), 1.5, 1e300],
    "n": [0, -1, 10**9, 2**63, 1.5, 129],
    "max_tokens": [-1, 0, 2**63, 2**31, 10**9, 1.5, -(2**63)],
    "min_tokens": [-1, 4, 2**63, 1.5],
    "priority": [2**64, 1.5],
    "truncate_prompt_tokens": [-2, 0, 1.5, 2**64],
}


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("path, body", [(COMPLETIONS, completion()), (CHAT, chat())], ids=["completions", "chat"])
def test_numbers(server, path, body, field):
    for value in NUMBERS[field] + OTHER_TYPES:
        error = refused(server, path, body | {field: value})
        too_long = field == "max_tokens" and error["code"] == "context_length_exceeded"
        assert error["param"] == field or too_long, f"{field}={value!r}: {error}"


def test_numbers_at_the_ends_of_their_ranges_are_taken(server):
    for fields in [
        {"temperature": 0, "top_p": 1}, {"temperature": 2, "top_p": 1e-9}, {"top_k": -1}, {"top_k": 0}, {"top_k": 1}, {"min_p": 0},
        {"min_p": 1}, {"seed": 2**63 - 1}, {"seed": -(2**63)}, {"presence_penalty": 2, "frequency_penalty": -2},
        {"repetition_penalty": 0.1}, {"repetition_penalty": 10}, {"min_tokens": 3}, {"priority": -5}, {"logprobs": 20}, {"max_tokens": 1},
        {"temperature": None, "top_p": None, "seed": None, "stop": None, "n": None, "logit_bias": None, "stream": None},
        {"a field that nobody knows": [1, {"x": None}]}, {"temperature": 1e-30}, {"temperature": 5e-324}, {"top_p": 5e-324},
    ]:
        server.answer(COMPLETIONS, completion(**fields))
    server.answer(CHAT, chat(max_tokens=None, max_completion_tokens=2, top_logprobs=None, tools=None))


def test_a_penalty_that_makes_logits_infinite(server):
    for value in [5e-324, 1e-38, 1e-30]:
        refused(server, COMPLETIONS, completion(repetition_penalty=value), "repetition_penalty")


def test_the_newer_name_of_max_tokens(server):
    for value in [-1, 0, 2**63, "x", 1.5]:
        refused(server, CHAT, chat(max_completion_tokens=value), "max_completion_tokens")


def test_many_completions_of_many_prompts(server):
    refused(server, COMPLETIONS, completion(prompt=["a"] * 1024, n=128), ("n", "prompt"))


# 89: log-probabilities.
def test_logprobs(server):
    for value in [21, -2, "x", 10**9, 1.5, True, []]:
        refused(server, COMPLETIONS, completion(logprobs=value), "logprobs")
    for value in [21, -1, "x", 1.5]:
        refused(server, CHAT, chat(logprobs=True, top_logprobs=value), "top_logprobs")
    refused(server, CHAT, chat(top_logprobs=2), "top_logprobs")
    refused(server, CHAT, chat(logprobs=False, top_logprobs=2), "top_logprobs")
    for value in [5, "x", []]:
        refused(server, CHAT, chat(logprobs=value), "logprobs")
    for path, body in [(COMPLETIONS, completion()), (CHAT, chat())]:
        for value in [-2, 21, "x", 1.5]:
            refused(server, path, body | {"prompt_logprobs": value}, "prompt_logprobs")
        refused(server, path, body | {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs")


# 90: biases.
def test_biases(server):
    for value in [{"abc": 1}, {"999999999": 1}, {"-1": 1}, {"1.5": 1}, {"": 1}, {"1": "x"}, {"1": 1e9}, {"1": -101}, {"1": None},
                  {"1": [1]}, [], "x", 7, {str(key): 0 for key in range(1_000_000)}]:
        refused(server, COMPLETIONS, completion(logit_bias=value), "logit_bias")
    refused(server, CHAT, chat(logit_bias={"abc": 1}), "logit_bias")
    for field in ["allowed_token_ids", "stop_token_ids"]:
        for value in [[-1], [49152], ["a"], [1.5], 7, "x", {}]:
            refused(server, COMPLETIONS, completion(**{field: value}), field)
    refused(server, COMPLETIONS, completion(allowed_token_ids=[]), "allowed_token_ids")


# 91: stops.
def test_stops(server):
    for value in ["", ["", ""], ["a", ""], ["x"] * 1000, "x" * (1 << 20), 7, [7], [["a"]], {}, True]:
        refused(server, COMPLETIONS, completion(stop=value), "stop")
        refused(server, CHAT, chat(stop=value), "stop")


# 92: formats.
def schema(inner):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}


def pattern(text):
    return schema({"type": "string", "pattern": text})


LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
FORMATS = cases(
    ("a text", "json"), ("a list", []), ("no type", {}), ("type 123", {"type": 123}), ("an unknown type", {"type": "hiccup"}),
    ("no schema", {"type": "json_schema"}), ("an empty one", {"type": "json_schema", "json_schema": {}}),
    ("a schema that is a number", {"type": "json_schema", "json_schema": {"name": "x", "schema": 7}}),
    ("no schema in it", {"type": "json_schema", "json_schema": {"name": "x"}}),
    ("type 123 in it", schema({"type": 123})), ("an unknown type in it", schema({"type": "hiccup"})),
    ("a loop", schema(LOOP)), ("a loop onto itself", schema({"$ref": "#"})),
    ("a reference to nothing", schema({"$ref": "#/$defs/none"})),
    ("a reference elsewhere", schema({"$ref": "http://127.0.0.1:9/x.json"})),
    ("a reference to a file", schema({"$ref": "file:///etc/passwd"})),
    ("100 deep", schema(nested(100))),
    ("a million values", schema({"enum": list(range(1_000_000))})),
    ("a bad repetition", pattern("^+a")), ("a look behind", pattern("(?<=x)*")), ("60,000 groups", pattern("(" * 60_000 + ")" * 60_000)),
    ("a million repetitions", pattern("(a{1000}){1000}")), ("an open group", pattern("(a")), ("a back reference", pattern(r"(a)\1")),
    ("an array of a milliard", schema({"type": "array", "items": {"type": "integer"}, "minItems": 10**9})),
    ("a string of a milliard", schema({"type": "string", "minLength": 10**9})),
    ("nothing that fits", schema(False)), ("a minimum over the maximum", schema({"type": "integer", "minimum": 9, "maximum": 1})),
    ("an empty choice", schema({"enum": []})),
)


@pytest.mark.parametrize("format", FORMATS)
def test_formats(server, format):
    began = time.monotonic()
    refused(server, CHAT, chat(response_format=format), "response_format")
    refused(server, COMPLETIONS, completion(response_format=format), "response_format")
    # One second each on a quiet machine, by a server that was optimised.
    assert time.monotonic() - began < 2 * REFUSED_SECONDS


def test_formats_that_are_deeper_than_json_may_be(server):
    deep = b'{"type":"array","items":' * 1000 + b'{"type":"string"}' + b"}" * 1000
    form = b'{"type":"json_schema","json_schema":{"name":"x","schema":' + deep + b"}}"
    refused(server, CHAT, b'{"messages":[{"role":"user","content":"a"}],"response_format":' + form + b"}")


# 93: grammars and the other constraints of vLLM.
@pytest.mark.parametrize("field, value", cases(
    ("nested", "guided_grammar", "start: " + "(" * 60_000 + '"a"' + ")" * 60_000),
    ("no rule", "guided_grammar", ""), ("words", "guided_grammar", "not a grammar"), ("an unknown rule", "guided_grammar", "start: other"),
    ("an endless rule", "guided_grammar", 'start: start "a"'),
    ("5000 rules", "guided_grammar", "start: r0\n" + "".join(f"r{n}: r{n + 1}\n" for n in range(5000)) + 'r5000: "a"\n'),
    ("a megabyte", "guided_grammar", 'start: "' + "a" * (1 << 20) + '"'),
    ("a number", "guided_grammar", 7), ("a bad expression", "guided_regex", "(a"), ("a large expression", "guided_regex", "(a{1000}){1000}"),
    ("a long expression", "guided_regex", "a" * (1 << 20)), ("a number as expression", "guided_regex", 7),
    ("no choice", "guided_choice", []), ("a choice of numbers", "guided_choice", [1]), ("a choice of nothing", "guided_choice", [""]),
    ("too many choices", "guided_choice", ["a"] * 100_000), ("bad JSON", "guided_json", "{"), ("a list as schema", "guided_json", []),
    ("a bad schema", "guided_json", {"type": "hiccup"}), ("a list", "structured_outputs", []),
    ("a bad expression in it", "structured_outputs", {"regex": "(a"}), ("no choice in it", "structured_outputs", {"choice": []}),
))
def test_other_constraints(server, field, value):
    refused(server, COMPLETIONS, completion(**{field: value}), field)
    refused(server, CHAT, chat(**{field: value}), field)


def test_two_constraints_at_once(server):
    both = {"response_format": {"type": "json_object"}, "guided_regex": "a+"}
    refused(server, CHAT, chat(**both), ("response_format", "guided_regex"))


# 94: tools.
def tool(name="f", **fields):
    return [{"type": "function", "function": {"name": name} | fields}]


def typed(inner):
    return tool(parameters={"type": "object", "properties": {"a": inner}, "required": ["a"]})


@pytest.mark.parametrize("tools", cases(
    ("a text", "x"), ("an object", {}), ("a number", [7]), ("no function", [{"type": "function"}]), ("an unknown type", [{"type": "x"}]),
    ("no name", [{"type": "function", "function": {}}]), ("an empty name", tool("")), ("a name that is a number", tool(7)),
    ("a long name", tool("x" * 1000)), ("a name with spaces", tool("a b")), ("one name twice", tool() + tool()),
    ("parameters that are a list", tool(parameters=[])), ("parameters that are a text", tool(parameters="x")),
    ("parameters that are no object", tool(parameters={"type": "array"})), ("10,000 of them", tool() * 10_000),
))
def test_tools(server, tools):
    refused(server, CHAT, chat(tools=tools), "tools")


@pytest.mark.parametrize("tools", cases(
    ("a bad pattern", typed({"type": "string", "pattern": "^+a"})), ("a bad type", typed({"type": "hiccup"})),
    ("deep", typed(nested(100))), ("a loop", typed(LOOP)),
))
def test_schemas_of_tools_that_have_to_be_called(server, tools):
    refused(server, CHAT, chat(tools=tools, tool_choice="required"), "tools")


def test_choices_of_tools(server):
    unknown = {"type": "function", "function": {"name": "g"}}
    for choice in ["perhaps", 7, [], {}, unknown, {"type": "function"}, {"type": "function", "function": {}}]:
        refused(server, CHAT, chat(tools=tool(), tool_choice=choice), "tool_choice")
    for choice in ["required", unknown]:
        refused(server, CHAT, chat(tool_choice=choice), ("tool_choice", "tools"))
        refused(server, CHAT, chat(tools=[], tool_choice=choice), ("tool_choice", "tools"))
    refused(server, CHAT, chat(tools=tool(), parallel_tool_calls="x"), "parallel_tool_calls")


# 95: templates.
def test_templates(server):
    for template in ["{{ messages }}", "{% for i in range(10**9) %}x{% endfor %}", 7]:
        refused(server, CHAT, chat(chat_template=template), "chat_template")
    plain = server.answer("/tokenize", {"messages": HI})["tokens"]
    for kwargs in [{"tokenize": True, "messages": []}, {"messages": []}, {"tools": []}, {"add_generation_prompt": False}]:
        body = {"messages": HI, "chat_template_kwargs": kwargs}
        response = server.post("/tokenize", body)
        if response.status_code != 200:
            check_error(response, 400, "chat_template_kwargs")
        else:
            assert response.json()["tokens"] == plain, "what is the server's cannot be replaced"
    for kwargs in [7, "x", []]:
        refused(server, CHAT, chat(chat_template_kwargs=kwargs), "chat_template_kwargs")
    for fields in [{"add_generation_prompt": "x"}, {"continue_final_message": 7}, {"continue_final_message": True},
                   {"continue_final_message": True, "add_generation_prompt": True}]:
        refused(server, CHAT, chat(**fields), tuple(fields))


# 96: media.
def test_media_are_refused_and_nothing_is_fetched(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        for url in [f"http://127.0.0.1:{port}/x.png", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd",
                    "data:image/png;base64,!!!!", "data:image/png;base64," + "A" * (20 << 20)]:
            for part in [{"type": "image_url", "image_url": {"url": url}}, {"type": "input_audio", "input_audio": {"data": url}}]:
                refused(server, CHAT, chat(messages=[{"role": "user", "content": [part]}]), "messages")
        with pytest.raises(TimeoutError):
            listener.accept()


# 97: streams.
def test_streams(server):
    for path, body in [(COMPLETIONS, completion()), (CHAT, chat())]:
        refused(server, path, body | {"stream_options": {"include_usage": True}}, "stream_options")
        refused(server, path, body | {"stream": False, "stream_options": {"include_usage": True}}, "stream_options")
        for value in ["yes", 1, [], {}]:
            refused(server, path, body | {"stream": value}, "stream")
        for value in ["x", 7, [], {"include_usage": "x"}]:
            refused(server, path, body | {"stream": True, "stream_options": value}, "stream_options")
        # What is wrong is known before the stream begins.
        refused(server, path, body | {"stream": True, "temperature": -1}, "temperature")


def test_flags_that_are_none(server):
    for field in ["echo", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens", "add_special_tokens", "return_token_ids"]:
        for value in ["x", 1, []]:
            refused(server, COMPLETIONS, completion(**{field: value}), field)
    for value in ["", "x" * 5000, 7, []]:
        refused(server, COMPLETIONS, completion(cache_salt=value), "cache_salt")
    refused(server, COMPLETIONS, completion(truncation_side="middle", truncate_prompt_tokens=2), "truncation_side")


def test_what_is_known_and_cannot_be_done_is_refused(server):
    for field, value in {"suffix": "x", "best_of": 3, "bad_words": ["x"], "use_beam_search": True}.items():
        refused(server, COMPLETIONS, completion(**{field: value}), field)


# 98, 99: keys, and paths that are spelled to go round them.
class TestKeys:
    KEY = "sesame"

    @pytest.fixture(scope="class")
    @classmethod
    def guarded(cls):
        with Server(key=cls.KEY) as server:
            yield server

    def status(self, guarded, path, *headers, method="GET"):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"
        reply = guarded.raw(head.encode(), timeout=10)
        assert b"vllm:" not in reply and b'"data":' not in reply or status_of(reply) == 200
        return status_of(reply)

    def test_keys_that_do_not_open(self, guarded):
        good = ("Authorization", f"Bearer {self.KEY}")
        assert self.status(guarded, "/v1/models", good) == 200
        assert self.status(guarded, "/v1/models", ("X-Api-Key", self.KEY)) == 200
        bad = ["", "Bearer", "Bearer ", f"Basic {self.KEY}", self.KEY, "Bearer sesam", "Bearer sesamee", "Bearer SESAME",
               f"Bearer  {self.KEY}", f"Bearer {self.KEY},{self.KEY}"]
        for value in bad:
            assert self.status(guarded, "/v1/models", ("Authorization", value)) == 401, value
        assert self.status(guarded, "/v1/models") == 401
        assert self.status(guarded, "/v1/models", good, good) == 401
        assert self.status(guarded, "/v1/models", ("Authorization", "Bearer " + "x" * (1 << 20))) in [401, 431, 400, None]

    def test_refusals_have_the_envelope(self, guarded):
        for path in [COMPLETIONS, CHAT]:
            response = requests.post(guarded.url + path, json=GOOD, timeout=30)
            assert check_error(response, 401, code="invalid_api_key")["type"] == "authentication_error"

    def test_every_route_but_probes_needs_one(self, guarded):
        for path in ["/v1/models", "/metrics", "/openapi.json", "/server_info", "/model_info", "/v1/models/demo", "/nowhere"]:
            assert self.status(guarded, path) == 401, path
        for path in [COMPLETIONS, CHAT, EMBEDDINGS, "/tokenize", "/detokenize"]:
            assert self.status(guarded, path, method="POST") == 401, path
        for path in ["/health", "/ready", "/version", "/ping", "/"]:
            assert self.status(guarded, path) == 200, path

    def test_no_spelling_of_a_path_goes_round_them(self, guarded):
        for path in ["/v1/models/", "//v1/models", "/v1/../metrics", "/health/../metrics", "/%2e%2e/metrics", "/v1/%2e%2e/metrics",
                     "/health/%2e%2e/metrics", "/health;/../metrics", "/./metrics", "/METRICS", "/metrics/", "/metrics?x", "/metrics#x",
                     "/%6detrics", "http://x/metrics", "/health%2f..%2fmetrics", "/health?/../metrics"]:
            status = self.status(guarded, path)
            assert status in [400, 401, 404] or (path.startswith("/health?") and status == 200), path

    def test_methods_do_not_go_round_them(self, guarded):
        for method in ["OPTIONS", "HEAD", "TRACE", "BREW"]:
            assert self.status(guarded, "/v1/models", method=method) in [400, 401, 405, 501], method
        preflight = [("Origin", "http://evil.example"), ("Access-Control-Request-Method", "GET")]
        reply = requests.options(guarded.url + "/v1/models", headers=dict(preflight), timeout=30)
        assert "access-control-allow-origin" not in reply.headers, "other origins are not let in unless named"
        assert self.status(guarded, "/metrics", ("X-HTTP-Method-Override", "OPTIONS")) == 401
        assert self.status(guarded, "/metrics", ("X-Original-URL", "/health")) == 401

    def test_good_requests_are_answered_with_the_key(self, guarded):
        guarded.answer(COMPLETIONS, GOOD)
        assert guarded.metrics().total("vllm:request_success_total") >= 1


# 100, as far as it is no cancellation: ids.
def test_one_id_for_two_requests(server):
    headers = server.headers | {"X-Request-Id": "the-same"}
    replies = [server.post(COMPLETIONS, GOOD, headers=headers) for _ in range(2)]
    assert [reply.headers["x-request-id"] for reply in replies] == ["the-same"] * 2
    assert len({reply.json()["id"] for reply in replies}) == 2
    assert len({reply.json()["choices"][0]["text"] for reply in replies}) == 1


def test_ids_that_no_log_should_hold(server):
    for value in ["x" * 5000, "a b", "a;b", '"']:
        response = server.post(COMPLETIONS, GOOD, headers=server.headers | {"X-Request-Id": value})
        assert response.status_code == 200 and response.headers["x-request-id"] not in ["", value]


def test_two_identical_requests_at_once(server):
    bodies = [GOOD | {"stream": True, "max_tokens": 12}] * 2
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(server.post(COMPLETIONS, body, stream=True)) for body in bodies]
        chunks = [list(events(response)) for response in open_ones]
    texts = {"".join(chunk["choices"][0]["text"] for chunk in of_one) for of_one in chunks}
    assert len(texts) == 1
    assert len({of_one[0]["id"] for of_one in chunks}) == 2
    server.becomes_idle()


def test_a_connection_serves_one_request_after_a_refusal(server):
    """What was refused does not spoil what comes after it on the same connection."""
    with requests.Session() as session:
        for _ in range(3):
            check_error(session.post(server.url + COMPLETIONS, json=completion(n=0), headers=server.headers, timeout=30), 400, "n")
            assert session.post(server.url + COMPLETIONS, json=GOOD, headers=server.headers, timeout=60).status_code == 200
    with server.socket() as connection:
        connection.sendall(post(b"not json") + post(json.dumps(GOOD).encode(), headers="Connection: close\r\n"))
        reply = read_all(connection)
    assert status_of(reply) == 400 and b"HTTP/1.1 200" in reply
