"""The table of models, as lines of text: one per model, and one below it for what needs words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from arena_server.console import bars
from arena_server.console.picture import Model
from arena_server.console.rates import Rates
from arena_server.console.words import clean, cut, gib, left, took

STYLES = {
    "awake": "green",
    "loading": "yellow",
    "waking": "yellow",
    "falling asleep": "cyan",
    "asleep": "blue",
    "stopping": "magenta",
    "failed": "bold red",
    "cold": "dim",
}
# Where not all have room, those that say most stay; within one place, in the daemon's order.
INTEREST = ("failed", "loading", "waking", "stopping", "falling asleep", "awake", "asleep", "cold")
BAR_WIDTH = 20
# The driver sees a little more than vLLM counts, or less; beyond this part, and this size, it is to be said.
OVER_BY, OVER_BY_BYTES = 0.05, 256 << 20
NAME_AT_LEAST = 16


@dataclass(frozen=True, slots=True)
class Column:
    """One of the figures behind a model's name. The narrower the terminal, the more of low `worth` are left out."""

    title: str
    worth: int
    figure: Callable[[Model], str]
    style: Callable[[Model], str] = lambda _: ""


Measured = Mapping[str, int]


def lines(
    models: Sequence[Model], measured: Measured, rates: Rates | None, width: int, height: int | None
) -> list[Text]:
    """The table in at most that height. Without rates it has the counters themselves.

    `measured` is what the driver sees of each model in bytes; empty where it does not say.
    """
    shown = _fitting(models, measured, height)
    widths = {c: _width(c, shown) for c in _columns(rates, measured)}
    names = [("* " if m.pinned else "  ") + clean(m.name) for m in shown]
    longest = max((cell_len(n) for n in names), default=0)
    kept = _kept(widths, min(max(longest, NAME_AT_LEAST), NAME_AT_LEAST + 2), width)
    name_width = max(min(longest, width - sum(widths[c] + 1 for c in kept)), len("  MODEL"))
    result = [_row("  MODEL", name_width, [(c, c.title, widths[c], "") for c in kept])]
    result[0].stylize("bold")
    for model, name in zip(shown, names, strict=True):
        row = _row(cut(name, name_width), name_width, [(c, c.figure(model), widths[c], c.style(model)) for c in kept])
        row.style = "dim" if model.residency == "cold" else ""
        result += [row, *notes(model, measured, width)]
    return result + ([_rest(models, shown)] if len(shown) < len(models) else [])


def notes(model: Model, measured: Measured, width: int) -> list[Text]:
    """What is to be said of a model below its line."""
    said = []
    if (far := how_far(model)) is not None:
        said.append(far)
    if model.draining is not None:
        said.append(Text("draining: " + clean(model.draining), style="yellow"))
    if model.error is not None:
        again = "" if model.retry_in_s is None else f" (again in {took(model.retry_in_s)})"
        times = f"failed {model.failures} times" if model.failures > 1 else "failed"
        said.append(Text(f"{times}{again}: {clean(model.error)}", style="red"))
    if is_over(model, measured):
        seen, reserved = gib(measured[model.name]), gib(reserved_bytes(model))
        said.append(Text(f"NVML sees {seen} GiB of it where {reserved} are reserved", style="red"))
    result = []
    for text in said:
        line = Text("    ").append_text(text)
        line.truncate(width, overflow="ellipsis")
        result.append(line)
    return result


def how_far(model: Model) -> Text | None:
    """Progress, phase and what is left of a load or a wake; None for a model in neither."""
    if model.residency not in ("loading", "waking") and model.loading is None:
        return None
    fraction = model.loading.fraction if model.loading else None
    phase = clean(model.loading.phase) if model.loading else model.residency
    words = ", ".join(filter(None, (phase, left(model.eta_s))))
    if fraction is not None:
        return bars.progress(fraction, BAR_WIDTH).append(f" {min(max(fraction, 0), 1):4.0%} {words}")
    return Text(words)


def reserved_bytes(model: Model) -> int:
    """What it holds of all devices together."""
    return sum(d.reserved_bytes for d in model.memory.devices)


def is_over(model: Model, measured: Measured) -> bool:
    """Whether it has clearly more than the ledger knows of."""
    reserved = reserved_bytes(model)
    return measured.get(model.name, 0) - reserved > max(OVER_BY * reserved, OVER_BY_BYTES)


def _columns(rates: Rates | None, measured: Measured) -> list[Column]:
    if rates is None:
        requests = Column("REQUESTS", 2, lambda m: f"{m.requests_total:,}")
    else:
        requests = Column("REQ/MIN", 2, lambda m: _rate(rates.per_minute(m.name)))
    held = Column("RESERVED" if measured else "GiB", 4, lambda m: "remote" if m.remote else _gib(reserved_bytes(m)))
    nvml = Column("NVML", 5, lambda m: _gib(measured[m.name]), lambda m: "bold red" if is_over(m, measured) else "")
    return [
        Column("RESIDENCY", 9, lambda m: m.residency, lambda m: STYLES.get(m.residency, "")),
        Column("SINCE", 5, lambda m: took(m.since_s)),
        Column("RUN", 7, lambda m: str(m.running) if m.running else "-"),
        Column("WAIT", 6, lambda m: str(m.waiting) if m.waiting else "-"),
        requests,
        held,
        *([nvml] if measured else []),
        Column("LOAD", 3, lambda m: took(m.times.load_s)),
        Column("WAKE", 1, lambda m: took(m.times.wake_s)),
    ]


def _gib(size: int) -> str:
    return gib(size) if size else "-"


def _rate(rate: float | None) -> str:
    return "-" if not rate else f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def _width(column: Column, models: Sequence[Model]) -> int:
    return 1 + max(len(column.title), *(cell_len(column.figure(m)) for m in models), 0)


def _kept(widths: dict[Column, int], names: int, width: int) -> list[Column]:
    kept = list(widths)
    while kept and names + sum(widths[c] + 1 for c in kept) > width:
        kept.remove(min(kept, key=lambda c: c.worth))
    return kept


def _row(name: str, name_width: int, cells: Sequence[tuple[Column, str, int, str]]) -> Text:
    """A line of `(column, figure, width, style)`."""
    row = Text(name + " " * (name_width - cell_len(name)))
    for column, figure, width, style in cells:
        # The residency is a word and stands left; all others are figures.
        if column.title == "RESIDENCY":
            row.append("  ").append(figure.ljust(width - 1), style)
        else:
            row.append(" ").append(figure.rjust(width), style)
    return row


def _fitting(models: Sequence[Model], measured: Measured, height: int | None) -> list[Model]:
    """As many models as fit below the title, and a line for the rest if there is any."""
    heights = {m.name: 1 + len(notes(m, measured, 80)) for m in models}
    if height is None or 1 + sum(heights.values()) <= height:
        return list(models)
    free = height - 2
    chosen: set[str] = set()
    for model in sorted(models, key=lambda m: _interest(m.residency)):
        if heights[model.name] <= free:
            free -= heights[model.name]
            chosen.add(model.name)
    return [m for m in models if m.name in chosen]


def _interest(residency: str) -> int:
    return INTEREST.index(residency) if residency in INTEREST else 0


def _rest(models: Sequence[Model], shown: Sequence[Model]) -> Text:
    names = {m.name for m in shown}
    counts = Counter(m.residency for m in models if m.name not in names)
    return Text(f"    … {sum(counts.values())} more: " + ", ".join(f"{n} {r}" for r, n in counts.items()), style="dim")
