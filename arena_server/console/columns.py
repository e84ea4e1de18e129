"""A comparison as columns of text, for a terminal of any size. Nothing here asks or waits for anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from arena_server.console import bars
from arena_server.console.sides import Comparison, Side
from arena_server.console.words import clean, count, cut, left, took

COLUMN_AT_LEAST = 28  # narrower ones go below each other
NAME_AT_LEAST = 12
FRAME = 2  # a cell's title and the rule below it
BETWEEN = " │ "
BAR_AT_MOST = 30
# What is drawn of a long text while it grows is cut from it at multiples of this, lest its lines break anew each time.
STEP = 4096
STYLES = {"done": "green", "failed": "bold red", "answering": "cyan", "thinking": "cyan"}
WAITING_STYLE = "yellow"
ENDS = {"stop": "", "length": "cut off by the limit of tokens"}


def screen(comparison: Comparison, now: float, console: Console, width: int, height: int | None) -> list[Text]:
    """The lines, none wider than `width`, at most `height` of them, with the ends of the texts; None: all of it."""
    sides = list(comparison.sides.values())
    order = one_by_one(comparison)
    lines = _wrapped(Text(order, style=WAITING_STYLE), console, width) if order else []
    if not sides:
        return [*lines, Text("asked, no answer yet", style=WAITING_STYLE)][:height]
    across = _across(len(sides), width)
    rows = [sides[i : i + across] for i in range(0, len(sides), across)]
    free = None if height is None else height - len(lines)
    for number, row in enumerate(rows):
        room = None if free is None else _share(free, len(rows), number)
        cell_width = (width - len(BETWEEN) * (len(row) - 1)) // len(row)
        lines += _beside([_cell(side, now, console, cell_width, room) for side in row], cell_width)
        if height is None and number < len(rows) - 1:
            lines.append(Text())
    return lines[:height]


def figures(side: Side) -> str:
    """What its answer took, or how long it has been at it."""
    done = side.done
    if done is None:
        return ""
    tokens = done.usage.completion_tokens
    parts = [
        None if tokens is None else count(tokens, "token"),
        None if done.ttft_s is None else f"first after {took(done.ttft_s)}",
        None if done.tokens_per_s is None else f"{done.tokens_per_s:,.1f} tokens/s",
        f"waited {took(done.waited_s)}" if done.waited_s is not None and done.waited_s >= 1 else None,
        ENDS.get(done.finish_reason or "stop", clean(done.finish_reason or "")),
    ]
    return ", ".join(filter(None, parts))


def one_by_one(comparison: Comparison) -> str:
    """Which answers first, where they cannot be awake together; else nothing."""
    if comparison.together:
        return ""
    names = [comparison.sides[letter].model for letter in comparison.order if letter in comparison.sides]
    return f"They do not fit together, so one after the other: {', '.join(names)}"


def _across(sides: int, width: int) -> int:
    """How many stand beside each other, such that the rows are even."""
    most = max((width + len(BETWEEN)) // (COLUMN_AT_LEAST + len(BETWEEN)), 1)
    rows = -(-sides // most)
    return -(-sides // rows)


def _share(height: int, rows: int, number: int) -> int:
    """The height of that row: what is over goes to the first ones."""
    return max(height // rows + (number < height % rows), FRAME + 1)


def _cell(side: Side, now: float, console: Console, width: int, height: int | None) -> list[Text]:
    foot = _wrapped(Text(figures(side), style="dim"), console, width) if side.over and figures(side) else []
    room = None if height is None else height - FRAME
    if room is not None:
        foot = foot[: max(room - 1, 0)]
        room -= len(foot)
    body = _body(side, now, console, width, room)
    blank = [Text() for _ in range((room or 0) - len(body))]
    phase = side.phase if side.over else "unfinished" if height is None else f"{side.phase} {took(now - side.since)}"
    return [_title(side, phase, width), Text("─" * width, style="dim"), *body, *blank, *foot]


def _title(side: Side, phase: str, width: int) -> Text:
    name = cut(side.model, max(width - cell_len(phase) - 1, NAME_AT_LEAST))
    gap = max(width - cell_len(name) - cell_len(phase), 1)
    title = Text.assemble((name, "bold"), " " * gap, (phase, STYLES.get(side.phase, WAITING_STYLE)))
    title.truncate(width, overflow="ellipsis")
    return title


def _body(side: Side, now: float, console: Console, width: int, room: int | None) -> list[Text]:
    """The text and, where there is room above it, the thoughts; or what it waits for; or why it failed."""
    end = [] if side.error is None else _wrapped(Text(side.error, style="red"), console, width)
    if not side.over and not side.text and not side.reasoning:
        end = _waiting(side, now, console, width)
    lines = end if room is None else end[:room]
    for text, style in ((side.text, ""), (side.reasoning, "dim italic")):
        gap = [Text()] if lines and text else []
        rest = None if room is None else room - len(lines) - len(gap)
        if text and (rest is None or rest > 0):
            lines = [*_end_of(text, style, console, width, rest), *gap, *lines]
    return lines


def _waiting(side: Side, now: float, console: Console, width: int) -> list[Text]:
    status = side.status
    if status is None:
        return []
    left_s = None if status.eta_s is None else max(status.eta_s - (now - side.heard), 0.0)
    place = f"place {status.place} in the queue" if status.place and status.phase == "queued" else ""
    words = [status.detail or "", place, left(left_s or None)]
    lines = _wrapped(Text(clean(", ".join(filter(None, words))), style=WAITING_STYLE), console, width)
    if status.phase == "loading" and left_s is not None:
        been_s = now - side.since
        lines.insert(0, bars.progress(been_s / max(been_s + left_s, 0.001), min(width, BAR_AT_MOST)))
    return lines


def _end_of(text: str, style: str, console: Console, width: int, rows: int | None) -> list[Text]:
    """The last rows of a text, or all of them."""
    text = text.strip("\n")
    if rows is None:
        return _wrapped(Text(text, style=style), console, width)
    # A row holds `width` letters at most, so these fill `rows` of them.
    start = max(len(text) - (rows + 1) * width, 0) // STEP * STEP
    return _wrapped(Text(text[start:], style=style), console, width)[-rows:]


def _wrapped(text: Text, console: Console, width: int) -> list[Text]:
    return list(text.wrap(console, width))


def _beside(cells: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """Cells of that width side by side."""
    if len(cells) == 1:
        return list(cells[0])
    return [_joined(row, width) for row in zip_longest(*cells)]


def _joined(row: Iterable[Text | None], width: int) -> Text:
    line = Text()
    for number, part in enumerate(row):
        if number:
            line.append(BETWEEN, "dim")
        text = part or Text()
        line.append_text(text).append(" " * (width - text.cell_len))
    return line
