"""Why models come and go: a text for people, and its cause, one of few, for whoever counts. Pure."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """What is behind a transition. A bounded set: it becomes a metric's label."""

    REQUEST = "request"  # somebody waits for the model (a preload and an operator's order to load are requests, too)
    EVICTED = "evicted"  # another model needs its room
    SLEEP_ROOM = "sleep_room"  # a sleeper's memory goes to another sleeper
    IDLE = "idle"
    OPERATOR = "operator"
    CONFIGURATION = "configuration"
    OUT_OF_MEMORY = "out_of_memory"
    LOAD_FAILED = "load_failed"
    SLEEP_FAILED = "sleep_failed"
    WAKE_FAILED = "wake_failed"
    CRASHED = "crashed"
    OTHER = "other"


class Why(str):
    """A reason in words that knows its cause; a plain string to everybody else."""

    cause: Cause

    def __new__(cls, text: str, cause: Cause = Cause.OTHER) -> Why:
        """The default is for copies: these are made of the text alone, and given the cause afterwards."""
        why = super().__new__(cls, text)
        why.cause = cause
        return why


def cause_of(why: str) -> Cause:
    """The cause of a reason; OTHER for a text that was not given one."""
    return why.cause if isinstance(why, Why) else Cause.OTHER
