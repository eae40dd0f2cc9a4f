"""Calls that a model makes of its own accord: free where they are advice, held to their schema where the request says so."""

import json

import pytest
from serving import Server

CALL = '<tool_call>\n{"name": "lamp", "arguments": {"state": "on", "place": "attic"}}\n</tool_call>'
ASK = {"role": "user", "content": "Turn the attic lamp on."}
# A conversation that any model continues with the same call once more, of a function that is not offered.
MESSAGES = [ASK, {"role": "assistant", "content": CALL}, ASK, {"role": "assistant", "content": CALL}, ASK]
PARAMETERS = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "room": {"enum": ["kitchen", "hall"]}},
    "required": ["on", "room"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def hermes():
    with Server("--tool-call-parser", "hermes") as server:
        yield server
        server.becomes_idle()


def body(strict):
    function = {"name": "light", "parameters": PARAMETERS, "strict": strict}
    return {"messages": MESSAGES, "tools": [{"type": "function", "function": function}], "max_tokens": 60, "temperature": 0}


def test_a_strict_function_is_called_as_its_schema_says(hermes):
    choice = hermes.answer("/v1/chat/completions", body(strict=True))["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    [call] = choice["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert call["function"]["name"] == "light"
    assert arguments.keys() == {"on", "room"}
    assert isinstance(arguments["on"], bool) and arguments["room"] in ["kitchen", "hall"]
    chunks = list(hermes.stream("/v1/chat/completions", body(strict=True)))
    deltas = [delta for chunk in chunks for delta in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call["function"]["arguments"]


def test_what_is_not_strict_is_written_as_the_model_likes(hermes):
    choice = hermes.answer("/v1/chat/completions", body(strict=False))["choices"][0]
    assert choice["message"]["content"].startswith("<tool_call>"), "a call of a function that is not there is text"
    assert "tool_calls" not in choice["message"]


def test_text_without_a_call_stays_as_it_is(hermes):
    told = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 24, "temperature": 0}
    said = [hermes.answer("/v1/chat/completions", body(strict) | told)["choices"][0]["message"] for strict in (True, False)]
    assert said[0] == said[1] and said[0]["content"]
