"""What is kept of usage, as plain values. Without SQLAlchemy, which takes half a second to import."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Used:
    """How much of something: `seconds` of answering, `cost_pico` in 1e-12 of the currency."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost_pico: int = 0

    def __add__(self, more: Used) -> Used:
        """Both."""
        return Used(
            self.requests + more.requests,
            self.prompt_tokens + more.prompt_tokens,
            self.completion_tokens + more.completion_tokens,
            self.seconds + more.seconds,
            self.cost_pico + more.cost_pico,
        )


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Whose usage of what, when: a day in UTC, a key's id (or ANONYMOUS), a model's configured name."""

    day: date
    key_id: str
    model: str


ANONYMOUS = "anonymous"


class By(StrEnum):
    """What usage is summed by."""

    KEY = "key"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Span:
    """Which usage is asked for; None: all. Both days are included."""

    since: date | None = None
    until: date | None = None
    key_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """The usage of one key (id), model or day (YYYY-MM-DD); `name` is that of a key in the store, as it was made."""

    of: str
    name: str | None
    used: Used
