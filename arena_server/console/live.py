"""`arena-server status`: the picture of the pool, once or as a live screen."""

from __future__ import annotations

import contextlib
import os
import sys

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from arena_server.clock import Clock, SystemClock
from arena_server.console.api import Api
from arena_server.console.key import ApiKey
from arena_server.console.news import Look, News, look
from arena_server.console.rates import Rates
from arena_server.console.status import Scene, screen
from arena_server.console.terminal import taken
from arena_server.console.words import took
from arena_server.errors import ArenaError

PLAIN_WIDTH = 160
REDRAW_S = 1.0
# A screen that waits longer than this for one answer had better say so.
LIVE_TIMEOUT_S = 5.0


def show_status(url: str, *, once: bool, as_json: bool, interval_s: float, key: ApiKey | None = None) -> int:
    """Show it. A live screen needs a terminal; elsewhere it is printed once."""
    if as_json:
        print(Api(url, key=key).pool_json().rstrip("\n"))
        return 0
    console = Console(highlight=False)
    if once or not console.is_terminal or console.is_dumb_terminal:
        return _print(Api(url, key=key))
    return _watch(Api(url, LIVE_TIMEOUT_S, key=key), console, interval_s)


def _print(api: Api) -> int:
    found = look(api, SystemClock())
    for line in screen(Scene(api.url, found.picture, found.decisions), _plain_width(), None):
        print(line.plain.rstrip())
    return 0


def _plain_width() -> int:
    if sys.stdout.isatty():
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) else PLAIN_WIDTH


def _watch(api: Api, console: Console, interval_s: float) -> int:
    clock = SystemClock()
    view = View(api.url, clock, look(api, clock))  # before the screen is taken: it may be the wrong URL
    with contextlib.suppress(KeyboardInterrupt), taken() as terminal:
        news = News(api, clock, interval_s, terminal.wake)
        with contextlib.closing(news), Live(console=console, screen=True, auto_refresh=False) as live:
            news.start()
            left = False
            while not left:
                for found in news.all():
                    view.take(found)
                # Asked of the terminal itself, as COLUMNS and LINES do not follow it.
                width, height = os.get_terminal_size(sys.stdout.fileno())
                width, height = width or 80, height or 24
                console.size = (width, height)
                live.update(Group(*view.lines(width, height)), refresh=True)
                left = terminal.wait(REDRAW_S)
    return 0


class View:
    """What is known of the pool: the last good look, the rates, and for how long it has not answered."""

    def __init__(self, url: str, clock: Clock, first: Look) -> None:
        self._url = url
        self._clock = clock
        self._rates = Rates()
        self._fault: ArenaError | None = None
        self.take(first)

    def take(self, found: Look | ArenaError) -> None:
        """Note a look, or why there was none."""
        if isinstance(found, ArenaError):
            self._fault = found
            return
        self._fault, self._last = None, found
        self._rates.take(found.at, {m.name: m.requests_total for m in found.picture.models})

    def lines(self, width: int, height: int) -> list[Text]:
        """The screen."""
        notice = None
        if self._fault is not None:
            ago = took(self._clock.now() - self._last.at)
            notice = f"No news for {ago}, trying again: {self._fault}"
        return screen(Scene(self._url, self._last.picture, self._last.decisions, self._rates, notice), width, height)
