"""The fraction of its devices, and the context, that each model should get. Pure, but for the pool's own arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from arena_server.config import Config
from arena_server.config_devices import check_devices
from arena_server.devices import DeviceInfo
from arena_server.errors import ConfigError
from arena_server.plan.needs import LEAST_LENGTH, Needs
from arena_server.plan.overhead import CONTEXT_BYTES
from arena_server.plan.shares import PAIR, Device, Shared, Want, hundredths_up, share_out, together

# Contexts that are tried, the longest first, where a model's own is too long for the card.
LENGTHS = (131072, 65536, 32768, 16384, 8192, 4096, LEAST_LENGTH)
# Placing depends on the fractions, and the fractions on who shares a device.
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Proposal:
    """One model's share. Fractions are in hundredths of its devices; None where it cannot be told, or cannot work.

    `length` is the context it is worked out for; `write_length` whether it has to be written to the configuration.
    """

    length: int
    smallest: int | None
    recommended: int | None
    write_length: bool = False


@dataclass(frozen=True, slots=True)
class Proposed:
    """All models' shares. `together` is how many can be awake at once whichever they are, by device; `sleepers` for how
    many is room there beside these."""

    models: Mapping[str, Proposal]
    homes: Mapping[str, tuple[int, ...]]
    together: Mapping[int, int]
    sleepers: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to share: the devices, the hundredths of each that the pool gives out, and host RAM for sleepers.

    `asleep_bytes` is what a sleeper keeps on a device, `sleepers` how many may sleep at once. `fixed` are models whose
    needs are not known, so that they keep the fractions that they have.
    """

    config: Config
    devices: Sequence[DeviceInfo]
    asleep_bytes: int
    sleepers: int
    fixed: frozenset[str] = frozenset()

    @property
    def budget(self) -> int:
        """Hundredths of each device."""
        return 100 - hundredths_up(round(self.config.pool.memory_reserve * 10**9), 10**9)

    def device_bytes(self, name: str | None = None) -> int:
        """The size of the smallest device that a model (or any) may come to: what fits there fits on all of these."""
        listed = "auto" if name is None else self.config.models[name].devices
        return min(d.total_bytes for d in self.devices if listed == "auto" or d.index in listed)

    @property
    def fixed_shares(self) -> dict[str, int]:
        """The hundredths that those in `fixed` have."""
        return {name: math.ceil(self.config.models[name].gpu_memory_utilization * 100) for name in self.fixed}


def with_shares(config: Config, shares: Mapping[str, int]) -> Config:
    """The configuration with those models' fractions, given in hundredths."""
    models = {
        name: model.model_copy(update={"gpu_memory_utilization": shares[name] / 100}) if name in shares else model
        for name, model in config.models.items()
    }
    return config.model_copy(update={"models": models})


def propose(room: Room, needs: Mapping[str, Needs]) -> Proposed:
    """Share the devices out among the models whose needs are known; the others keep what they have."""
    lengths = _lengths(room, needs)
    least = {name: _percent(room, name, needs[name].least_bytes(length)) for name, length in lengths.items()}
    working = {name: size for name, size in least.items() if size <= _beside_pinned(room, name, least)}
    shares = dict(working)
    homes: Mapping[str, tuple[int, ...]] = {}
    shared: dict[int, Shared] = {}
    for _ in range(ROUNDS):
        placed = _place(room, {**room.fixed_shares, **shares})
        if placed == homes:
            break
        homes = placed
        shares, shared = _share(room, needs, lengths, working, homes)
    return Proposed(
        models={
            name: Proposal(
                length=lengths[name],
                smallest=least[name],
                recommended=shares.get(name),
                write_length=name in working and _is_cut(needs[name], lengths[name]),
            )
            for name in lengths
        },
        homes=homes,
        together={device: s.together for device, s in shared.items()},
        sleepers={device: s.sleepers for device, s in shared.items()},
    )


def _percent(room: Room, name: str, size: int) -> int:
    return hundredths_up(size, room.device_bytes(name))


def _beside_pinned(room: Room, name: str, least: Mapping[str, int]) -> int:
    """What the pinned ones leave at most, were all on this model's device."""
    models = room.config.models
    if len(room.devices) > 1:
        return room.budget
    return room.budget - sum(least.get(n, 0) for n, m in models.items() if m.pinned and n != name)


def _place(room: Room, shares: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
    """Where the pool would put those models; nowhere if it refuses them together (too much is pinned, say)."""
    config = with_shares(room.config, {**dict.fromkeys(room.config.models, 1), **shares})
    try:
        return check_devices(config, room.devices)
    except ConfigError:
        return check_devices(with_shares(room.config, dict.fromkeys(room.config.models, 1)), room.devices)


def _share(
    room: Room,
    needs: Mapping[str, Needs],
    lengths: Mapping[str, int],
    least: Mapping[str, int],
    homes: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, int], dict[int, Shared]]:
    """Each device on its own; a model on several gets the least of what they give it."""
    shares: dict[str, int] = {}
    shared: dict[int, Shared] = {}
    for device in room.devices:
        names = [name for name in least if device.index in homes[name]]
        if not names:
            continue
        fixed = {name: n for name, n in room.fixed_shares.items() if device.index in homes[name]}
        wants = [_want(room, name, needs[name], lengths[name], least[name]) for name in names]
        wants += [Want(n, n, n, room.config.models[name].pinned) for name, n in fixed.items()]
        shared[device.index] = share_out(wants, _device(room, device.total_bytes))
        for name, share in zip(names, shared[device.index].shares, strict=False):
            shares[name] = min(share, shares.get(name, share))
    return shares, shared


def _device(room: Room, total_bytes: int) -> Device:
    return Device(
        budget=room.budget,
        context=Fraction(CONTEXT_BYTES * 100, total_bytes),
        sleeper=hundredths_up(room.asleep_bytes, total_bytes),
        max_awake=room.config.pool.max_awake_models,
        sleepers=room.sleepers,
    )


def _want(room: Room, name: str, of: Needs, length: int, least: int) -> Want:
    comfortable = max(least, _percent(room, name, of.comfortable_bytes(length)))
    most = max(comfortable, _percent(room, name, of.most_bytes(length)))
    return Want(least, comfortable, most, room.config.models[name].pinned)


def _lengths(room: Room, needs: Mapping[str, Needs]) -> dict[str, int]:
    """Each model's context.

    One that the configuration asks for is cut only where not even one such request fits. A model's own, which nobody
    asked for (131,072 tokens of Llama 3.1 take 16 GiB), is cut for all to the longest of `LENGTHS` with which two
    models can be awake together (beside those that are pinned, or with them), if it is the context that keeps them
    from it. After a cut two such requests fit, as
    one alone would leave no room for an estimate that is off.
    """
    lengths = {name: _longest(room, name, of) for name, of in needs.items()}
    # Of models on several cards each pair may well be on different ones: then the context is not what keeps them apart.
    per_device = -(-len(needs) // len(room.devices)) if needs else 0
    most = min(per_device, room.config.pool.max_awake_models or per_device)
    pins = sum(room.config.models[name].pinned for name in needs)
    device = replace(_device(room, room.device_bytes()), max_awake=None)

    def fit(cap: int, count: int) -> bool:
        sizes = {name: _percent(room, name, _capped_bytes(needs[name], n, cap)) for name, n in lengths.items()}
        working = {name: size for name, size in sizes.items() if size <= room.budget}
        pinned = [room.config.models[name].pinned for name in working]
        return len(working) >= count and together([*working.values()], pinned, device) >= count

    caps = (max(lengths.values(), default=0), *LENGTHS)
    counts = dict.fromkeys(min(count, most) for count in (PAIR + pins, PAIR))
    cap = next((cap for count in counts for cap in caps if fit(cap, count)), None)
    return lengths if cap is None else {name: _cut(needs[name], n, cap) for name, n in lengths.items()}


def _is_cut(of: Needs, length: int) -> bool:
    """Whether vLLM would take (or refuse) another context than the planned one; with `auto` it finds one itself."""
    return of.length != -1 and length < (of.own_length if of.length is None else of.length)


def _cut(of: Needs, length: int, cap: int) -> int:
    return length if of.length is not None and of.length > 0 else min(length, max(cap, 1))


def _capped_bytes(of: Needs, length: int, cap: int) -> int:
    cut = _cut(of, length, cap)
    return of.bytes_for(1 if cut == of.asked_length else 2, cut)


def _longest(room: Room, name: str, of: Needs) -> int:
    """The context as asked for, if one such request fits on the card; else the longest of `LENGTHS` of which two do.

    Where none does, the least: to say what it would take.
    """
    if _percent(room, name, of.least_bytes(of.asked_length)) <= room.budget:
        return of.asked_length
    for requests in (2, 1):
        for length in (n for n in LENGTHS if n < of.asked_length):
            if _percent(room, name, of.bytes_for(requests, length)) <= room.budget:
                return length
    return min(of.asked_length, LEAST_LENGTH)
