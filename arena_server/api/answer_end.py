"""How a model's answer ended, as the answer itself tells: well and whole, or in a failure or half-way."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from arena_server.api.relay import RESPONSES_PATH

MESSAGES_PATH = "/v1/messages"
# Where a model writes an answer, whole or as a stream of events.
GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", RESPONSES_PATH, MESSAGES_PATH})

# An engine that was made to give up says so in an answer that is else good. (Within JSON's texts quotes are escaped.)
GIVEN_UP = re.compile(rb'"(finish|stop)_reason"\s*:\s*"(abort|error)"')
TELLS_ERROR = re.compile(rb'^(event:\s*error\s*$|data:\s*\{\s*"error"\s*:\s*[^\sn])', re.MULTILINE)
# The type of the last event of a good stream. OpenAI's older routes have a mark of their own.
LAST_EVENTS = {RESPONSES_PATH: "response.completed", MESSAGES_PATH: "message_stop"}
DONE = b"[DONE]"


class _Choice(BaseModel):
    finish_reason: str | None = ""


class _Whole(BaseModel):
    """What tells whether a whole answer is a good one, of any route."""

    error: Any = None
    status: Any = None
    choices: list[_Choice] = []
    stop_reason: Any = None


class _Event(BaseModel):
    """The last of a stream."""

    type: str
    response: _Whole = _Whole()


def is_good_whole(route: str, body: bytes) -> bool:
    """Whether an answer in one piece is an answer to its end, and no failure told with status 200."""
    try:
        answer = _Whole.model_validate_json(body)
    except ValidationError:
        return False
    reasons = [answer.stop_reason or "", *(choice.finish_reason for choice in answer.choices)]
    given_up = any(reason in (None, "abort", "error") for reason in reasons)
    return answer.error is None and not given_up and (route != RESPONSES_PATH or answer.status == "completed")


def is_good_stream(route: str, body: bytes) -> bool:
    """Whether it has come to its proper end, which a server that fails or is cut off from its model never sends."""
    if GIVEN_UP.search(body) or TELLS_ERROR.search(body):
        return False
    lines = (line.removeprefix(b"data:").strip() for line in reversed(body.splitlines()) if line.startswith(b"data:"))
    last = next(lines, b"")
    if route not in LAST_EVENTS:
        return last == DONE
    if last == DONE:  # some servers put it after other dialects' ends, too
        last = next(lines, b"")
    try:
        event = _Event.model_validate_json(last)
    except ValidationError:
        return False
    completed = route != RESPONSES_PATH or event.response.status == "completed"
    return event.type == LAST_EVENTS[route] and completed
