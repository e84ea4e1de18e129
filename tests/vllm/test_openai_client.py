"""OpenAI's own client against the daemon's port, as applications use it."""

from __future__ import annotations

import asyncio

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.vllm.daemon import Daemon

MODEL = "tiny-llama"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        # A choice, because the demo models never saw JSON, and would not end a string.
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def client(daemon: Daemon) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="sk-none", max_retries=0)


@pytest.fixture
def async_client(daemon: Daemon) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="sk-none", max_retries=0)


def test_models_are_listed_with_their_aliases_and_retrieved(client: openai.OpenAI) -> None:
    with client:
        ids = [m.id for m in client.models.list()]
        assert ids == ["tiny-llama", "tiny-mistral", "tiny-qwen", "gpt-4o", "meta/llama"]
        assert client.models.retrieve("meta/llama").id == "meta/llama"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-5")


def test_a_chat_in_one_piece_and_streamed_with_usage(client: openai.OpenAI) -> None:
    with client:
        whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=12, temperature=0)
        assert whole.choices[0].message.content
        assert whole.usage is not None
        with client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_two_models_in_parallel_with_the_asynchronous_client(async_client: openai.AsyncOpenAI) -> None:
    async def ask(model: str) -> str:
        stream = await async_client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=12, stream=True, extra_body={"ignore_eos": True}
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async with async_client:
        texts = await asyncio.gather(ask("gpt-4o"), ask("tiny-mistral"))
    assert all(texts)


def test_responses_completions_and_tools_pass_through(client: openai.OpenAI) -> None:
    with client:
        assert client.responses.create(model=MODEL, input="Hello", max_output_tokens=16).output_text
        assert client.completions.create(model=MODEL, prompt="Hello", max_tokens=4).choices[0].text
        # vLLM answers a forced tool with a call of it (guided decoding): the tools arrived.
        answer = client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            max_tokens=200,
            temperature=0,
            frequency_penalty=2,  # or it would write blanks only, where JSON allows them
        )
        calls = answer.choices[0].message.tool_calls
        assert calls
        assert calls[0].type == "function"
        assert calls[0].function.name == "get_weather"


def test_errors_are_the_clients_typed_exceptions(client: openai.OpenAI) -> None:
    with client:
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="gpt-5", messages=MESSAGES)
        assert unknown.value.code == "model_not_found"
        assert unknown.value.param == "model"
        assert "tiny-qwen" in unknown.value.message
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=-5)
        with pytest.raises(openai.BadRequestError) as empty:
            client.chat.completions.create(model="", messages=MESSAGES)
        assert empty.value.param == "model"
        # What a client sends to be let in goes no further than the daemon, and vLLM does not ask for it.
        assert client.with_options(api_key="sk-other").models.list().data
