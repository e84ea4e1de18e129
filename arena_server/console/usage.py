"""`arena-server usage`: the daemon's sums as a table, CSV or JSON."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum, auto
from typing import Any, TextIO
from urllib.parse import urlencode

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from arena_server.console.api import Api, BadAnswer
from arena_server.console.key import ApiKey
from arena_server.console.words import clean, took

PATH = "/admin/usage"
# Sums of years may have to be read.
TIMEOUT_S = 30.0
GAP = "  "
FIGURES = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "seconds", "cost")
TITLES = ("REQUESTS", "PROMPT", "COMPLETION", "TOKENS", "TIME", "COST")
# The narrower the terminal, the more of these are left out, the first ones first.
SPARED = ("TIME", "COMPLETION", "PROMPT", "NAME", "REQUESTS")
PLAIN_WIDTH = 120
LEAST_COST = Decimal("0.0001")


class Form(Enum):
    """How it is printed."""

    TABLE = auto()
    CSV = auto()
    JSON = auto()


def show_usage(url: str, asked: Mapping[str, str | None], form: Form, *, key: ApiKey | None = None) -> int:
    """Print it; `asked` are the route's parameters. Returns the exit status; raises the errors of `Api`."""
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    text, found = Api(url, TIMEOUT_S, key=key).ask("GET", f"{PATH}?{query}")
    try:
        if form is Form.JSON:
            print(text.rstrip("\n"))
        elif form is Form.CSV:
            write_csv(found, sys.stdout)
        else:
            _print_table(found)
    except (LookupError, TypeError, ValueError, ArithmeticError) as e:
        raise BadAnswer(f"cannot use what {url}{PATH} answers (another version of arena-server?)") from e
    sys.stdout.flush()
    return 0


def _print_table(found: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        for line in lines(found, console.width):
            console.print(line, no_wrap=True, crop=False)
        return
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isascii() and columns.isdigit() and int(columns) else PLAIN_WIDTH
    for line in lines(found, width):
        print(line.plain.rstrip())


def write_csv(found: Mapping[str, Any], out: TextIO) -> None:
    """A line for each row below one with the columns' names (RFC 4180, but with the system's own line ends)."""
    by = found["by"]
    names = [by, *(["name"] if by == "key" else []), *FIGURES]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row[name] if name in FIGURES else _cell(row[name]) for name in names] for row in found["rows"])


def _cell(value: Any) -> Any:
    # A name that begins so is a formula to a spreadsheet, some of which pass over blanks, and names are other people's.
    formula = isinstance(value, str) and (value[:1] in ("\t", "\r") or value.lstrip()[:1] in ("=", "+", "-", "@"))
    return f"'{value}" if formula else value


def lines(found: Mapping[str, Any], width: int) -> list[Text]:
    """The table, with the sum of all below it, no line wider than `width`."""
    by, rows = found["by"], found["rows"]
    if not rows:
        return [Text("Nothing was used" + _days(found) + ".")]
    heads = [by.upper(), *(["NAME"] if by == "key" else [])]
    table = [[*heads, *TITLES], *([*_names(by, row), *_figures(row)] for row in rows)]
    if len(rows) > 1:
        table.append(["TOTAL", *[""] * (len(heads) - 1), *_figures(found["total"])])
    columns = [list(column) for column in zip(*table, strict=True)]
    for title in SPARED:
        if sum(map(_width, columns)) + len(GAP) * (len(columns) - 1) > width:
            columns = [column for column in columns if column[0] != title]
    padded = [_padded(column, left=column[0] in heads) for column in columns]
    result = [Text("USAGE", style="bold").append(_days(found), "not bold dim")]
    for number, cells in enumerate(zip(*padded, strict=True)):
        bold = number == 0 or number > len(rows)
        result.append(Text(GAP.join(cells), style="bold" if bold else ""))
    for line in result:
        line.truncate(width, overflow="ellipsis")
    return result


def _days(found: Mapping[str, Any]) -> str:
    since, until = found["since"], found["until"]
    words = [f"since {clean(since)}" if since else "", f"until {clean(until)}" if until else ""]
    said = " ".join(filter(None, words))
    return f" {said} (UTC)" if said else ""


def _names(by: str, row: Mapping[str, Any]) -> list[str]:
    return [clean(row[by]), *([clean(row["name"] or "-")] if by == "key" else [])]


def _figures(row: Mapping[str, Any]) -> list[str]:
    counts = [f"{row[name]:,}" for name in FIGURES[:4]]
    return [*counts, took(row["seconds"]), _cost(Decimal(row["cost"]))]


def _cost(cost: Decimal) -> str:
    """To four places; what is less than that is not nothing."""
    return f"<{LEAST_COST}" if 0 < cost < LEAST_COST else f"{cost:,.4f}"


def _width(column: Sequence[str]) -> int:
    return max(map(cell_len, column))


def _padded(column: Sequence[str], *, left: bool) -> list[str]:
    """Names to the left, figures to the right."""
    blanks = [" " * (_width(column) - cell_len(cell)) for cell in column]
    return [cell + blank if left else blank + cell for cell, blank in zip(column, blanks, strict=True)]
