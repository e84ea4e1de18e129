"""Counts requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from arena_server.course import Course

# Waits are nothing for a model that is awake, and minutes for one that has to be loaded first.
WAIT_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
FIRST_TOKEN_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
REQUEST_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800)
OTHER = "other"
RESULTS = ("ok", "client_error", "server_error")


@dataclass(frozen=True, slots=True)
class _Series:
    """Where requests of one kind are counted."""

    requests: Counter
    results: Counter
    seconds: Histogram
    waits: Histogram
    first_tokens: Histogram


class RequestTally:
    """Hears of courses (a `Listener`). Labels take a bounded set of values, whatever clients send."""

    def __init__(self, registry: CollectorRegistry, known: Callable[[str], bool]) -> None:
        """`known` tells whether a model of that name is configured."""
        self._known = known
        # To look each up by its labels takes longer than to count.
        self._series: dict[tuple[str, str, int | None], _Series] = {}
        self._requests = Counter(
            "arena_requests",
            "Requests whose course is whole, by their route and the HTTP status that the client saw (499: it left).",
            ["model", "route", "status"],
            registry=registry,
        )
        # Beside the requests themselves, as a series of those that begins with a burst has no 0 before it, and the
        # burst no increase; and all of their routes and statuses are too many to begin at 0.
        self._results = Counter(
            "arena_request_results",
            "The same by their result: ok, client_error (status 400 to 499), server_error (500 to 599).",
            ["model", "result"],
            registry=registry,
        )
        self._seconds = Histogram(
            "arena_request_seconds",
            "Seconds from a request's arrival to the last byte of its answer, waiting included.",
            ["model", "route"],
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._waits = Histogram(
            "arena_queue_wait_seconds",
            "Seconds from a request's arrival until its model was awake and leased to it.",
            ["model"],
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._first_tokens = Histogram(
            "arena_first_token_seconds",
            "Seconds from the arrival of a request for a stream to the first of its answer, waiting included.",
            ["model"],
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )

    def know(self, model: str) -> None:
        """Show the model from now on, with no requests if there were none."""
        for result in RESULTS:
            self._results.labels(model, result)
        self._waits.labels(model)
        self._first_tokens.labels(model)

    def began(self, course: Course) -> None:
        """See `Listener`."""

    def ended(self, course: Course) -> None:
        """See `Listener`."""
        model = course.model if self._known(course.model) else OTHER
        route = course.route.partition("?")[0]
        status = course.status if 100 <= course.status <= 599 else None
        series = self._series.get((model, route, status)) or self._series_of(model, route, status)
        series.requests.inc()
        series.results.inc()
        if course.ended is not None:
            series.seconds.observe(course.ended - course.received)
        if course.granted is not None:
            series.waits.observe(course.granted - course.received)
        if course.stream and course.first_token is not None:
            series.first_tokens.observe(course.first_token - course.received)

    def _series_of(self, model: str, route: str, status: int | None) -> _Series:
        found = self._series[model, route, status] = _Series(
            self._requests.labels(model, route, OTHER if status is None else str(status)),
            self._results.labels(model, _result(status)),
            self._seconds.labels(model, route),
            self._waits.labels(model),
            self._first_tokens.labels(model),
        )
        return found


def _result(status: int | None) -> str:
    if status is None or status >= 500:
        return "server_error"
    return "client_error" if status >= 400 else "ok"
