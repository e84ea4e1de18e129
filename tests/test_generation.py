"""What is read of one event of an answer, also of servers that write what OpenAI's does not."""

from __future__ import annotations

from typing import Any

import pytest

from arena_server.arena.generation import Generation, Piece, _pieces


def chunk(delta: Any, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, **more}]}


@pytest.mark.parametrize(
    ("event", "pieces"),
    [
        (chunk({"content": "a"}), [Piece("a")]),
        (chunk({"reasoning": "b", "content": "a"}), [Piece("b", reasoning=True), Piece("a")]),
        (chunk({"reasoning_content": "b", "content": None}), [Piece("b", reasoning=True)]),
        (chunk({"content": [{"type": "text", "text": "a"}, {"text": "b"}, {"text": 3}, None]}), [Piece("ab")]),
        (chunk({"content": {"text": "a"}}), []),
        (chunk(None), []),
        (chunk("a"), []),
        ({"choices": [None, 3, {"delta": {"content": "a"}}]}, [Piece("a")]),
        ({"choices": None}, []),
        ({"choices": {"delta": {}}}, []),
        ({}, []),
    ],
)
def test_pieces(event: dict[str, Any], pieces: list[Piece]) -> None:
    generation = Generation()
    assert _pieces(event, generation) == pieces
    assert generation.tokens == (0, bool(pieces))


def test_counts_and_the_reason_of_the_end() -> None:
    generation = Generation()
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 10**30, "cached_tokens": -1, "a_tokens": True}
    _pieces({**chunk({"content": "a"}, finish_reason="stop"), "usage": usage}, generation)
    assert (generation.usage, generation.tokens) == ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4))
    _pieces(chunk({}, finish_reason=[]), generation)
    assert generation.finish_reason == "stop"
