"""OpenAI's own Python client."""

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from support import ENDLESS, HAIKU, TIMEOUT, Plant, ask_for


def connect(server):
    return OpenAI(base_url=f"{server.url}/v1", max_retries=0, timeout=TIMEOUT)


@pytest.fixture
def client(haiku):
    return connect(haiku)


def chat(client, messages=HAIKU, **more):
    return client.chat.completions.create(model="any", messages=messages, temperature=0, **more)


def test_models_are_listed(client, haiku):
    models = client.models.list().data
    assert [model.id for model in models] == [haiku.model]
    assert client.models.retrieve(haiku.model).object == "model"


def test_a_chat(client, haiku):
    answer = chat(client)
    [choice] = answer.choices
    assert "lantern" in choice.message.content and choice.message.content.count("\n") == 2
    assert (choice.finish_reason, choice.message.role, choice.index) == ("stop", "assistant", 0)
    assert answer.model == haiku.model and answer.object == "chat.completion"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    # The same conversation once more has its beginning in the cache.
    assert chat(client).choices[0].message.content == choice.message.content


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert not chunks[-1].choices and chunks[-2].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 5, "it came in one piece"
    assert all(chunk.usage is None for chunk in chat(client, stream=True))


def test_the_streaming_helper_accumulates(client):
    with client.chat.completions.stream(model="any", messages=HAIKU, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == chat(client).choices[0].message.content


def test_several_answers_and_seeds(client):
    def draw(seed):
        answer = client.chat.completions.create(model="any", messages=HAIKU, n=3, seed=seed, temperature=1.5)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = draw(7)
    assert len(set(first)) > 1 and draw(7) == first and draw(8) != first


def test_limits_stops_and_biases(client):
    whole = chat(client).choices[0].message.content
    cut = chat(client, max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3
    assert whole.startswith(cut.choices[0].message.content)
    stopped = chat(client, stop=["\n"]).choices[0]
    assert (stopped.finish_reason, stopped.message.content) == ("stop", whole.split("\n")[0])
    probable = chat(client, logprobs=True, top_logprobs=2, max_tokens=2).choices[0].logprobs.content
    assert len(probable) == 2 and all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in probable)
    assert probable[0].token == probable[0].top_logprobs[0].token


def test_logprobs_of_a_stream_are_those_of_the_answer(client):
    whole = chat(client, logprobs=True).choices[0].logprobs.content
    chunks = [chunk.choices[0] for chunk in chat(client, logprobs=True, stream=True)]
    streamed = [one for choice in chunks if choice.logprobs for one in choice.logprobs.content or []]
    assert [(one.token, one.logprob) for one in streamed] == [(one.token, one.logprob) for one in whole]


def test_parse_gives_what_the_schema_says(client):
    answer = client.chat.completions.parse(model="any", messages=HAIKU, response_format=Plant, temperature=0)
    assert isinstance(answer.choices[0].message.parsed, Plant)


def test_a_tool_that_must_be_called_is(tools):
    client, tools = connect(tools), [openai.pydantic_function_tool(Plant)]
    answer = client.chat.completions.parse(model="any", messages=HAIKU, tools=tools, tool_choice="required", temperature=0)
    [choice] = answer.choices
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.function.name == "Plant"
    assert isinstance(call.function.parsed_arguments, Plant)
    with client.chat.completions.stream(
        model="any", messages=HAIKU, tools=tools, tool_choice={"type": "function", "function": {"name": "Plant"}}, temperature=0
    ) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls[0].function.parsed_arguments == call.function.parsed_arguments
    # What the tool answered goes back into the conversation.
    messages = [*HAIKU, choice.message.model_dump(exclude={"parsed"}, exclude_none=True)]
    messages[1]["tool_calls"][0]["function"].pop("parsed_arguments", None)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "it grows"})
    assert chat(client, messages, tools=tools, max_tokens=5).usage.completion_tokens > 0


def test_completions(client):
    answer = client.completions.create(model="any", prompt=["the rain", "a lantern"], max_tokens=4, temperature=0, logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(len(choice.logprobs.tokens) == 4 for choice in answer.choices)
    chunks = client.completions.create(model="any", prompt="the rain", max_tokens=4, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == answer.choices[0].text


def test_embeddings(client):
    # This client asks for base64 unless told otherwise, and reads it.
    both = client.embeddings.create(model="any", input=["the rain", "a lantern swings"])
    assert [one.index for one in both.data] == [0, 1] and both.usage.prompt_tokens > 3
    [alone] = client.embeddings.create(model="any", input="the rain", encoding_format="float").data
    assert len(alone.embedding) == len(both.data[1].embedding) > 100
    assert alone.embedding == pytest.approx(both.data[0].embedding, abs=1e-6)
    assert sum(value * value for value in alone.embedding) == pytest.approx(1, abs=1e-4)


def test_responses(client, tools):
    whole = chat(client).choices[0].message.content
    answer = client.responses.create(model="any", input=HAIKU[0]["content"], temperature=0)
    assert answer.output_text == whole and answer.status == "completed"
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    with client.responses.stream(model="any", input=HAIKU, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == whole
    parsed = client.responses.parse(model="any", input=HAIKU, text_format=Plant, temperature=0)
    assert isinstance(parsed.output_parsed, Plant)
    client = connect(tools)
    tool = {"type": "function", "name": "Plant", "parameters": Plant.model_json_schema(), "strict": False}
    called = client.responses.create(model="any", input=HAIKU, tools=[tool], tool_choice="required", temperature=0)
    [call] = [item for item in called.output if item.type == "function_call"]
    Plant.model_validate_json(call.arguments)
    back = [*HAIKU, call.model_dump(exclude_none=True), {"type": "function_call_output", "call_id": call.call_id, "output": "it grows"}]
    assert client.responses.create(model="any", input=back, tools=[tool], temperature=0, max_output_tokens=5).status in ["completed", "incomplete"]


def test_an_error_names_the_field(client):
    cases = [
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"stop": 3}, "stop"),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "always"}, "tool_choice"),
        ({"messages": []}, "messages"),
    ]
    for more, param in cases:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**{"model": "any", "messages": HAIKU, **more})
        assert refused.value.param == param, (more, refused.value)
        assert refused.value.type == "invalid_request_error" and refused.value.request_id


def test_a_conversation_that_is_too_long_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, [{"role": "user", "content": "rain " * 3000}])
    assert refused.value.code == "context_length_exceeded", refused.value


def test_many_at_a_time_are_as_one_after_another(haiku):
    words = ["tin", "moon", "leaf", "stone"]

    async def all_at_once():
        async with AsyncOpenAI(base_url=f"{haiku.url}/v1", max_retries=0, timeout=TIMEOUT) as client:
            async def one(word):
                messages = [{"role": "user", "content": ask_for(word)}]
                stream = await client.chat.completions.create(model="any", messages=messages, temperature=0, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

            return await asyncio.gather(*map(one, words))

    together = asyncio.run(all_at_once())
    alone = [chat(connect(haiku), [{"role": "user", "content": ask_for(word)}]).choices[0].message.content for word in words]
    assert together == alone


def test_who_goes_away_frees_the_sequence(client, haiku):
    before = haiku.metric("generated_tokens_total")
    stream = chat(client, stream=True, extra_body=ENDLESS)
    for _, _ in zip(range(4), stream):
        pass
    assert haiku.metric("requests_running") == 1
    stream.close()
    haiku.wait_until_idle()
    assert haiku.metric("generated_tokens_total") - before < ENDLESS["max_tokens"], "it was written to its end"


def test_keys(serve):
    server = serve("--api-key", "secret")
    messages = {"model": "any", "messages": HAIKU, "max_tokens": 2}
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{server.url}/v1", api_key="secre").chat.completions.create(**messages)
    assert OpenAI(base_url=f"{server.url}/v1", api_key="secret").chat.completions.create(**messages).choices


def test_grammars_and_samplers_that_only_llama_cpp_has(client):
    answer = chat(client, extra_body={"grammar": 'root ::= "yes" | "no"'})
    assert answer.choices[0].message.content in ["yes", "no"]
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    answer = chat(client, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    assert list(json.loads(answer.choices[0].message.content)) == ["a"]
    assert chat(client, extra_body={"min_p": 0.1, "top_k": 5, "dry_multiplier": 0.5, "cache_prompt": True}).choices
