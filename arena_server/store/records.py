"""What is kept of battles and votes, as plain values. Times of day in UTC, durations in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Vote(StrEnum):
    """What a person may say of two answers."""

    A = "a"
    B = "b"
    TIE = "tie"
    BOTH_BAD = "both_bad"


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A side's model as it was configured: vLLM's `model`, its `revision` if one is set, and all its arguments."""

    name: str
    model: str
    revision: str | None
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """How one side answered in one turn.

    `residency` is where the model was when it was asked (awake, asleep or cold), `waited_s` the time until it was
    awake, `ttft_s` from then to the first text. `text` and `reasoning` are None where texts are not kept.
    """

    residency: str
    waited_s: float
    ttft_s: float | None
    tokens_per_s: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    text: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn: what was asked (None where texts are not kept) and both answers; None for a side that gave none.

    `prompt` are the messages added in this turn, in OpenAI's form.
    """

    prompt: Sequence[Mapping[str, Any]] | None
    a: AnswerRecord | None
    b: AnswerRecord | None


@dataclass(frozen=True, slots=True)
class BattleRecord:
    """One battle. `probability` is that with which this pair was drawn; None if it was named.

    `failure` says why it cannot be voted on; None if it can.
    """

    id: str
    created_at: datetime
    a: ModelRecord
    b: ModelRecord
    probability: float | None
    paced: bool
    sampling: Mapping[str, Any]
    turns: Sequence[TurnRecord]
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class VoteCount:
    """How many votes of one kind a pair got, at one probability. Sides as they were: `a` and `b` are model names."""

    a: str
    b: str
    vote: Vote
    probability: float | None
    count: int
