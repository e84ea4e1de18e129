"""`arena-server leaderboard`: the daemon's ranking, with every interval as a bar on one axis."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from arena_server.console.api import Api
from arena_server.console.key import ApiKey
from arena_server.console.words import clean, count, cut, moment

PATH = "/v1/arena/leaderboard"
# The daemon gives a ranking up after a minute, and then says so.
TIMEOUT_S = 70.0
PLAIN_WIDTH = 120
NAME_AT_LEAST = 12
BAR_AT_LEAST, BAR_AT_MOST = 16, 60
GAP = "  "


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place as the daemon shows it; without votes it has no rank and no rating."""

    model: str
    rank: int | None
    rating: float | None
    lower: float | None
    upper: float | None
    votes: int
    wins: int
    losses: int
    ties: int
    both_bad: int
    votes_needed: int | None


@dataclass(frozen=True, slots=True)
class Board:
    """The leaderboard as the daemon shows it, best first. Its pairs are left to `--json`."""

    updated_at: str
    votes: int
    scale: str
    models: tuple[Standing, ...]


class _Arena(Api):
    """The daemon's leaderboard."""

    def board(self) -> Board:
        return self._read(Board, "GET", PATH)

    def board_json(self) -> str:
        """The same as the daemon wrote it."""
        body, _ = self._ask("GET", PATH)
        return body


def show_leaderboard(url: str, *, as_json: bool, key: ApiKey | None = None) -> int:
    """Print it. Returns the exit status; raises the errors of `Api`."""
    arena = _Arena(url, TIMEOUT_S, key=key)
    if as_json:
        print(arena.board_json().rstrip("\n"))
        return 0
    board = arena.board()
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        for line in lines(board, url, console.width):
            console.print(line, no_wrap=True, crop=False)
    else:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isascii() and columns.isdigit() and int(columns) else PLAIN_WIDTH
        for line in lines(board, url, width):
            print(line.plain.rstrip())
    sys.stdout.flush()
    return 0


def lines(board: Board, url: str, width: int) -> list[Text]:
    """The table and what its words mean, no line wider than `width`."""
    title = Text("LEADERBOARD", style="bold").append(f"{GAP}{count(board.votes, 'vote')}", "not bold")
    if board.votes:
        title.append(f"{GAP}as of {moment(board.updated_at)}", "not bold dim")
    result = [title, *(_table(board.models, width) if board.votes else _no_votes(board, url))]
    for line in result:
        line.truncate(width, overflow="ellipsis")
    return result


def _no_votes(board: Board, url: str) -> list[Text]:
    result = [Text(f"No votes yet: battles wait for them at {url}/")]
    if board.models:
        result.append(Text("Models: " + ", ".join(clean(m.model) for m in board.models), style="dim"))
    return result


@dataclass(frozen=True, slots=True)
class _Column:
    """Figures, right-aligned. The narrower the terminal, the more of low `worth` are left out."""

    title: str
    worth: int
    figure: Callable[[Standing], str]


def _interval(model: Standing) -> str:
    return "-" if model.lower is None or model.upper is None else f"{model.lower:,.0f} to {model.upper:,.0f}"


def _needed(model: Standing) -> str:
    return "-" if model.votes_needed is None else f"{model.votes_needed:+,}" if model.votes_needed else "enough"


_COLUMNS = (
    _Column("RATING", 9, lambda m: "-" if m.rating is None else f"{m.rating:,.0f}"),
    _Column("95% INTERVAL", 3, _interval),
    _Column("VOTES", 8, lambda m: f"{m.votes:,}"),
    _Column("WINS", 7, lambda m: f"{m.wins:,}"),
    _Column("TIES", 5, lambda m: f"{m.ties:,}"),
    _Column("LOSSES", 6, lambda m: f"{m.losses:,}"),
    _Column("BOTH BAD", 2, lambda m: f"{m.both_bad:,}"),
    _Column("NEEDED", 4, _needed),
)


def _table(models: Sequence[Standing], width: int) -> list[Text]:
    widths = {c: max(len(c.title), *(len(c.figure(m)) for m in models)) for c in _COLUMNS}
    ranks = ["-" if m.rank is None else str(m.rank) for m in models]
    rank_width = max(len("RANK"), *map(len, ranks))
    names = [clean(m.model) for m in models]
    longest = max(len("MODEL"), *map(cell_len, names))
    kept = list(_COLUMNS)
    taken = rank_width + len(GAP) + min(longest, NAME_AT_LEAST) + len(GAP) + BAR_AT_LEAST
    while kept and taken + sum(widths[c] + len(GAP) for c in kept) > width:
        kept.remove(min(kept, key=lambda c: c.worth))
    free = width - rank_width - 2 * len(GAP) - sum(widths[c] + len(GAP) for c in kept)
    name_width = max(min(longest, free - BAR_AT_LEAST), 1)
    axis = _Axis.over(models, min(max(free - name_width, 0), BAR_AT_MOST))
    title = ["RANK".rjust(rank_width), _padded("MODEL", name_width), axis.label()]
    result = [Text(GAP.join([*title, *(c.title.rjust(widths[c]) for c in kept)]), style="bold")]
    for model, rank, name in zip(models, ranks, names, strict=True):
        row = Text(rank.rjust(rank_width) + GAP + _padded(cut(name, name_width), name_width) + GAP)
        row.append_text(axis.bar(model))
        row.append("".join(GAP + c.figure(model).rjust(widths[c]) for c in kept))
        row.style = "dim" if model.rank is None else ""
        result.append(row)
    return [*result, *_legend(kept)]


def _legend(kept: Sequence[_Column]) -> list[Text]:
    words = ["RANK is 1 plus the models whose interval lies wholly above."]
    if any(c.title == "NEEDED" for c in kept):
        words.append("NEEDED: more votes until the rating is known to 25 points.")
    return [Text(), *(Text(word, style="dim") for word in words)]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


@dataclass(frozen=True, slots=True)
class _Axis:
    """Ratings from `low` to `high` on `width` letters."""

    low: float
    high: float
    width: int

    @classmethod
    def over(cls, models: Sequence[Standing], width: int) -> _Axis:
        """All intervals' axis."""
        lows = [m.lower for m in models if m.lower is not None]
        highs = [m.upper for m in models if m.upper is not None]
        return cls(min(lows, default=0.0), max(highs, default=0.0), width)

    def label(self) -> str:
        """Both ends."""
        left, right = f"{self.low:,.0f}", f"{self.high:,.0f}"
        gap = self.width - len(left) - len(right)
        return left + " " * gap + right if gap > 0 else " " * self.width

    def bar(self, model: Standing) -> Text:
        """The interval, and the rating in it."""
        if model.lower is None or model.rating is None or model.upper is None or not self.width:
            return Text(" " * self.width)
        first, middle, last = map(self._place, (model.lower, model.rating, model.upper))
        letters = [" "] * self.width
        letters[first : last + 1] = "─" * (last + 1 - first)
        letters[first], letters[last] = "├", "┤"
        letters[middle] = "●"
        bar = Text("".join(letters), style="cyan")
        bar.stylize("bold", middle, middle + 1)
        return bar

    def _place(self, rating: float) -> int:
        share = (rating - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(min(max(share, 0.0), 1.0) * (self.width - 1))
