"""The official client, which checks every reply against its own types, and errors as its classes."""

import asyncio
import base64
import json
import math
import struct

import jsonschema
import openai
import pytest
from conftest import official_client
from serving import Server

STORY = "Once upon a time there was a small boat"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"zone": {"enum": ["utc", "cet"]}}, "required": ["zone"],
                       "additionalProperties": False},
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
                   "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}},
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def complete(client, lenient_client, model):
    """A greedy completion of few tokens, unless the test says otherwise."""
    def call(prompt=STORY, **more):
        chosen = lenient_client if more.get("stream") else client
        return chosen.completions.create(**{"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 0} | more)

    return call


@pytest.fixture
def chat(client, model):
    def call(text="Name a colour.", **more):
        messages = user(text) if isinstance(text, str) else text
        options = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}
        return client.chat.completions.create(**options | more)

    return call


class TestModels:
    def test_the_served_model_is_listed_and_found(self, client, model):
        listed = client.models.list().data
        assert model in [entry.id for entry in listed]
        found = client.models.retrieve(model)
        assert (found.id, found.object) == (model, "model")
        assert found.created > 0
        assert found.max_model_len > 0

    def test_another_model_is_not_found(self, client, complete, chat):
        for call in [lambda: client.models.retrieve("other"), lambda: complete(model="other"), lambda: chat(model="other")]:
            with pytest.raises(openai.NotFoundError) as raised:
                call()
            assert raised.value.code == "model_not_found"


class TestCompletions:
    def test_prompts_may_be_text_or_ids_or_lists_of_them(self, server, complete):
        ids = server.tokens(STORY)
        other = "The capital of France is"
        alone = complete()
        assert complete(ids).choices[0].text == alone.choices[0].text
        texts = [alone.choices[0].text, complete(other).choices[0].text]
        for prompts in [[STORY, other], [ids, server.tokens(other)]]:
            both = complete(prompts)
            assert [choice.index for choice in both.choices] == [0, 1]
            assert [choice.text for choice in both.choices] == texts
            assert both.usage.prompt_tokens == len(ids) + len(server.tokens(other))
            assert both.usage.completion_tokens == 12

    def test_usage_counts_what_tokenize_counts(self, server, complete):
        done = complete(max_tokens=5, extra_body={"ignore_eos": True})
        assert done.object == "text_completion"
        assert done.usage.prompt_tokens == len(server.tokens(STORY))
        assert done.usage.completion_tokens == 5
        assert done.usage.total_tokens == done.usage.prompt_tokens + 5
        assert done.choices[0].finish_reason == "length"

    def test_max_tokens_is_sixteen_unless_said(self, client, model):
        done = client.completions.create(model=model, prompt=STORY, extra_body={"ignore_eos": True})
        assert done.usage.completion_tokens == 16

    def test_choices_of_one_prompt_differ_and_stand_in_order(self, complete):
        done = complete([STORY, "My name is"], n=3, temperature=1.5, seed=5, max_tokens=8)
        assert [choice.index for choice in done.choices] == list(range(6))
        assert len({choice.text for choice in done.choices[:3]}) == 3
        assert len({choice.text for choice in done.choices[3:]}) == 3

    def test_choices_stream_with_their_index(self, complete):
        options = {"n": 3, "temperature": 1.5, "seed": 5, "max_tokens": 8}
        whole = [choice.text for choice in complete(**options).choices]
        texts, ends = [""] * 3, [0] * 3
        for chunk in complete(stream=True, **options):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                ends[choice.index] += choice.finish_reason is not None
        assert texts == whole
        assert ends == [1, 1, 1]

    @pytest.mark.parametrize("top", [0, 1, 5])
    def test_logprobs_stand_beside_the_tokens(self, complete, top):
        choice = complete(logprobs=top).choices[0]
        probs = choice.logprobs
        assert len(probs.tokens) == len(probs.token_logprobs) == len(probs.top_logprobs) == len(probs.text_offset) == 6
        assert "".join(probs.tokens) == choice.text
        assert all(prob <= 0 for prob in probs.token_logprobs)
        offsets = [sum(len(token) for token in probs.tokens[:at]) for at in range(6)]
        assert probs.text_offset == offsets
        for token, prob, most_likely in zip(probs.tokens, probs.token_logprobs, probs.top_logprobs):
            assert max(top, 1) <= len(most_likely) <= top + 1
            assert most_likely[token] == prob
            assert prob == max(most_likely.values()), "greedy takes the most likely one"

    def test_no_logprobs_unless_asked_for(self, complete):
        assert complete().choices[0].logprobs is None

    def test_echo_repeats_the_prompt_with_its_logprobs(self, server):
        # The client's own types do not allow the null that stands for the first token, so this is read as JSON.
        ids = server.tokens(STORY)
        done = server.complete(STORY, echo=True, logprobs=2, max_tokens=4)
        choice = done["choices"][0]
        probs = choice["logprobs"]
        assert choice["text"] == STORY + server.complete(STORY, max_tokens=4)["choices"][0]["text"]
        assert "".join(probs["tokens"]) == choice["text"]
        assert len(probs["tokens"]) == len(ids) + 4
        assert probs["token_logprobs"][0] is None
        assert probs["top_logprobs"][0] is None
        assert all(prob <= 0 for prob in probs["token_logprobs"][1:])
        alone = server.complete(STORY, echo=True, logprobs=2, max_tokens=0)
        assert alone["choices"][0]["text"] == STORY
        assert alone["choices"][0]["logprobs"]["token_logprobs"] == probs["token_logprobs"][: len(ids)]
        assert alone["usage"]["completion_tokens"] == 0

    def test_echo_without_logprobs(self, complete):
        assert complete(echo=True).choices[0].text == STORY + complete().choices[0].text

    def test_the_logprobs_of_an_answer_are_those_of_the_same_text_as_a_prompt(self, server):
        ids = server.tokens(STORY)
        first = server.complete(ids, logprobs=0, max_tokens=6, return_token_ids=True)["choices"][0]
        both = ids + first["token_ids"]
        again = server.complete(both, echo=True, logprobs=0, max_tokens=0)["choices"][0]
        assert again["logprobs"]["token_logprobs"][len(ids):] == pytest.approx(first["logprobs"]["token_logprobs"], abs=1e-3)

    def test_a_stop_ends_the_text_before_it(self, complete):
        whole = complete(max_tokens=24, extra_body={"ignore_eos": True}).choices[0].text
        stop = whole[len(whole) // 2: len(whole) // 2 + 3]
        for stops in [stop, ["never said", stop]]:
            choice = complete(max_tokens=24, stop=stops, extra_body={"ignore_eos": True}).choices[0]
            assert choice.text == whole[: whole.index(stop)]
            assert choice.finish_reason == "stop"
            assert choice.stop_reason == stop
        kept = complete(max_tokens=24, stop=stop, extra_body={"include_stop_str_in_output": True, "ignore_eos": True})
        assert kept.choices[0].text == whole[: whole.index(stop) + len(stop)]

    def test_no_part_of_a_stop_is_streamed(self, complete):
        whole = complete(max_tokens=24, extra_body={"ignore_eos": True}).choices[0].text
        stop = whole[len(whole) // 2: len(whole) // 2 + 7]
        chunks = complete(max_tokens=24, stop=stop, stream=True, extra_body={"ignore_eos": True})
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole[: whole.index(stop)]

    def test_a_stop_id_ends_the_answer(self, server, complete):
        tokens = server.complete(STORY, max_tokens=6, return_token_ids=True)["choices"][0]["token_ids"]
        wanted = tokens[3]
        choice = complete(extra_body={"stop_token_ids": [wanted]}).choices[0]
        assert choice.finish_reason == "stop"
        assert choice.stop_reason == wanted

    def test_one_seed_gives_one_answer_and_others_give_others(self, complete):
        options = {"temperature": 1.0, "max_tokens": 8}
        texts = {complete(seed=11, **options).choices[0].text for _ in range(4)}
        assert len(texts) == 1
        assert len({complete(seed=seed, **options).choices[0].text for seed in range(4)}) > 1
        assert len({complete(**options).choices[0].text for _ in range(4)}) > 1, "without a seed, answers vary"

    def test_a_stream_is_the_whole_answer_in_parts(self, complete):
        options = {"max_tokens": 16, "temperature": 0.8, "seed": 3}
        whole = complete(**options)
        chunks = list(complete(stream=True, **options))
        assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
        assert chunks[0].object == "text_completion"
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons[-1] == whole.choices[0].finish_reason
        assert not any(reasons[:-1])
        assert chunks[-1].choices[0].text, "the last text comes with the reason"
        assert all(chunk.usage is None for chunk in chunks)

    def test_streamed_logprobs_are_those_of_the_whole_answer(self, complete):
        whole = complete(logprobs=2).choices[0].logprobs
        parts = [chunk.choices[0].logprobs for chunk in complete(logprobs=2, stream=True) if chunk.choices[0].logprobs]
        for name in ["tokens", "token_logprobs", "text_offset", "top_logprobs"]:
            assert [entry for part in parts for entry in getattr(part, name)] == getattr(whole, name)

    def test_a_stream_reports_usage_as_it_is_asked_to(self, server, complete):
        for options in [{}, {"include_usage": False}, {"include_usage": False, "continuous_usage_stats": True}]:
            assert all(chunk.usage is None for chunk in complete(stream=True, stream_options=options))
        *chunks, last = complete(stream=True, stream_options={"include_usage": True})
        assert last.choices == []
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (len(server.tokens(STORY)), 6)
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)
        options = {"include_usage": True, "continuous_usage_stats": True}
        *chunks, last = complete(stream=True, stream_options=options)
        counts = [chunk.usage.completion_tokens for chunk in chunks]
        assert counts == sorted(counts) and counts[-1] == last.usage.completion_tokens == 6
        with pytest.raises(openai.BadRequestError) as raised:
            complete(stream_options={"include_usage": True})
        assert raised.value.param == "stream_options"

    def test_penalties_and_bias_change_the_answer(self, server, complete):
        first = server.complete(STORY, max_tokens=1, return_token_ids=True)["choices"][0]["token_ids"][0]
        banned = server.complete(STORY, max_tokens=1, return_token_ids=True, logit_bias={str(first): -100})
        assert banned["choices"][0]["token_ids"][0] != first
        forced = complete(max_tokens=3, logit_bias={"120": 100}, logprobs=0).choices[0].logprobs
        assert len(set(forced.tokens)) == 1
        only = server.complete(STORY, max_tokens=3, return_token_ids=True, allowed_token_ids=[120, 130])
        assert set(only["choices"][0]["token_ids"]) <= {120, 130}
        varied = complete(max_tokens=8, logit_bias={"120": 6, "130": 6}, frequency_penalty=2, presence_penalty=2)
        assert varied.usage.completion_tokens <= 8

    def test_a_prompt_can_be_cut_from_either_end(self, server):
        ids = server.tokens(STORY)
        for side, kept in [("left", ids[-4:]), ("right", ids[:4])]:
            cut = server.complete(STORY, truncate_prompt_tokens=4, truncation_side=side, return_token_ids=True)
            assert cut["usage"]["prompt_tokens"] == 4
            assert cut["choices"][0]["prompt_token_ids"] == kept

    def test_the_prompts_own_logprobs(self, server):
        ids = server.tokens(STORY)
        probs = server.complete(STORY, prompt_logprobs=1, max_tokens=1)["choices"][0]["prompt_logprobs"]
        assert len(probs) == len(ids) and probs[0] is None
        for token, entry in zip(ids[1:], probs[1:]):
            assert entry[str(token)]["logprob"] <= 0
            assert isinstance(entry[str(token)]["decoded_token"], str)

    def test_text_outside_ascii_is_whole_in_every_chunk(self, complete):
        prompt = "日本語 é 🎉 日本語 é 🎉 日本語 é 🎉 日本"
        whole = complete(prompt, max_tokens=12).choices[0].text
        chunks = [chunk.choices[0].text for chunk in complete(prompt, max_tokens=12, stream=True)]
        assert "".join(chunks) == whole
        assert "\ufffd" not in "".join(chunks[:-1])


class TestChat:
    def test_an_answer(self, server, chat):
        done = chat()
        choice = done.choices[0]
        assert done.object == "chat.completion" and done.id.startswith("chatcmpl-")
        assert (choice.index, choice.message.role) == (0, "assistant")
        assert choice.message.content
        count = server.answer("/tokenize", {"messages": user("Name a colour.")})["count"]
        assert done.usage.prompt_tokens == count
        assert done.usage.total_tokens == count + done.usage.completion_tokens

    def test_a_stream_opens_with_the_role_and_closes_with_the_reason(self, chat):
        whole = chat()
        chunks = list(chat(stream=True))
        first, last = chunks[0].choices[0], chunks[-1].choices[0]
        assert first.delta.role == "assistant" and not first.delta.content
        assert last.finish_reason == whole.choices[0].finish_reason
        assert last.delta.content is None, "the reason comes in a chunk of its own"
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert sum(chunk.choices[0].delta.role is not None for chunk in chunks) == 1
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1

    def test_usage_in_a_stream(self, chat):
        whole = chat()
        *chunks, last = chat(stream=True, stream_options={"include_usage": True})
        assert last.choices == []
        assert last.usage == whole.usage
        assert all(chunk.usage is None for chunk in chunks)

    @pytest.mark.parametrize("top", [None, 0, 3])
    def test_logprobs_spell_the_answer(self, chat, top):
        more = {} if top is None else {"top_logprobs": top}
        choice = chat(logprobs=True, **more).choices[0]
        content = choice.logprobs.content
        raw = b"".join(bytes(entry.bytes) for entry in content)
        # The token that ends the text has log-probabilities too, and is not part of the text.
        assert raw.decode().startswith(choice.message.content)
        assert "".join(entry.token for entry in content).startswith(choice.message.content)
        for entry in content:
            assert entry.logprob <= 0
            assert len(entry.top_logprobs) == (top or 0)
            if top:
                assert entry.top_logprobs[0].logprob == entry.logprob, "greedy takes the most likely one"
        streamed = [part for chunk in chat(logprobs=True, stream=True, **more) if chunk.choices[0].logprobs
                    for part in chunk.choices[0].logprobs.content]
        assert streamed == content

    def test_choices_and_seeds(self, chat):
        options = {"n": 3, "temperature": 1.5, "seed": 9, "max_tokens": 10}
        done = chat(**options)
        texts = [choice.message.content for choice in done.choices]
        assert [choice.index for choice in done.choices] == [0, 1, 2]
        assert len(set(texts)) == 3
        assert [choice.message.content for choice in chat(**options).choices] == texts
        streamed = [""] * 3
        for chunk in chat(stream=True, **options):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        assert streamed == texts

    def test_roles_and_parts(self, chat):
        parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "yes."}]
        for messages in [
            [{"role": "system", "content": "Be brief."}, *user("Hi.")],
            [{"role": "developer", "content": "Be brief."}, *user("Hi.")],
            [*user("Hi."), {"role": "assistant", "content": "Hello."}, *user("Again.")],
            [{"role": "user", "content": parts}],
        ]:
            assert chat(messages, max_tokens=2).choices[0].message.role == "assistant"

    def test_the_newer_name_of_max_tokens_wins(self, chat):
        done = chat(max_completion_tokens=3, max_tokens=7, extra_body={"ignore_eos": True})
        assert done.usage.completion_tokens == 3

    def test_a_schema_is_held_to(self, chat):
        format = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
        for seed in range(3):
            more = {"response_format": format, "max_tokens": 120, "temperature": 1.0, "seed": seed}
            choice = chat("Describe a person as JSON.", **more).choices[0]
            assert choice.finish_reason == "stop"
            jsonschema.validate(json.loads(choice.message.content), PERSON)
            if not seed:
                chunks = chat("Describe a person as JSON.", stream=True, **more)
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                assert text == choice.message.content

    def test_any_object(self, chat):
        more = {"response_format": {"type": "json_object"}, "max_tokens": 60, "temperature": 0.7, "seed": 1}
        choice = chat("A short JSON object with one field.", **more).choices[0]
        assert choice.message.content.startswith("{")
        assert "\n" not in choice.message.content
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)

    def test_vllms_own_constraints(self, chat):
        one = chat("Yes or no?", extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
        assert one.choices[0].message.content in ["yes", "no"]
        date = chat("A date.", max_tokens=24, extra_body={"guided_regex": r"[0-9]{4}-[0-9]{2}"})
        assert len(date.choices[0].message.content) == 7


class TestTools:
    def test_a_named_function_is_called(self, chat):
        choice = {"type": "function", "function": {"name": "get_weather"}}
        more = {"tools": [WEATHER, CLOCK], "tool_choice": choice, "max_tokens": 96}
        done = chat("The weather in Paris?", **more).choices[0]
        [call] = done.message.tool_calls
        assert call.type == "function" and call.id and call.function.name == "get_weather"
        jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
        assert not done.message.content
        assert self.assembled(chat("The weather in Paris?", stream=True, **more)) == [
            (call.function.name, call.function.arguments)
        ]

    def test_some_function_is_called_when_one_has_to_be(self, chat):
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in [WEATHER, CLOCK]}
        more = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 96}
        done = chat("What time is it?", **more).choices[0]
        assert done.finish_reason in ["tool_calls", "stop"]
        [call] = done.message.tool_calls
        jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
        assert self.assembled(chat("What time is it?", stream=True, **more)) == [
            (call.function.name, call.function.arguments)
        ]

    def test_the_model_may_choose_where_it_is_known_how_it_writes_calls(self, chat):
        with pytest.raises(openai.BadRequestError) as raised:
            chat("Hello!", tools=[WEATHER])
        assert raised.value.param == "tool_choice" and "--tool-call-parser" in raised.value.message
        with Server("--tool-call-parser", "hermes") as other:
            create = official_client(other.url).chat.completions.create
            for text in ["Hello!", 'Write exactly this: <tool_call>{"name": "get_time", "arguments": {"zone": "utc"}}</tool_call>']:
                more = {"model": "demo", "messages": user(text), "temperature": 0, "max_tokens": 40, "tools": [CLOCK]}
                done = create(**more).choices[0]
                chunks = list(create(stream=True, **more))
                written = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                assert written == (done.message.content or "")
                calls = [(call.function.name, call.function.arguments) for call in done.message.tool_calls or []]
                assert self.assembled(chunks, done.finish_reason) == calls
                assert written or calls
                assert "<tool_call>" not in written

    def test_no_function_is_called_when_none_may_be(self, chat):
        done = chat("The weather in Paris?", tools=[WEATHER], tool_choice="none").choices[0]
        assert not done.message.tool_calls and done.message.content

    def test_results_of_functions_are_read(self, chat):
        call = {"id": "call_1", "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "celsius"}'}}
        messages = [
            *user("The weather in Paris?"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"},
        ]
        for more in [{}, {"tools": [WEATHER], "tool_choice": "none"}]:
            assert chat(messages, **more).choices[0].message.role == "assistant"

    @staticmethod
    def assembled(chunks, reason=None):
        """The calls of a stream, put together as clients do it."""
        calls, reasons = {}, []
        for chunk in chunks:
            for choice in chunk.choices:
                for part in choice.delta.tool_calls or []:
                    if part.index in calls:
                        assert part.id is None, "the id comes once"
                        assert not (part.function and part.function.name), "the name comes once"
                        calls[part.index][1].append(part.function.arguments or "")
                    else:
                        assert part.id and part.type == "function" and part.function.name
                        calls[part.index] = (part.function.name, [part.function.arguments or ""])
                if choice.finish_reason:
                    reasons.append(choice.finish_reason)
        assert len(reasons) == 1 and reasons[0] in ([reason] if reason else ["tool_calls", "stop"])
        assert sorted(calls) == list(range(len(calls)))
        return [(name, "".join(parts)) for _, (name, parts) in sorted(calls.items())]


class TestEmbeddings:
    def test_rows_are_normalised_and_repeatable(self, server, client, model):
        texts = ["a boat on the sea", "a ship on the ocean"]
        done = client.embeddings.create(model=model, input=texts, encoding_format="float")
        assert [entry.index for entry in done.data] == [0, 1]
        assert done.usage.prompt_tokens == sum(len(server.tokens(text)) for text in texts)
        for entry, text in zip(done.data, texts):
            assert math.sqrt(sum(x * x for x in entry.embedding)) == pytest.approx(1, abs=1e-5)
            alone = client.embeddings.create(model=model, input=text, encoding_format="float")
            assert alone.data[0].embedding == entry.embedding, "the same bits alone as beside another"
        ids = client.embeddings.create(model=model, input=server.tokens(texts[0]), encoding_format="float")
        assert ids.data[0].embedding == done.data[0].embedding

    def test_base64_holds_the_same_numbers(self, server, client, lenient_client, model):
        floats = client.embeddings.create(model=model, input="a boat", encoding_format="float").data[0].embedding
        coded = server.answer("/v1/embeddings", {"input": "a boat", "encoding_format": "base64"})["data"][0]["embedding"]
        raw = base64.b64decode(coded, validate=True)
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(floats, abs=1e-7)
        # The client asks for base64 by itself, and decodes it after it has checked the reply against the type of what it decodes to.
        decoded = lenient_client.embeddings.create(model=model, input="a boat").data[0].embedding
        assert decoded == pytest.approx(floats, abs=1e-7)


class TestErrors:
    def test_what_cannot_be_meant_is_a_bad_request(self, complete, chat):
        for call, param in [
            (lambda: complete(max_tokens=-1), "max_tokens"),
            (lambda: complete(""), "prompt"),
            (lambda: complete(temperature=-1), "temperature"),
            (lambda: chat([]), "messages"),
            (lambda: chat(top_logprobs=3), "top_logprobs"),
        ]:
            with pytest.raises(openai.BadRequestError) as raised:
                call()
            assert raised.value.param == param
            assert raised.value.type == "invalid_request_error"

    def test_too_long_a_prompt_has_its_own_code(self, complete):
        for more in [{"prompt": "word " * 9000}, {"max_tokens": 100_000}]:
            with pytest.raises(openai.BadRequestError) as raised:
                complete(**more)
            assert raised.value.code == "context_length_exceeded"

    def test_keys(self):
        with Server(key="sesame") as guarded:
            assert official_client(guarded.url, "sesame").models.list().data
            for key in ["wrong", "sesam", "sesame2"]:
                with pytest.raises(openai.AuthenticationError) as raised:
                    official_client(guarded.url, key).models.list()
                assert raised.value.code == "invalid_api_key"


def test_many_at_once_from_an_asynchronous_client(server, model):
    """Each of sixteen gets what it gets alone, streaming or not."""
    prompts = [f"{STORY} number {number}, which" for number in range(16)]

    async def ask(client, prompt, stream):
        options = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0.9, "seed": 1}
        if not stream:
            return (await client.completions.create(**options)).choices[0].text
        chunks = await client.completions.create(stream=True, **options)
        return "".join([chunk.choices[0].text async for chunk in chunks])

    async def ask_all():
        async with official_client(server.url, kind=openai.AsyncOpenAI, strict=False) as client:
            asked = [ask(client, prompt, number % 2 == 0) for number, prompt in enumerate(prompts)]
            return await asyncio.gather(*asked), [await ask(client, prompt, False) for prompt in prompts[:4]]

    together, alone = asyncio.run(ask_all())
    assert all(together)
    assert together[:4] == alone
