"""How a device is shared out among its models, in hundredths of it. Pure.

The aim of an arena is that any two models can be awake together. So:

1. Each model gets at least what one full-length request needs (`least`).
2. As many as possible should fit together, whichever they are, each with room for some conversations (`comfortable`).
   If not even two do, two with their least will do (beside all that are pinned, if that is possible: these are
   always there); else one at a time, but those two that can be together stay so.
3. What the largest such set leaves is split evenly over as many models, after room for what the others keep on the
   device while they sleep. Nobody gets more than it can use (`most`).

So any `together` of the models fit within the budget, and so do they with what the sleepers keep. Each engine's CUDA
context comes on top of its share, since vLLM does not count it there, and yet will not start if its share is not free:
where the pool's reserve has not the room for as many, the shares have to leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import floor

PAIR = 2


@dataclass(frozen=True, slots=True)
class Want:
    """One model's wishes, in hundredths of a device: `least` <= `comfortable` <= `most`."""

    least: int
    comfortable: int
    most: int
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Shared:
    """Hundredths for each model, in the order they were given; how many fit together; for how many sleepers is room."""

    shares: tuple[int, ...]
    together: int
    sleepers: int


def hundredths_up(size: int, of: int) -> int:
    """The least number of hundredths of `of` that hold `size`."""
    return -(-size * 100 // of)


@dataclass(frozen=True, slots=True)
class Device:
    """Hundredths: what the pool gives out, and what an engine's context (exactly) and a sleeper take each.

    `max_awake` bounds how many are awake at once (None: any), `sleepers` how many sleep, for which there is host RAM.
    """

    budget: int
    context: Fraction | int = 0
    sleeper: int = 0
    max_awake: int | None = None
    sleepers: int = 0

    def room(self, awake: int) -> int:
        """What so many awake models may have together."""
        return min(self.budget, floor(100 - awake * self.context))


def together(sizes: Sequence[int], pinned: Sequence[bool], device: Device) -> int:
    """The most models of which any choice fits, if it has all pinned ones in it; 0 if not even the pinned ones fit."""
    used = sum(size for size, is_pinned in zip(sizes, pinned, strict=True) if is_pinned)
    count = sum(pinned)
    if used > device.room(count):
        return 0
    for size in sorted((s for s, is_pinned in zip(sizes, pinned, strict=True) if not is_pinned), reverse=True):
        if used + size > device.room(count + 1) or (device.max_awake is not None and count >= device.max_awake):
            break
        used, count = used + size, count + 1
    return count


def share_out(wants: Sequence[Want], device: Device) -> Shared:
    """Share a device out. Each of `wants` must fit beside the pinned ones."""
    pinned = [want.pinned for want in wants]
    leasts = [want.least for want in wants]
    most = together(leasts, pinned, device)
    count = max(min(PAIR + sum(pinned), most), together([want.comfortable for want in wants], pinned, device))
    if count == 0:
        return Shared(tuple(leasts), 0, 0)
    slack = device.room(count) - _largest(leasts, pinned, count)
    asleep = min(len(wants) - count, device.sleepers)
    if device.sleeper:
        asleep = min(asleep, slack // device.sleeper)
    ceilings = _ceilings(wants, device)
    if count == 1 and device.max_awake != 1:
        # Alone, it leaves the sleepers theirs.
        alone = device.room(1) - asleep * device.sleeper
        shares = [max(want.least, min(ceiling, alone)) for want, ceiling in zip(wants, ceilings, strict=True)]
        return Shared(tuple(shares), 1, asleep)
    if count >= PAIR + sum(pinned):  # then no two are ever apart
        ceilings = [want.most for want in wants]
    shares = leasts
    while growing := [i for i, ceiling in enumerate(ceilings) if shares[i] < ceiling]:
        slack = device.room(count) - asleep * device.sleeper - _largest(shares, pinned, count)
        # So many of those that can use more are in a choice at the most.
        extra = slack // min(count, len(growing))
        if extra < 1:
            break
        shares = [min(n + extra, ceilings[i]) if i in growing else n for i, n in enumerate(shares)]
    return Shared(tuple(shares), count, asleep)


def _ceilings(wants: Sequence[Want], device: Device) -> list[int]:
    """The most each can use and yet leave every two together that can be awake with the pinned ones at all."""
    pinned = {i for i, want in enumerate(wants) if want.pinned}
    found = [want.most for want in wants]
    for pair in combinations(range(len(wants)), PAIR):
        chosen = pinned.union(pair)
        slack = device.room(len(chosen)) - sum(wants[i].least for i in chosen)
        if slack < 0 or (device.max_awake is not None and len(chosen) > device.max_awake):
            continue
        for i in chosen:
            found[i] = min(found[i], wants[i].least + slack // len(chosen))
    return found


def _largest(sizes: Sequence[int], pinned: Sequence[bool], count: int) -> int:
    """What the largest choice of so many models takes, all pinned ones among them."""
    kept = [size for size, is_pinned in zip(sizes, pinned, strict=True) if is_pinned]
    rest = sorted((size for size, is_pinned in zip(sizes, pinned, strict=True) if not is_pinned), reverse=True)
    return sum(kept) + sum(rest[: max(count - len(kept), 0)])
