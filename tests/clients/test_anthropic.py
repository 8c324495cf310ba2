"""Anthropic's Python client, at /v1/messages."""

import anthropic
import pytest

from support import HAIKU, TIMEOUT, Plant

TOOL = {"name": "Plant", "description": "Plants something.", "input_schema": Plant.model_json_schema()}


# The interface has it; this client's newest version has no name for it any more.
SURE = {"temperature": 0}


def connect(server):
    return anthropic.Anthropic(base_url=server.url, max_retries=0, timeout=TIMEOUT)


@pytest.fixture
def client(haiku):
    return connect(haiku)


def create(client, **more):
    return client.messages.create(**{"model": "any", "max_tokens": 60, "messages": HAIKU, "extra_body": SURE, **more})


def test_a_message(client, haiku):
    message = create(client)
    [block] = message.content
    assert block.type == "text" and "lantern" in block.text
    assert (message.role, message.stop_reason, message.model) == ("assistant", "end_turn", haiku.model)
    assert message.usage.input_tokens > 10 and message.usage.output_tokens > 5


def test_a_stream_says_what_the_whole_message_says(client):
    whole = create(client)
    with client.messages.stream(model="any", max_tokens=60, messages=HAIKU, extra_body=SURE) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens and final.stop_reason == "end_turn"
    kinds = [event.type for event in create(client, stream=True)]
    assert (kinds[0], kinds[1], kinds[-2:]) == ("message_start", "content_block_start", ["message_delta", "message_stop"])


def test_limits_and_stops(client):
    assert create(client, max_tokens=3).stop_reason == "max_tokens"
    stopped = create(client, stop_sequences=["\n"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "\n")


def test_systems_and_blocks(client):
    blocks = [{"role": "user", "content": [{"type": "text", "text": HAIKU[0]["content"]}]}]
    assert create(client, messages=blocks).content[0].text == create(client).content[0].text
    system = create(client, system="Be brief.")
    assert system.usage.input_tokens > create(client).usage.input_tokens
    assert create(client, system=[{"type": "text", "text": "Be brief."}]).content[0].text == system.content[0].text


def test_a_tool_that_must_be_used_is(tools):
    client = connect(tools)
    message = create(client, tools=[TOOL], tool_choice={"type": "any"}, max_tokens=200)
    [use] = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use" and use.name == "Plant"
    Plant.model_validate(use.input)
    with client.messages.stream(
        model="any", max_tokens=200, messages=HAIKU, extra_body=SURE, tools=[TOOL], tool_choice={"type": "tool", "name": "Plant"}
    ) as stream:
        [streamed] = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    assert streamed.input == use.input
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "it grows"}]}
    answer = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]}
    assert create(client, messages=[*HAIKU, answer, result], tools=[TOOL], max_tokens=5).stop_reason in ["end_turn", "max_tokens"]


def test_tokens_are_counted_as_they_are_used(client):
    count = client.messages.count_tokens(model="any", messages=HAIKU)
    assert count.input_tokens == create(client).usage.input_tokens


def test_an_error_is_anthropics(client):
    with pytest.raises(anthropic.BadRequestError) as refused:
        create(client, extra_body={"temperature": -1})
    assert refused.value.body["error"]["type"] == "invalid_request_error" and "temperature" in str(refused.value)
