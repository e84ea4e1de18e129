"""The daemon's streamed answers: events with JSON, and the comments between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from arena_server.console.api import BadAnswer
from arena_server.console.events import messages

LAST = "[DONE]"  # OpenAI's streams end with it


def replies(lines: Iterable[str], told: Callable[[str], None] = lambda _: None) -> Iterator[tuple[str, Any]]:
    """Names and data of the events; `told` is called with each comment. OpenAI's last event has None.

    Raises BadAnswer where the data is no JSON.
    """
    for name, data in messages(_without_comments(lines, told)):
        if data == LAST:
            yield name, None
            continue
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise BadAnswer("the daemon's stream is not of JSON (is this an arena-server?)") from e
        yield name, value


def _without_comments(lines: Iterable[str], told: Callable[[str], None]) -> Iterator[str]:
    for line in lines:
        if line.startswith(":"):
            told(line.removeprefix(":").strip())
        else:
            yield line
