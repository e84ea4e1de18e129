"""Writes the engines' families in the two formats that Prometheus asks for. Pure.

Text: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
OpenMetrics: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from arena_server.metrics.engine_page import Family, Sample

TOTAL, CREATED = "_total", "_created"


def text_lines(families: Sequence[Family]) -> Iterator[str]:
    """One piece of the page for each family."""
    for family in families:
        yield _block(family.name, family.kind, family.help, family.samples)


def openmetrics_lines(families: Sequence[Family]) -> Iterator[str]:
    """The same in OpenMetrics: counters are named without `_total`, and `_created` belongs to what was created."""
    names = {f.name for f in families}
    created = {f.name: f.samples for f in families if f.name.endswith(CREATED)}
    folded: set[str] = set()
    for family in families:
        if family.name in folded:
            continue
        kind = "unknown" if family.kind == "untyped" else family.kind
        base = family.name
        if kind == "counter":
            base = base.removesuffix(TOTAL)
            if base in (names | {family.name}):  # not a counter's name, or one that is taken
                kind, base = "unknown", family.name
        samples = family.samples
        if kind in ("counter", "histogram", "summary") and base + CREATED in created:
            folded.add(base + CREATED)
            samples = _with_created(samples, created[base + CREATED])
        yield _block(base, kind, family.help.replace('"', r"\""), samples)


def _with_created(samples: Sequence[Sample], created: Iterable[Sample]) -> list[Sample]:
    """Each `_created` right after the last sample with its labels: OpenMetrics keeps those together."""
    when = {s.labels: s for s in created}
    last = {s.labels: place for place, s in enumerate(samples)}
    out: list[Sample] = []
    for place, sample in enumerate(samples):
        out.append(sample)
        if last[sample.labels] == place and sample.labels in when:
            out.append(when[sample.labels])
    return out


def _block(name: str, kind: str, help_: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {help_}\n"] if help_ else []
    lines.append(f"# TYPE {name} {kind}\n")
    lines += [f"{s.name}{{{s.labels}}} {s.value}\n" for s in samples]
    return "".join(lines)
