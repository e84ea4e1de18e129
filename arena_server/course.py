"""What becomes of one request, from its arrival to its last byte, told to whoever counts or traces requests.

Times are the daemon's `Clock`, in seconds; None where it did not come to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from arena_server.caller import ANYBODY, Caller
from arena_server.clock import Clock
from arena_server.request_id import Origin

CLIENT_LEFT = 499  # nginx's status for a client that closed the connection before its answer was whole


class Tokens(Protocol):
    """Knows how many tokens were counted so far, whenever it is asked."""

    @property
    def prompt_tokens(self) -> int:
        """Of the question."""
        ...

    @property
    def completion_tokens(self) -> int:
        """Of the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Counted:
    """So many, and no more to come (a `Tokens`)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Listener(Protocol):
    """Hears of requests. Called on the event loop in the middle of an answer: neither waits nor raises."""

    def began(self, course: Course) -> None:
        """A request has come; may set `course.traceparent` to what its engine is to see."""
        ...

    def ended(self, course: Course) -> None:
        """Its course is whole."""
        ...


NO_TOKENS = Counted()


@dataclass(slots=True)
class Course:
    """One request to one model; a battle or a comparison has one for each side.

    `route` is the daemon's route, `model` the configured name; `traceparent` W3C's header, as it came or as
    a listener set it. `status` is the HTTP status as the client saw it (an error event within a stream counts as its
    error's own), or CLIENT_LEFT. `error` is an error's code, if it ended with one. `tokens` tells those counted so far;
    `cached` answers took none.
    """

    request_id: str
    route: str
    model: str
    stream: bool
    received: float
    traceparent: str | None = None
    granted: float | None = None
    first_token: float | None = None
    ended: float | None = None
    status: int = 0
    error: str | None = None
    caller: Caller = ANYBODY
    tokens: Tokens = NO_TOKENS
    cached: bool = False
    _clock: Clock = field(kw_only=True, repr=False)
    _listeners: Sequence[Listener] = field(kw_only=True, repr=False)

    def is_granted(self) -> None:
        """Its model is awake and leased to it (again, after an engine that was gone before it took the request)."""
        self.granted = self._clock.now()

    def has_token(self) -> None:
        """Some of the answer has come from the engine; all calls but the first do nothing."""
        if self.first_token is None:
            self.first_token = self._clock.now()

    def counts(self, prompt_tokens: int, completion_tokens: int) -> None:
        """So many tokens it is by now, in all."""
        self.tokens = Counted(prompt_tokens, completion_tokens)

    def is_served_by(self, model: str) -> None:
        """Another model is to answer, in place of one whose engines have not taken the request: it was not granted."""
        self.model, self.granted = model, None

    def end(self, status: int, error: str | None = None) -> None:
        """The answer is whole, refused, or given up; all calls but the first do nothing."""
        if self.ended is None:
            self.ended, self.status, self.error = self._clock.now(), status, error
            for listener in self._listeners:
                listener.ended(self)


class Courses:
    """Begins courses, for the same listeners."""

    def __init__(self, clock: Clock, listeners: Sequence[Listener] = ()) -> None:
        self._clock = clock
        self._listeners = listeners

    def begin(self, asker: Origin, route: str, model: str, *, stream: bool, request_id: str | None = None) -> Course:
        """A request's course, from now on; `request_id`, if it is not the asker's own."""
        course = Course(
            request_id or asker.request_id,
            route,
            model,
            stream,
            self._clock.now(),
            asker.traceparent,
            caller=asker.caller,
            _clock=self._clock,
            _listeners=self._listeners,
        )
        for listener in self._listeners:
            listener.began(course)
        return course
