"""How all pictures look, and that the same figures make the same file, byte for byte."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_IN = 9.0
OURS, OTHERS, LIGHT, WARN = "#1f6feb", "#8c959f", "#c8d1da", "#bf5b04"
# Of several others, or of parts of a whole.
COLOURS = ("#8c959f", "#57606a", "#c8d1da", "#6e5494", "#2f6f4f", "#d9a441", "#a83232", "#4b8b9b")
INK, FAINT = "#1f2328", "#d8dee4"
MARKERS = ("o", "D", "s")  # of the series of `dots`
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that it is the same everywhere
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "grid.color": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "arena-server",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Figures made and saved within look alike."""
    with matplotlib.rc_context(STYLE):
        yield


def canvas(title: str, *, rows: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A white figure, high enough for so many rows of bars, with places to draw side by side."""
    figure = Figure(figsize=(WIDTH_IN, 1.35 + 0.3 * rows), facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def save(figure: Figure, path: Path, mark: str) -> None:
    """Write it as SVG; `mark` tells from which figures it was drawn."""
    about: dict[str, str | None] = {"Identifier": mark, "Date": None, "Creator": None}
    figure.savefig(path, metadata=about)
    # matplotlib leaves blanks at the ends of lines
    lines = [line.rstrip() for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def number(value: float) -> str:
    """Three digits of it, or all before the point."""
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    colours: Sequence[str],
    *,
    ranges: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """Horizontal bars in groups, from above, each with its value; `ranges`: least and greatest of each."""
    thick = 0.8 / len(series)
    for turn, (name, values) in enumerate(series.items()):
        places = [group + thick * (turn - (len(series) - 1) / 2) for group in range(len(groups))]
        axes.barh(places, values, thick * 0.92, color=colours[turn], label=name)
        _values(axes, places, values, ranges[name] if ranges and name in ranges else None)
    _rows(axes, groups)
    axes.margins(x=0.4 if ranges else 0.14)


def dots(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    colours: Mapping[str, Sequence[str]],
    *,
    ranges: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """As `bars`, but points on a logarithmic axis, where a bar's length would mean nothing; a colour for each."""
    everything = [value for values in series.values() for value in values]
    everything += [low for pairs in (ranges or {}).values() for low, _ in pairs]
    least = min((value for value in everything if value > 0), default=1.0)
    apart = 0.7 / len(series)
    for turn, (name, values) in enumerate(series.items()):
        places = [group + apart * (turn - (len(series) - 1) / 2) for group in range(len(groups))]
        for group, (place, value) in enumerate(zip(places, values, strict=True)):
            label = None if group else name
            axes.axhline(place, color=FAINT, linewidth=0.6, zorder=0)
            axes.plot(max(value, least), place, MARKERS[turn], color=colours[name][group], label=label)
        _values(axes, places, values, ranges[name] if ranges and name in ranges else None, least)
    _rows(axes, groups)
    plain_log(axes, least / 1.6)
    axes.set_xlim(right=max(*everything, *(high for pairs in (ranges or {}).values() for _, high in pairs), least) * 4)


def _values(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[float],
    ranges: Sequence[tuple[float, float]] | None,
    least: float = 0.0,
) -> None:
    """Each value, and from where to where it ranges, drawn and in numbers beside it."""
    for place, value, (low, high) in zip(places, values, ranges or [(v, v) for v in values], strict=True):
        text, at = number(value), max(value, least)
        if ranges:
            text += f"  ({number(low)} to {number(high)})"
            reach = [[max(0.0, at - low)], [max(0.0, high - at)]]
            axes.errorbar([at], [place], xerr=reach, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
        axes.annotate(
            text,
            (max(at, high, 0.0), place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )


def _rows(axes: Axes, groups: Sequence[str]) -> None:
    axes.set_yticks(range(len(groups)), groups)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.grid(axis="x")


def plain_log(axes: Axes, left: float) -> None:
    """A logarithmic axis from `left` on, with numbers as people write them."""
    axes.set_xscale("log")
    axes.set_xlim(left=left)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")


def legend(figure: Figure, axes: Axes) -> None:
    """What is drawn in `axes`, beneath the whole."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), fontsize=8.5)


def goal_line(axes: Axes, value: float, text: str) -> None:
    """Where the goal is."""
    axes.axvline(value, color=WARN, linestyle="--", linewidth=1.2)
    axes.annotate(
        text,
        (value, 1),
        (3, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=WARN,
        fontsize=8.5,
    )
