"""The pool's policy against the common ones, in virtual time, on the same requests.

- `core` is the daemon's own `PoolCore`.
- `lru` is the usual recipe: each request is for one model (a battle is two requests), and the least recently used model
  leaves as soon as another is asked for; `lru+sleep` puts it to sleep instead of stopping it.
- `lru whole` (battles only) is the same, but a battle starts when both of its models are awake.
- `fifo` serves strictly in order, battles in one piece: nobody overtakes.

Nothing fails. A load takes 30 s, a wake 1.5 s, falling asleep 2 s, a stop 1 s, one at a time. Sleepers hold nothing of
the device, host RAM is no limit, and answers do not slow each other down.

    python -m bench.policies [--requests 2000] [--seeds 3] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from bench.policies.contenders import CORE, LIMITS, LRU
from bench.policies.measure import WARM_UP_S, Bound, Row, Table, bounds, figures, tables
from bench.report import Report, machine

MOST_OF_LRU = 0.5
MOST_OF_ANY = 1.05
# Below this, two p95 are the same to whoever waits.
NEGLIGIBLE_S = 0.1


def missed(found: Sequence[Table]) -> list[str]:
    """The goals that were missed, and where."""
    lines = []
    for table in found:
        core = table.row(CORE)
        if table.battles and core.p95_s > MOST_OF_LRU * table.row(LRU).p95_s:
            lines.append(f"{table.name}: p95 is {core.p95_s / table.row(LRU).p95_s:.2f} of plain LRU's")
        for row in table.rows:
            if row.policy != CORE and core.p95_s > MOST_OF_ANY * row.p95_s + NEGLIGIBLE_S:
                lines.append(f"{table.name}: p95 is {core.p95_s / max(row.p95_s, 0.1):.2f} times that of {row.policy}")
        if core.max_s > LIMITS.max_wait_s:
            lines.append(f"{table.name}: somebody waited for {core.max_s:.0f} s")
    return lines


def _table_lines(table: Table) -> list[str]:
    lines = [
        f"{table.name}: {table.requests} requests, {table.rate_per_min:.1f} a minute; "
        f"all awake they would use {table.utilisation:.0%} of the room",
        "                wait s: p50     p95 (by seed)              max    apart    swaps   loads   wakes"
        "  finished/h  refused  in transition",
    ]
    return [*lines, *(_row_line(row) for row in table.rows), ""]


def _row_line(row: Row) -> str:
    by_seed = f"({min(row.p95_by_seed_s):,.0f} to {max(row.p95_by_seed_s):,.0f})"
    return (
        f"    {row.policy:<10}{row.p50_s:13,.1f}{row.p95_s:8,.1f} {by_seed:<16}{row.max_s:9,.1f}{row.apart_p95_s:9,.1f}"
        f"{row.swaps:9}{row.loads:8}{row.wakes:8}{row.finished_per_hour:12,.0f}{row.refused:9}{row.transition_share:15.0%}"
    )


def _bound_lines(found: Sequence[Bound]) -> list[str]:
    lines = [
        "The core's mean wait beside that of the best schedule a beam search found knowing all requests beforehand",
        "(12 requests from cold; loads only what somebody waits for; the true optimum is at most that):",
    ]
    for bound in found:
        name = f"{bound.workload}, {'sleep' if bound.sleeps else 'no sleep'}"
        lines.append(
            f"    {name:<36}{bound.core_s:7.1f} s beside {bound.best_s:6.1f} s: {bound.ratio:.2f} times"
            f" ({bound.cases} cases, at worst {bound.worst_ratio:.2f})"
        )
    return [*lines, ""]


def measure(args: argparse.Namespace) -> None:
    """Measure and print."""
    host = machine()
    began = time.monotonic()
    found = []
    for table in tables(args.requests, args.seeds):
        print(f"  {table.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        found.append(table)
    bound = list(bounds(args.cases, args.width))
    lines = [
        f"Virtual time. Waits are until all models were granted; those of the first {WARM_UP_S:g} s do not count.",
        f"`apart`: p95 of the time between the grants of a battle's two sides. Refused: after {LIMITS.max_wait_s:g} s.",
        "",
        *(line for table in found for line in _table_lines(table)),
        *_bound_lines(bound),
        *(f"Missed: {line}" for line in missed(found)),
    ]
    goal = (
        f"on battles a p95 wait of at most {MOST_OF_LRU:g} of plain LRU's, "
        f"nowhere more than {MOST_OF_ANY:g} times any other's, nobody waits over {LIMITS.max_wait_s:g} s"
    )
    results = {**figures(found, bound), "missed": missed(found)}
    Report("policies", host, lines, results, goal, not missed(found)).print(as_json=args.json)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="The pool's policy against the common ones, in virtual time.")
    parser.add_argument("--requests", type=int, default=2000, help="requests in each trace (2000)")
    parser.add_argument("--seeds", type=int, default=3, help="traces of each kind (3)")
    parser.add_argument("--cases", type=int, default=5, help="small cases of each kind beside the bound (5)")
    parser.add_argument("--width", type=int, default=300, help="states that the search for the bound keeps (300)")
    parser.add_argument("--quick", action="store_true", help="few requests: a trial run, its figures mean little")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    if args.quick:
        args.requests, args.seeds, args.cases, args.width = 300, 1, 1, 20
    measure(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
