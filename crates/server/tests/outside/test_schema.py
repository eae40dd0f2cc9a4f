"""Generated requests against /openapi.json: no reply is a server's error, and each is what the schema says it is.

Bodies fit the schema or nearly do. They are the same ones in every run, so a failure comes again.
"""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from serving import ANSWER_SECONDS, Server

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.unsupported_method,
]
ROUTES = {
    "POST": ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"],
    "GET": [
        "/v1/models", "/v1/models/{id}", "/health", "/ready", "/version", "/server_info", "/model_info", "/metrics", "/openapi.json",
    ],
}
EXAMPLES = 100
CASES = [
    # Where nothing is sent, nothing can be wrong; of a model's name, everything that is none can be asked for.
    *[("GET", path, schemathesis.GenerationMode.POSITIVE) for path in ROUTES["GET"]],
    *[("POST", path, mode) for path in ROUTES["POST"] for mode in schemathesis.GenerationMode],
]


@pytest.fixture(scope="module")
def small():
    """A context of few tokens, as most requests that can be meant ask for all of it."""
    with Server(limits=("--max-model-len", "48", "--kv-cache-memory", "32MiB")) as server:
        yield server
        server.becomes_idle()
        server.complete("Once upon a time")


@pytest.fixture(scope="module")
def schema(small):
    return schemathesis.openapi.from_url(f"{small.url}/openapi.json")


@pytest.mark.parametrize("method, path, mode", CASES, ids=[f"{method} {path} {mode.value}" for method, path, mode in CASES])
def test_replies_are_what_the_schema_says(schema, method, path, mode):
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def check(case):
        if isinstance(case.body, dict) and "max_tokens" not in case.body:
            # What is said of a request is looked at here, not how much is generated.
            case.body["max_tokens"] = 2
        case.call_and_validate(checks=CHECKS, timeout=ANSWER_SECONDS)

    check()


@pytest.mark.parametrize("path, more", [
    ("/v1/completions", {"prompt": "Hi."}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi."}]}),
])
def test_streams_are_what_the_schema_says(schema, path, more):
    for fields in [{}, {"stream_options": {"include_usage": True}}, {"n": 2, "temperature": 1}]:
        case = schema[path]["POST"].Case(body={"stream": True, "max_tokens": 3} | more | fields, media_type="application/json")
        case.call_and_validate(checks=CHECKS, timeout=ANSWER_SECONDS)


def test_every_route_is_described(small):
    document = small.get("/openapi.json").json()
    found = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert found == {(method, path) for method in ROUTES for path in ROUTES[method]}
    assert all(operation["summary"] for operations in document["paths"].values() for operation in operations.values())
