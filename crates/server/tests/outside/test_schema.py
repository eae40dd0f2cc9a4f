"""Generated requests against /openapi.json: no reply is a server's error, and each is what the schema says it is.

Bodies fit the schema or nearly do. They are the same ones in every run, so a failure comes again.
"""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
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
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/tokenize", "/detokenize", "/health", "/ready", "/version",
    "/metrics", "/openapi.json",
}


@pytest.fixture(scope="module")
def small():
    """A context of few tokens, as most requests that can be meant ask for all of it."""
    with Server(limits=("--max-model-len", "48", "--kv-cache-memory", "32MiB")) as server:
        yield server
        server.becomes_idle()
        server.complete("Once upon a time")


@pytest.fixture
def described(small):
    return schemathesis.openapi.from_url(f"{small.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_replies_are_what_the_schema_says(case):
    if isinstance(case.body, dict) and "max_tokens" not in case.body:
        # What is said of a request is looked at here, not how much is generated.
        case.body["max_tokens"] = 2
    case.call_and_validate(checks=CHECKS, timeout=ANSWER_SECONDS)


def test_every_route_is_described(small):
    document = small.get("/openapi.json").json()
    assert ROUTES <= document["paths"].keys()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
