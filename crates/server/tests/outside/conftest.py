"""What the suites share: the server under test, the official client, and that nothing is held after a test."""

import os

import openai
import pytest
from serving import ANSWER_SECONDS, Server, Target


@pytest.fixture(scope="session")
def server():
    """The server at NXD_URL, or one of our own."""
    if url := os.environ.get("NXD_URL"):
        yield Target(url)
        return
    with Server() as own:
        yield own


@pytest.fixture(scope="session")
def model(server):
    return server.get("/v1/models").json()["data"][0]["id"]


@pytest.fixture(scope="session")
def client(server):
    """The official client, which refuses replies of another shape than it expects and repeats nothing."""
    return official_client(server.url)


@pytest.fixture
def idle(server):
    """Nothing is held before the test, nor after it."""
    server.becomes_idle()
    yield
    server.becomes_idle()


@pytest.fixture(scope="session")
def lenient_client(server):
    """For what the client's own types do not allow: in streams of completions, ends that have not come yet; embeddings in base64."""
    return official_client(server.url, strict=False)


def official_client(url, key="unused", kind=openai.OpenAI, strict=True):
    options = {"max_retries": 0, "timeout": ANSWER_SECONDS, "_strict_response_validation": strict}
    return kind(base_url=f"{url}/v1", api_key=key, **options)
