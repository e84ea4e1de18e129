"""What a stream tells of its own end, however its bytes come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from starlette.types import Message

from arena_server.api.answer import Answer
from arena_server.api.token_counter import TokenCounter

CHAT = "/v1/chat/completions"
PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"event: error data: {\\"error\\":1}"}}]}\n\n'


async def outcome_of(*chunks: bytes) -> tuple[int, str | None]:
    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    answer = Answer(send, CHAT, TokenCounter(CHAT, stream=True))
    await answer.start(200, [(b"content-type", b"text/event-stream")], "alpha")
    for chunk in chunks:
        await answer.add(chunk)
    await answer.finish()
    assert b"".join(message.get("body", b"") for message in sent) == b"".join(chunks)
    return answer.outcome


@pytest.mark.parametrize(
    "error",
    [
        b'data: {"error":{"message":"no"}}\n\n',
        b'data:{"error": {"message":"no"}}\n\n',
        b'data: { "error" : "no"}\r\n\r\n',
        b'event: error\ndata: {"type":"error"}\n\n',
        b'event:error\r\ndata: {"type":"error"}\r\n\r\n',
    ],
)
async def test_an_engines_error_is_seen_wherever_it_is_cut(error: bytes) -> None:
    assert await outcome_of(PIECE, PIECE + error) == (500, "engine_refused")
    for at in range(1, len(error)):
        assert await outcome_of(PIECE, error[:at], error[at:]) == (500, "engine_refused"), error[:at]


async def test_what_a_model_writes_is_no_error() -> None:
    null = b'data: {"error":null,"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    stream = PIECE + null + b": event: error\n\n" + PIECE
    for size in (1, 10, 1000):
        cuts = [*range(0, len(stream), size), len(stream)]
        assert await outcome_of(*(stream[at:end] for at, end in pairwise(cuts))) == (200, None)
