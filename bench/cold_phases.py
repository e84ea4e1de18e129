"""The phases of a cold start, told from what vLLM prints and when it arrived. Pure.

The same lines (vLLM 0.24 to 0.33, its default log) are looked for on both sides, so a phase is the same work.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Of vLLM's phases, the one that a larger model has more of. All else is paid for any model.
WEIGHTS = "weights"
_CORE_BEGINS = re.compile(r"Initializing a V1 LLM engine ")
# Phases in their order, what each consists of, and the first line that is printed after it. None: `GET /health` is 200.
PHASES: tuple[tuple[str, str, re.Pattern[str] | None], ...] = (
    ("imports", "a process that has imported vLLM and read its arguments", re.compile(r"non-default args: ")),
    ("config", "the model's and vLLM's own configuration", None),
    ("engine_core", "the engine core's process, with its imports", _CORE_BEGINS),
    ("worker", "the worker's process, with its imports; its device", re.compile(r"Starting to load model ")),
    (WEIGHTS, "the model and its weights", re.compile(r"Loading weights took ")),
    ("warm_up", "the KV cache, warm-up", re.compile(r"init engine \(profile, create kv cache, warmup model\) took ")),
    ("server", "the routes, and the port until GET /health is 200", None),
)
NAMES = tuple(name for name, _, _ in PHASES)
_API_SERVER = re.compile(r"^\(APIServer pid=\d+\) ")


class UnknownLog(Exception):
    """The lines that tell the phases apart are not there. The text names the first."""


def phases(printed: Sequence[tuple[float, str]], healthy_s: float) -> dict[str, float]:
    """Seconds of each phase; `printed` has the seconds since the order at which each line came."""
    ends: list[float] = []
    for name, _, mark in PHASES:
        if name == "config":
            ends.append(_config_end(printed, ends[-1]))
        elif mark is None:
            ends.append(healthy_s)
        else:
            ends.append(_first(printed, mark, name))
    return {name: end - begin for name, begin, end in zip(NAMES, [0.0, *ends], ends, strict=False)}


def _config_end(printed: Sequence[tuple[float, str]], begin: float) -> float:
    """The API server's last word before its engine core's first: what follows is the making of that process."""
    core = _first(printed, _CORE_BEGINS, "engine_core")
    return max([begin, *(at for at, line in printed if at <= core and _API_SERVER.match(line))])


def _first(printed: Sequence[tuple[float, str]], mark: re.Pattern[str], phase: str) -> float:
    for at, line in printed:
        if mark.search(line):
            return at
    raise UnknownLog(f"no line of vLLM's log ends the phase {phase} ({mark.pattern!r})")


def fixed_s(of: dict[str, float]) -> float:
    """What the start would cost with no model at all: every phase but the weights."""
    return sum(seconds for name, seconds in of.items() if name != WEIGHTS)
