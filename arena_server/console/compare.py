"""`arena-server compare`: one prompt to two to four models, their answers side by side as they come."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from arena_server.clock import Clock, SystemClock
from arena_server.console.api import Api, BadAnswer, NoAnswer
from arena_server.console.columns import figures, one_by_one, screen
from arena_server.console.key import ApiKey
from arena_server.console.question import opening, prompt_of, sampling, user
from arena_server.console.shape import WrongShape
from arena_server.console.sides import Comparison
from arena_server.console.stream import replies
from arena_server.console.terminal import taken

PATH = "/v1/arena/compare"
REFRESH_PER_S = 10

Events = Iterator[tuple[str, Any]]


def run_compare(
    url: str,
    prompt: str | None,
    models: Sequence[str],
    *,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    as_json: bool = False,
    require: bool = False,
    key: ApiKey | None = None,
) -> int:
    """Ask, and show the answers: live columns in a terminal, sections elsewhere, or the daemon's JSON.

    `prompt` None or `-` reads standard input. `require`: an error if the models can never be awake together. Returns 0
    if all have answered, else 1. Raises ArenaError where the daemon refuses, or goes away.
    """
    body = {
        "models": list(models),
        "messages": [*opening(system), user(prompt_of(prompt))],
        "co_residency": "require" if require else "prefer",
        **sampling(temperature=temperature, max_tokens=max_tokens, seed=seed),
    }
    api = Api(url, key=key)
    if as_json:
        return _print_json(*api.whole(PATH, {**body, "stream": False}))
    comparison, clock = Comparison(), SystemClock()
    console = Console(highlight=False)
    with api.streamed(PATH, {**body, "stream": True}) as lines:
        changes = _changes(comparison, replies(lines), clock, url)
        if sys.stdout.isatty() and not console.is_dumb_terminal:
            _watch(comparison, changes, clock, console)
        else:
            _print_sections(comparison, changes)
    return 0 if comparison.all_answered else 1


def _changes(comparison: Comparison, events: Events, clock: Clock, url: str) -> Iterator[None]:
    """Have the comparison take the events, one a step. Raises NoAnswer if they stop before the last."""
    for name, data in events:
        try:
            comparison.take(name, data, clock.now())
        except (WrongShape, KeyError) as e:
            raise BadAnswer(f"cannot use what {url}{PATH} answers: {e} (another version of arena-server?)") from e
        yield
    # Read to the end, not to the last event: for a daemon that is still writing we would be a client that left.
    if not comparison.ended:
        raise NoAnswer(f"{url} hung up before all had answered")


def _print_json(text: str, value: Any) -> int:
    print(text.rstrip("\n"))
    try:
        return 1 if any("error" in side for side in value["sides"]) else 0
    except (LookupError, TypeError) as e:
        raise BadAnswer("the answer has no sides (is this an arena-server?)") from e


def _print_sections(comparison: Comparison, changes: Iterator[None]) -> None:
    """A section as soon as its side and those before it are over; at an early end, also what there is of the others."""
    printed = 0
    try:
        for _ in changes:
            sides = list(comparison.sides.values())
            while printed < len(sides) and sides[printed].over:
                _print_section(comparison, printed)
                printed += 1
    finally:
        for number in range(printed, len(comparison.sides)):
            _print_section(comparison, number)


def _print_section(comparison: Comparison, number: int) -> None:
    side = list(comparison.sides.values())[number]
    if number:
        print()
    elif order := one_by_one(comparison):
        print(f"[{order}]\n")
    print(f"=== {side.model} ===")
    for text in (f"[thoughts]\n{side.reasoning.strip()}\n[answer]" if side.reasoning else "", side.text.strip("\n")):
        if text:
            print(text)
    if side.error is not None:
        print(f"[error: {side.error}]")
    elif said := figures(side):
        print(f"[{said}]")
    elif not side.over:
        print("[not finished]")
    sys.stdout.flush()


def _watch(comparison: Comparison, changes: Iterator[None], clock: Clock, console: Console) -> None:
    """A screen of its own while they answer; then all of it on the one before, also at an early end."""

    def drawn() -> Group:
        # Asked of the terminal itself, as COLUMNS and LINES do not follow it.
        width, height = os.get_terminal_size(sys.stdout.fileno())
        console.size = (width or 80, height or 24)
        return Group(*screen(comparison, clock.now(), console, *console.size))

    # Drawn by Live's own thread: this one waits for the daemon, which Ctrl-C ends at once.
    live = Live(console=console, get_renderable=drawn, screen=True, refresh_per_second=REFRESH_PER_S)
    try:
        with taken(), live:
            live.refresh()
            for _ in changes:
                pass
    finally:
        for line in screen(comparison, clock.now(), console, console.width, None):
            console.print(line, soft_wrap=True)
