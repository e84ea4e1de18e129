"""Whether arena-server is as far ahead as it should be, from what each front door adds to the first token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.peers import nginx

ARENA = "arena-server"
LEAST_TIMES_AHEAD = 3.0  # of each Python one
MOST_TIMES_NGINX = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The goal as far as it was measured, whether it is met, and the ratios that decide it."""

    goal: str
    met: bool
    ratios: dict[str, float | None]  # for nginx, arena-server's by its; for the others, theirs by arena-server's
    lines: list[str]


def judge(added_ms: Mapping[str, float]) -> Verdict:
    """From the added median milliseconds to the first token at one client, arena-server's and at least one other's."""
    ours = added_ms[ARENA]
    pythons = [name for name in added_ms if name not in (ARENA, nginx.NAME)]
    ratios: dict[str, float | None] = {}
    met, goals, lines = True, [], []
    for name in pythons:
        ahead = added_ms[name] >= LEAST_TIMES_AHEAD * ours
        met &= ahead
        ratios[name] = _ratio(added_ms[name], ours)
        lines.append(f"{name} adds {_times(ratios[name])} what arena-server adds{'' if ahead else ': not enough'}")
    if pythons:
        theirs = " and ".join(f"{name}'s" for name in pythons)
        goals.append(f"at least {LEAST_TIMES_AHEAD:g} times smaller than {theirs}")
    if nginx.NAME in added_ms:
        within = ours <= MOST_TIMES_NGINX * added_ms[nginx.NAME]
        met &= within
        ratios[nginx.NAME] = _ratio(ours, added_ms[nginx.NAME])
        lines.append(f"arena-server adds {_times(ratios[nginx.NAME])} what nginx adds{'' if within else ': too much'}")
        goals.append(f"at most {MOST_TIMES_NGINX:g} times nginx's")
    if not pythons:
        lines.append("No Python front door was measured: this says how far nginx is, and nothing else.")
    goal = f"arena-server's added time to first token (1 client, paced, median) {', '.join(goals)}"
    return Verdict(goal, met, ratios, lines)


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def _times(ratio: float | None) -> str:
    return "(no ratio, for one of them adds nothing)" if ratio is None else f"{ratio:.2f} times"
