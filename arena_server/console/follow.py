"""The wait for the end of a load, a sleep or a stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from arena_server.clock import SystemClock
from arena_server.console.api import Api
from arena_server.console.model_table import how_far
from arena_server.console.picture import Model
from arena_server.console.words import clean, cut, left, took
from arena_server.errors import ArenaError

POLL_S = 0.25
NAME_AT_LEAST = 12


@dataclass(frozen=True, slots=True)
class Course:
    """An action's way: through `via` to `goal`. In `beyond`, it was at its goal between two looks and has moved on."""

    goal: str
    via: frozenset[str]
    beyond: frozenset[str]


COURSES = {
    "load": Course("awake", frozenset({"loading", "waking"}), frozenset({"falling asleep", "asleep"})),
    "sleep": Course("asleep", frozenset({"falling asleep"}), frozenset({"waking", "awake"})),
    "stop": Course("cold", frozenset({"stopping"}), frozenset({"loading", "awake"})),
}


class ActionFailed(ArenaError):
    """The model did not come to where it was sent."""


class Journey:
    """What has been seen of a model on its way."""

    def __init__(self, action: str, first: Model) -> None:
        self._action = action
        self._course = COURSES[action]
        self._failures = first.failures
        self._under_way = False

    def ended(self, model: Model) -> bool:
        """Whether it has arrived; raises ActionFailed when it will not."""
        residency, course = model.residency, self._course
        name = clean(model.name)
        if residency == "failed" or model.failures > self._failures:
            raise ActionFailed(f"{name} has failed: {clean(model.error or 'the daemon gives no reason')}")
        if residency == course.goal or (self._under_way and residency in course.beyond):
            return True
        # A load is asked for where it is cold, and may wait there for room; a sleep never starts there.
        if residency == "cold" and (self._under_way or self._action == "sleep"):
            raise ActionFailed(f"{name} is cold: it was stopped before it was {course.goal}")
        self._under_way = self._under_way or residency in course.via
        return False


def follow(api: Api, action: str, first: Model) -> int:
    """Show the way in one line, until its end. Returns 0 when it is there."""
    console = Console(highlight=False)
    clock = SystemClock()
    began = clock.now()
    looks = _looks(api, Journey(action, first), first)
    moving = console.is_terminal and not console.is_dumb_terminal
    last = _spin(console, looks) if moving else _print_changes(looks)
    print(f"{clean(last.name)}: {last.residency} after {took(clock.now() - began)}")
    return 0


def _looks(api: Api, journey: Journey, model: Model) -> Iterator[Model]:
    """The model again and again; the last one has arrived."""
    while True:
        arrived = journey.ended(model)
        yield model
        if arrived:
            return
        time.sleep(POLL_S)
        now = api.pool().model(model.name)
        if now is None:
            raise ActionFailed(f"{clean(model.name)} is no longer configured")
        model = now


def _print_changes(looks: Iterator[Model]) -> Model:
    """A line whenever something other than a figure changes."""
    said = None
    for model in looks:
        say = f"{clean(model.name)}: {_words(model)}"
        if say != said:
            said = say
            print(say + (f", {left(model.eta_s)}" if model.eta_s else ""), flush=True)
    return model


def _spin(console: Console, looks: Iterator[Model]) -> Model:
    """One line that moves."""
    spinner = Spinner("dots")
    with Live(console=console, refresh_per_second=10, transient=True) as live:
        for model in looks:
            # Room is left for the spinner, and for the ^C that a terminal writes behind it.
            spinner.update(text=line(model, console.width - 5))
            live.update(spinner)
    return model


def line(model: Model, width: int) -> Text:
    """Where a model is and how far, not wider than that."""
    far = how_far(model) or Text(", ".join(filter(None, (_words(model), left(model.eta_s)))))
    text = Text(cut(clean(model.name), max(width - far.cell_len - 1, NAME_AT_LEAST)) + " ").append_text(far)
    text.truncate(width, overflow="ellipsis")
    return text


def _words(model: Model) -> str:
    words = model.residency
    if model.loading is not None and clean(model.loading.phase) != words:
        words += f": {clean(model.loading.phase)}"
    return words if model.draining is None else f"{words}, draining: {clean(model.draining)}"
