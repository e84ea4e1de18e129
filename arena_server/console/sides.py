"""The sides of a comparison, as the events of `POST /v1/arena/compare` tell of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from arena_server.console.harmless import Harmless
from arena_server.console.shape import read
from arena_server.console.words import clean


@dataclass(frozen=True, slots=True)
class Named:
    """A side's letter and its model."""

    side: str
    model: str


@dataclass(frozen=True, slots=True)
class Start:
    """The first event: who takes part, and in which order they answer."""

    sides: tuple[Named, ...]
    co_residency: str
    order: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Where a side is that has not answered yet."""

    side: str
    phase: str
    detail: str | None
    place: int | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Delta:
    """Some more of a side's answer, or of its thoughts."""

    side: str
    text: str | None
    reasoning: str | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; None where the engine did not count."""

    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class Done:
    """A side's end."""

    side: str
    finish_reason: str | None
    usage: Usage
    waited_s: float | None
    ttft_s: float | None
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class Reason:
    """OpenAI's error object."""

    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A side's end, where it failed."""

    side: str
    error: Reason


@dataclass(frozen=True, slots=True)
class Side:
    """All that is known of a side. Moments are on the caller's clock; texts are harmless to a terminal."""

    model: str
    since: float  # when its phase began
    heard: float  # when its status came
    status: Status | None = None
    text: str = ""
    reasoning: str = ""
    done: Done | None = None
    error: str | None = None

    @property
    def phase(self) -> str:
        """One word for where it is."""
        if self.error is not None:
            return "failed"
        if self.done is not None:
            return "done"
        if self.text:
            return "answering"
        if self.reasoning:
            return "thinking"
        return self.status.phase if self.status is not None else "asked"

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.done is not None or self.error is not None


@dataclass(slots=True)
class Comparison:
    """The sides in the order they were asked for. Each is replaced and never changed: it may be drawn meanwhile."""

    sides: dict[str, Side] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    together: bool = True
    ended: bool = False
    _cleaners: dict[tuple[str, bool], Harmless] = field(default_factory=dict)

    @property
    def all_answered(self) -> bool:
        """Whether every side is done."""
        return bool(self.sides) and all(side.done is not None for side in self.sides.values())

    def take(self, name: str, data: Any, now: float) -> None:
        """Take an event; one of a kind that is not known is passed over. Raises WrongShape, and KeyError for a side
        that was not named at the start."""
        takers: Mapping[str, Callable[[Any, float], None]] = {
            "start": self._start,
            "status": self._status,
            "delta": self._delta,
            "done": self._done,
            "error": self._error,
            "end": self._end,
        }
        if name in takers:
            takers[name](data, now)

    def _start(self, data: Any, now: float) -> None:
        start = read(Start, data)
        self.sides = {named.side: Side(clean(named.model), now, now) for named in start.sides}
        self.order, self.together = start.order, start.co_residency == "together"

    def _status(self, data: Any, now: float) -> None:
        status = read(Status, data)
        self._put(status.side, now, status=status, heard=now)

    def _delta(self, data: Any, now: float) -> None:
        delta = read(Delta, data)
        side = self.sides[delta.side]
        if delta.text:
            self._put(delta.side, now, text=side.text + self._harmless(delta.side, delta.text, False))
        if delta.reasoning:
            self._put(delta.side, now, reasoning=side.reasoning + self._harmless(delta.side, delta.reasoning, True))

    def _done(self, data: Any, now: float) -> None:
        done = read(Done, data)
        self._put(done.side, now, done=done)

    def _error(self, data: Any, now: float) -> None:
        failure = read(Failure, data)
        self._put(failure.side, now, error=clean(failure.error.message) or "no reason given")

    def _end(self, data: Any, now: float) -> None:
        self.ended = True

    def _put(self, letter: str, now: float, **changes: Any) -> None:
        was = self.sides[letter]
        side = replace(was, **changes)
        self.sides[letter] = side if side.phase == was.phase else replace(side, since=now)

    def _harmless(self, letter: str, piece: str, thought: bool) -> str:
        return self._cleaners.setdefault((letter, thought), Harmless()).add(piece)
