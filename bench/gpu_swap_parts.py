"""Makes one result of several that `bench.gpu_swap` ended with, each a part: for machines that can be had for minutes.

python -m bench.suite gpu_swap --out parts/engines -- --only engines
python -m bench.suite gpu_swap --out parts/level-1 -- --only swaps --levels 1
python -m bench.gpu_swap_parts parts/*/gpu_swap.json        # writes docs/benchmarks/gpu_swap.json
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu_swap import BENCH, report
from bench.report import Spread
from bench.result import RESULTS, Result, keep, parse

# The rest of what is said of a machine must be the same. Of one kind, another one may have a little less RAM.
MAY_DIFFER = frozenset({"load_average", "memory_gib"})


class PartsError(Exception):
    """The parts make no whole. The text says why."""


def joined(parts: Sequence[Result]) -> Result:
    """One result of parts that were measured alike. Raises PartsError."""
    parts = sorted(parts, key=lambda part: part.began)
    first = parts[0]
    for part in parts:
        one, other = _alike(first), _alike(part)
        if differ := sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)):
            raise PartsError(f"the parts differ in {', '.join(differ)}")
    host = {**first.machine, "load_average": max(part.machine["load_average"] for part in parts)}
    made = report(host, _figures(parts))
    return Result(
        **made.fields(),
        command="\n".join(part.command for part in parts),
        began=first.began,
        seconds=sum(part.seconds for part in parts),
        commit=", ".join(dict.fromkeys(part.commit for part in parts)),
        versions=first.versions,
    )


def _alike(part: Result) -> dict[str, Any]:
    """What all parts must have in common."""
    if part.bench != BENCH:
        raise PartsError(f"a result of {part.bench}, not of {BENCH}")
    about = {name: value for name, value in part.machine.items() if name not in MAY_DIFFER}
    return {**about, **part.versions, **{name: part.figures[name] for name in ("size", "dry_run")}}


def _figures(parts: Sequence[Result]) -> dict[str, Any]:
    """All of their figures; each was measured in one of them."""
    engines = [part.figures for part in parts if "seconds" in part.figures]
    if len(engines) != 1:
        raise PartsError(f"one part must have measured the engines, and {len(engines)} have")
    swaps = [swap for part in parts for swap in part.figures["swap_s"].items()]
    if twice := [level for level, times in Counter(level for level, _ in swaps).items() if times > 1]:
        raise PartsError(f"several parts have swaps at level {', '.join(twice)}")
    return {
        **{name: engines[0][name] for name in ("dry_run", "size", "bytes")},
        "seconds": _spreads(engines[0]["seconds"]),
        "swap_s": {level: _spreads(swap) for level, swap in sorted(swaps)},
    }


def _spreads(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Spread]:
    """As they were before they became JSON."""
    return {name: Spread(**fields) for name, fields in found.items()}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make one result of the parts of bench.gpu_swap.")
    parser.add_argument("parts", nargs="+", type=Path, metavar="PART.json", help="as bench.suite kept them")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the result is kept (docs/benchmarks)")
    args = parser.parse_args()
    try:
        result = joined([parse(path.read_text()) for path in args.parts])
    except PartsError as e:
        print(e, file=sys.stderr)
        return 1
    keep(args.out / f"{BENCH}.json", result)
    print("\n".join(result.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
