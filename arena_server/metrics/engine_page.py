"""Reads one engine's `/metrics` line by line. Pure.

Not with prometheus_client's parser, which takes 10 times as long, on the event loop that carries the streams.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

PREFIX = "vllm:"
# Each label: a name, and a value with backslashes before what needs them.
_SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*(?:\\.[^"\\]*)*",?)*)\})?[ \t]+'
    r"([-+]?(?:[0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?|Inf|NaN))(?:[ \t]+-?[0-9]+)?[ \t]*\Z"
)
_ABOUT = re.compile(r"# (HELP|TYPE) (\S+) ?(.*)\Z")
# A quote within a value has a backslash before it, so that this cannot be a part of one.
_MODEL_LABEL = re.compile(r'(^|,)model="')
_TYPES = frozenset({"counter", "gauge", "histogram", "summary", "untyped"})
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


class NotMetrics(Exception):
    """The page cannot be read. One bad line would have Prometheus refuse the daemon's whole page."""


class Sample(NamedTuple):
    """One line: the labels as they stand between the braces, the value as it was written. Timestamps are dropped.

    (There are many, and nothing is made as quickly as a tuple.)
    """

    name: str
    labels: str
    value: str


@dataclass(frozen=True, slots=True)
class Family:
    """The samples under one name; `help` as it was written, with its backslashes."""

    name: str
    kind: str
    help: str
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EnginePage:
    """An engine's own families, in its order, each sample with the label `model`."""

    families: dict[str, Family]

    def sum(self, name: str) -> float | None:
        """Over all samples of that name (an engine has one for each replica); None if there are none."""
        family = self.families.get(name)
        return sum(float(s.value) for s in family.samples) if family and family.samples else None


def read_page(page: bytes, model: str) -> EnginePage:
    """The families whose names begin with PREFIX; what the engine says of its Python and its routes is left out.

    `model` is the configured name: where a sample has a label of that name, that becomes `exported_model`, as with
    Prometheus itself. Of a series that comes twice the first counts. Raises NotMetrics.
    """
    try:
        lines = page.decode().split("\n")
    except UnicodeDecodeError as e:
        raise NotMetrics(f"not UTF-8: {e}") from None
    reader = _Reader(f'model="{_escaped(model)}"')
    for line in lines:
        if line.startswith("#"):
            reader.about(line)
        elif line and not line.isspace():
            reader.sample(line)
    return EnginePage(reader.families)


class _Reader:
    def __init__(self, label: str) -> None:
        self.families: dict[str, Family] = {}
        self._label = label
        self._helps: dict[str, str] = {}
        self._owners: dict[str, Family] = {}  # by the sample's name
        self._seen: set[tuple[str, str]] = set()

    def about(self, line: str) -> None:
        if (match := _ABOUT.match(line)) is None or not match[2].startswith(PREFIX):
            return
        what, name, text = match.groups()
        if what == "HELP":
            self._helps.setdefault(name, text)
        elif name not in self.families:
            if text not in _TYPES:
                raise NotMetrics(f"unknown type: {line[:200]}")
            self._add(name, text)

    def sample(self, line: str) -> None:
        match = _SAMPLE.match(line)
        if match is None:
            raise NotMetrics(f"not a sample: {line[:200]!r}")
        name, labels, value = match.groups()
        if not name.startswith(PREFIX):
            return
        owner = self._owners.get(name) or self._add(name, "untyped")
        more = _MODEL_LABEL.sub(_exported, labels.rstrip(",")) if labels else ""
        labels = f"{self._label},{more}" if more else self._label
        if (name, labels) not in self._seen:
            self._seen.add((name, labels))
            owner.samples.append(Sample(name, labels, value))

    def _add(self, name: str, kind: str) -> Family:
        family = self.families[name] = Family(name, kind, self._helps.get(name, ""))
        for part in _PARTS.get(kind, ()):
            self._owners.setdefault(name + part, family)
        if kind != "histogram":
            self._owners[name] = family
        return family


def _exported(match: re.Match[str]) -> str:
    return f'{match[1]}exported_model="'


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def merged(pages: Collection[EnginePage]) -> list[Family]:
    """The families of all pages, each name once: with the first page's HELP and TYPE.

    Where a later engine (of another version) has the name with another type, its samples are left out.
    """
    families: dict[str, Family] = {}
    for page in pages:
        for name, family in page.families.items():
            first = families.setdefault(name, Family(name, family.kind, family.help))
            if first.kind == family.kind:
                first.samples.extend(family.samples)
    return [family for family in families.values() if family.samples]
