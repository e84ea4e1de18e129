"""The process that ranks: `python -m arena_server.arena.ranking_process`, votes in, standings out, both as JSON.

numpy and scipy would make the daemon slow to start, and a fit would hold up every stream for as long as it takes.
Both ends of the two JSON documents are here; only the process itself imports what computes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from arena_server.engine.parent_death import die_with_parent
from arena_server.store.records import Vote, VoteCount

# Behind the daemon and the engines: a leaderboard can wait a little, a token cannot.
NICE = 5
RATING_DIGITS = 1


def question(counts: Sequence[VoteCount], names: Sequence[str], rounds: int, seed: int) -> bytes:
    """What the process reads: the arguments of `ranking.rank`."""
    rows = [(c.a, c.b, c.vote.value, c.probability, c.count) for c in counts]
    return json.dumps({"counts": rows, "names": list(names), "rounds": rounds, "seed": seed}).encode()


def answer(output: bytes) -> dict[str, Any]:
    """What the process wrote: `votes`, `models` and `pairs` of the leaderboard. Raises ValueError if it is not that."""
    found = json.loads(output)
    if not isinstance(found, dict) or found.keys() != {"votes", "models", "pairs"}:
        raise ValueError("not a ranking")
    return found


def ranked(asked: bytes) -> bytes:
    """Do what `question` asks."""
    from arena_server.arena.ranking import rank

    value: Mapping[str, Any] = json.loads(asked)
    counts = [VoteCount(a, b, Vote(vote), probability, count) for a, b, vote, probability, count in value["counts"]]
    found = dataclasses.asdict(rank(counts, value["rounds"], value["seed"], value["names"]))
    for model in found["models"]:
        for key in ("rating", "lower", "upper"):
            if model[key] is not None:
                model[key] = round(model[key], RATING_DIGITS)
    return json.dumps(found).encode()


def main() -> None:
    """Entry of the process."""
    die_with_parent(os.getppid())
    os.nice(NICE)
    # Before numpy is imported: its threads would take the cores that streams need, and these matrices are small.
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    output = ranked(sys.stdin.buffer.read())
    sys.stdout.buffer.write(output)


if __name__ == "__main__":
    main()
