"""The gaps between the tokens of a stream. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def gaps_ms(times: Sequence[float], began: float, ended: float) -> list[float]:
    """Between tokens that came at `times`, of which the later came between those two moments, or would have."""
    before = [t for t in times if t < began]
    inside = [t for t in times if began <= t]
    kept = list(itertools.takewhile(lambda t: t <= ended, inside))
    after = inside[len(kept) : len(kept) + 1]
    return [(b - a) * 1000 for a, b in itertools.pairwise([*before[-1:], *kept, *after])]
