"""Clients that stand on OpenAI's: LangChain, Instructor, LiteLLM; and OpenAI's for JavaScript."""

import asyncio
import json
import pathlib
import subprocess
import sys

import anthropic
import instructor
import litellm
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI, OpenAI

from support import HAIKU, TIMEOUT, Plant, ask_for

QUESTION = HAIKU[0]["content"]


@pytest.fixture
def answer(haiku):
    """What the model answers, by the plainest way."""
    client = OpenAI(base_url=f"{haiku.url}/v1")
    return client.chat.completions.create(model="any", messages=HAIKU, temperature=0).choices[0].message.content


def langchain(server, **more):
    return ChatOpenAI(model="any", base_url=f"{server.url}/v1", temperature=0, max_retries=0, timeout=TIMEOUT, **more)


def test_langchain(haiku, answer):
    chat = langchain(haiku)
    said = chat.invoke(QUESTION)
    assert said.content == answer and said.usage_metadata["output_tokens"] > 5
    parts = list(chat.stream(QUESTION))
    assert len(parts) > 5 and "".join(part.text for part in parts) == answer
    assert [one.content for one in chat.batch([QUESTION, ask_for("tin"), QUESTION])][::2] == [answer, answer]
    assert asyncio.run(chat.ainvoke(QUESTION)).content == answer


def test_langchain_structured_output_and_tools(haiku, tools):
    assert isinstance(langchain(haiku).with_structured_output(Plant, method="json_schema").invoke(QUESTION), Plant)
    assert isinstance(langchain(tools).with_structured_output(Plant, method="function_calling", strict=True).invoke(QUESTION), Plant)

    @tool(args_schema=Plant)
    def plant(kind, is_wet, name):
        """Plants something."""
        return f"{name} grows"

    bound = langchain(tools).bind_tools([plant], tool_choice="any", strict=True)
    said = bound.invoke(QUESTION)
    [call] = said.tool_calls
    result = plant.invoke(call)
    assert isinstance(result, ToolMessage) and result.content.endswith(" grows")
    assert langchain(tools, max_completion_tokens=5).bind_tools([plant]).invoke([HumanMessage(QUESTION), said, result])


def test_langchain_embeddings(haiku):
    # Without the check it sends texts: with it, token ids of OpenAI's own vocabulary.
    embeddings = OpenAIEmbeddings(model="any", base_url=f"{haiku.url}/v1", check_embedding_ctx_length=False)
    [first, second] = embeddings.embed_documents(["the rain", "a lantern"])
    assert first != second and embeddings.embed_query("the rain") == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA])
def test_instructor(tools, mode):
    client = instructor.from_openai(OpenAI(base_url=f"{tools.url}/v1", timeout=TIMEOUT), mode=mode)
    plant = client.chat.completions.create(model="any", messages=HAIKU, response_model=Plant, max_retries=0, temperature=0)
    assert isinstance(plant, Plant)


def test_litellm(haiku, answer):
    asked = {"model": "openai/any", "api_base": f"{haiku.url}/v1", "messages": HAIKU, "temperature": 0, "num_retries": 0}
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content == answer and whole.usage.completion_tokens > 5
    chunks = list(litellm.completion(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer
    assert asyncio.run(litellm.acompletion(**asked)).choices[0].message.content == answer
    by_messages = litellm.completion(**{**asked, "model": "anthropic/any", "api_base": haiku.url})
    assert by_messages.choices[0].message.content == answer
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**{**asked, "n": 0})


def javascript(*arguments):
    """OpenAI's package for JavaScript, which `./x test-clients` puts beside this Python's own packages."""
    script = pathlib.Path(__file__).parent / "npm" / "openai.mjs"
    here = pathlib.Path(sys.prefix)
    done = subprocess.run([here / "bin" / "node", script, *arguments], cwd=here / "npm", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_javascript(haiku, tools, answer):
    said = javascript("ask", f"{haiku.url}/v1", QUESTION)
    assert said["whole"] == said["streamed"] == answer
    assert said["refused"] == {"status": 400, "param": "temperature"}
    said = javascript("parse", f"{tools.url}/v1", QUESTION)
    Plant.model_validate(said["parsed"])
    Plant.model_validate(said["called"])


def test_all_clients_hear_the_same_of_a_real_model(smollm2):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    url = f"{smollm2.url}/v1"
    asked = {"messages": question, "temperature": 0, "max_tokens": 6}

    async def asynchronous():
        stream = await AsyncOpenAI(base_url=url).chat.completions.create(model="any", stream=True, **asked)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    said = {
        "openai": OpenAI(base_url=url).chat.completions.create(model="any", **asked).choices[0].message.content,
        "openai, asynchronous": asyncio.run(asynchronous()),
        "anthropic": anthropic.Anthropic(base_url=smollm2.url)
        .messages.create(model="any", max_tokens=6, messages=question, extra_body={"temperature": 0})
        .content[0]
        .text,
        "langchain": langchain(smollm2, max_completion_tokens=6).invoke(question).content,
        "litellm": litellm.completion(model="openai/any", api_base=url, **asked).choices[0].message.content,
        "javascript": javascript("say", url, question[0]["content"])["whole"],
    }
    assert len(set(said.values())) == 1, said
    assert "capital" in said["openai"] or "Paris" in said["openai"], said
