"""Writes what the suite measured into docs/benchmarks.md, and draws the pictures beside it.

The page's text is written by hand. Between `<!-- NAME -->` and `<!-- /NAME -->` stands what comes from
docs/benchmarks/NAME.json, and between `<!-- summary -->` and its end a table of all; both are made here only, so that
nothing is claimed there that the suite did not print.

    python -m bench.page            # needs matplotlib: pip install '.[bench]'
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping

from bench.catalogue import CATALOGUE, Benchmark
from bench.headlines import HEADLINES
from bench.result import RESULTS, Result, kept

PAGE = RESULTS.with_suffix(".md")
SUMMARY = "summary"
NOT_MEASURED = "Not measured yet."


class PageError(Exception):
    """The page or a result is not as it should be. The text says how."""


def rendered(text: str, results: Mapping[str, Result], pictured: frozenset[str]) -> str:
    """The page with all generated parts anew; `pictured`: those whose picture is drawn. Raises PageError."""
    if unknown := results.keys() - {benchmark.name for benchmark in CATALOGUE}:
        raise PageError(f"results of no benchmark in bench/catalogue.py: {', '.join(sorted(unknown))}")
    text = _between(text, SUMMARY, summary(results))
    for benchmark in CATALOGUE:
        result = results.get(benchmark.name)
        text = _between(
            text,
            benchmark.name,
            NOT_MEASURED if result is None else section(benchmark, result, benchmark.name in pictured),
        )
    return text


def _between(text: str, name: str, content: str) -> str:
    """The text with `content` between the markers of that name, which must be there once."""
    pattern = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    found, count = pattern.subn(lambda _: f"\n{content}\n\n", text)
    if count != 1:
        raise PageError(f"there should be one part between <!-- {name} --> and <!-- /{name} -->, there are {count}")
    return found


def summary(results: Mapping[str, Result]) -> str:
    """A table: what was measured, the goal, whether it is met, the main figures."""
    lines = ["| Benchmark | What | Goal | | Figures |", "| --- | --- | --- | --- | --- |"]
    for benchmark in CATALOGUE:
        result = results.get(benchmark.name)
        cells = ["", "not measured", ""] if result is None else [result.goal, _met(result), headline(result)]
        named = f"[`{benchmark.name}`](#{_anchor(benchmark.what)})"
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (named, benchmark.what, *cells)) + " |")
    return "\n".join(lines)


def headline(result: Result) -> str:
    """A result's main figures. Raises PageError if they are not there."""
    if result.bench not in HEADLINES:
        return ""
    try:
        return HEADLINES[result.bench](result.figures)
    except (KeyError, TypeError) as e:
        raise PageError(f"{result.bench}.json has not the figures that bench/headlines.py reads: {e!r}") from e


def section(benchmark: Benchmark, result: Result, pictured: bool) -> str:
    """What a result says, its picture, and how to repeat it."""
    machine = result.machine
    when = f"{result.began:%Y-%m-%d %H:%M} UTC, commit `{result.commit}`, {result.seconds:,.0f} s"
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    device = f", {machine['device']}" if "device" in machine else ""
    parts = [
        f"**Goal:** {result.goal}: **{_met(result)}**.",
        *([f"![{benchmark.what}](benchmarks/{benchmark.name}.svg)"] if pictured else []),
        "\n".join(["```text", *result.lines, "```"]),
        f"{when}, on {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB{device} "
        f"(load average {machine['load_average']} before it began); {versions}.",
        f"[All figures](benchmarks/{benchmark.name}.json). To repeat it:",
        textwrap.indent(result.command, " " * 4),
    ]
    return "\n\n".join(parts)


def _met(result: Result) -> str:
    return "met" if result.met else "NOT MET"


def _anchor(heading: str) -> str:
    """The link to a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def main() -> int:
    """The command line."""
    try:
        from bench.pictures.drawing import PICTURES, draw
    except ModuleNotFoundError as e:
        print(f"{e}: the pictures need it (pip install '.[bench]')", file=sys.stderr)
        return 1
    results = kept()
    try:
        text = rendered(PAGE.read_text(), results, frozenset(results.keys() & PICTURES))
    except PageError as e:
        print(e, file=sys.stderr)
        return 1
    drawn = [path for result in results.values() if (path := draw(result, RESULTS)) is not None]
    PAGE.write_text(text)
    print(f"{PAGE.name}: {len(results)} results, {len(drawn)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
