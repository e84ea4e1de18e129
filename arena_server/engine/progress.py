"""Reads what vLLM prints: how far a load is, and why it failed. Pure functions over log lines."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from arena_server.engine.base import LoadProgress

_PERCENT = r"(\d{1,3})%"
# In the order vLLM prints them during a load (0.24 to 0.33). The first that matches wins.
_PHASES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"Loading \w+ checkpoint shards:\s+{_PERCENT}"), "loading weights"),
    (re.compile(rf"Capturing CUDA graphs?.*?:\s+{_PERCENT}"), "capturing CUDA graphs"),
    (
        re.compile(rf"(?:Fetching \d+ files|\S+\.(?:safetensors|bin|json|model|gguf)):\s+{_PERCENT}"),
        "downloading",
    ),
    (re.compile(r"Starting to load model"), "loading weights"),
    (re.compile(r"Loading weights took"), "warming up"),
    (re.compile(r"Warming up|Dynamo bytecode transform|torch\.compile|Compiling a graph"), "warming up"),
    (re.compile(r"Starting vLLM (?:API )?server"), "starting the server"),
)

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# "(EngineCore pid=12) ERROR 11-21 09:34:50 [core.py:1510] " and its parts
_PREFIX = re.compile(
    r"^(?:\([\w ]+ pid=\d+\)\s*)?(?:(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d [\d:]+ \[[^\]]+\] ?)?"
)
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|NotFound)\b.*:\s*\S")
_ARGPARSE = re.compile(r"^vllm serve: error: (.+)")
# "1 validation error for ModelConfig": what is wrong stands on the next lines.
_CONTINUED = re.compile(r"validation errors? for \w+$")
# Raised because of another failure, which was printed before it.
_CONSEQUENCE = re.compile(r"Engine core initialization failed|[Ww]orker(?:Proc)? .*failed|See root cause above")


def parse_progress(line: str) -> LoadProgress | None:
    """The progress that one log line tells of, None if it tells of none."""
    for pattern, phase in _PHASES:
        if found := pattern.search(line):
            percent = found.group(1) if pattern.groups else None
            return LoadProgress(phase, None if percent is None else min(int(percent), 100) / 100)
    return None


def log_level(line: str) -> int:
    """The `logging` level of one line of vLLM's log; INFO for lines that carry none."""
    found = _PREFIX.match(line)
    if found is None or found.group(1) is None:
        return logging.INFO
    # One line per route and load, about sixty of them: of use to nobody who did not ask for detail.
    if "Route: " in line:
        return logging.DEBUG
    return logging.getLevelNamesMapping()[found.group(1)]


def plain(line: str) -> str:
    """A log line without colours and trailing blanks."""
    return _ANSI.sub("", line).rstrip()


def failure_reason(lines: Iterable[str]) -> str | None:
    """Why an engine failed, in its own words: the first exception that is not the echo of another.

    vLLM prints the root cause where it happened (a worker, say), then one wrapper for each process above.
    """
    echo = None
    texts = [_PREFIX.sub("", line, count=1).strip() for line in lines]
    for place, text in enumerate(texts):
        if usage := _ARGPARSE.match(text):
            return usage.group(1)
        if _EXCEPTION.match(text):
            if _CONTINUED.search(text):
                return _continuation(texts[place + 1 : place + 3]) or text
            if not _CONSEQUENCE.search(text):
                return text
            echo = echo or text
    return echo


def _continuation(lines: list[str]) -> str:
    """What follows pydantic's headline: a message, or a field's name and then the message."""
    if len(lines) == 2 and re.fullmatch(r"[\w.]+", lines[0]):
        return ": ".join(lines)
    return "".join(lines[:1])
