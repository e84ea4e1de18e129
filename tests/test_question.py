"""What an engine is sent of a request's body."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arena_server.api.body import ask_of
from arena_server.api.question import Question
from arena_server.engine.base import Engine

JSON = "application/json"
EACH = {"continuous_usage_stats": True}
TOLD = {"include_usage": True}


@pytest.mark.parametrize(
    ("options", "local", "remote"),
    [
        (None, {**TOLD, **EACH}, TOLD),
        ({"include_usage": False}, {**TOLD, **EACH}, TOLD),
        ({"include_obfuscation": False, "x": 1}, {**TOLD, **EACH, "include_obfuscation": False, "x": 1}, None),
        ({**TOLD, **EACH}, {**TOLD, **EACH}, {**TOLD, **EACH}),
        (EACH, {**TOLD, **EACH}, TOLD),
        (3, 3, 3),
    ],
)
async def test_counts_are_asked_for_and_what_else_a_client_asks_of_its_stream_goes_on(
    options: Any, local: Any, remote: Any
) -> None:
    body = json.dumps({"model": "m", "stream": True, "stream_options": options}).encode()
    question = Question("/v1/chat/completions", "", [], body, JSON, ask_of(body, JSON), True)

    async def sent(*, to_remote: bool) -> Any:
        engine = cast(Engine, SimpleNamespace(served_name="m", remote=to_remote))
        return json.loads(await question.body_for(engine))["stream_options"]

    assert await sent(to_remote=False) == local
    assert await sent(to_remote=True) == (remote or {"include_usage": True, "include_obfuscation": False, "x": 1})
