"""Whether the configured models fit on the machine's devices, and on which of them each one lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from arena_server.config import Config
from arena_server.config_file import Fault, fault_line
from arena_server.config_model import ModelConfig
from arena_server.devices import DeviceInfo
from arena_server.errors import ConfigError


def check_devices(
    config: Config, devices: Sequence[DeviceInfo], keep: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Each model's name -> the numbers of the devices it lives on, in the configuration's order.

    Listed devices are taken as they are, `auto` ones are chosen (see `_place`), but for those in `keep`, which stay
    where that says if they still run on so many; the same arguments always give the same answer. Raises ConfigError,
    with a line for each model that could never be loaded and each set of pinned or preloaded models that does not fit
    together. Remote models live on none, and count for nothing here.
    """
    faults = [*_count_faults(config), *_single_faults(config, devices)]
    if not faults:
        homes = _place(config, devices, keep or {})
        faults = [*_pinned_faults(config, homes), *_preload_faults(config, homes)]
    if faults:
        raise ConfigError(fault_line(config.file, fault) for fault in faults)
    return homes


def _local(config: Config) -> dict[str, ModelConfig]:
    """The models whose engines run here."""
    return {name: model for name, model in config.models.items() if not model.remote}


def _exact(fraction: float) -> Fraction:
    """The decimal that was written: as floats, 0.4 + 0.55 is over 1 - 0.05."""
    return Fraction(str(fraction))


def _share(model: ModelConfig) -> Fraction:
    return _exact(model.gpu_memory_utilization)


def _budget(config: Config) -> Fraction:
    return 1 - _exact(config.pool.memory_reserve)


def _text(fraction: Fraction) -> str:
    return f"{float(fraction):.10g}"


def _budget_text(config: Config) -> str:
    return f"{_text(_budget(config))} (1 - pool.memory_reserve {_text(_exact(config.pool.memory_reserve))})"


def _count_faults(config: Config) -> Iterator[Fault]:
    limit = config.pool.max_awake_models
    if limit is None:
        return
    where = ("pool", "max_awake_models")
    models = _local(config)
    pinned = sum(model.pinned for model in models.values())
    preload = sum(model.preload for model in models.values())
    if pinned > limit:
        yield where, f"{limit} is under the number of pinned models, {pinned} (raise it or unpin one)"
    elif pinned == limit < len(models):
        yield where, f"pinned models take all {limit}, the others could never load (raise it or unpin one)"
    if preload > limit:
        yield where, f"{limit} is under the number of models to preload, {preload} (raise it or preload fewer)"


def _single_faults(config: Config, devices: Sequence[DeviceInfo]) -> Iterator[Fault]:
    """What is wrong with a model whatever the others are."""
    existing = sorted(device.index for device in devices)
    models = _local(config)
    if not existing and models:
        yield ("models",), "there is no device to run them on"
        return
    have = f"this machine has {', '.join(map(str, existing))}"
    for name, model in models.items():
        where = ("models", name, "devices")
        if model.devices == "auto":
            if model.needed_devices > len(existing):
                yield where, f"the engine runs on {model.needed_devices} devices, {have} (lower its parallel sizes)"
        else:
            for index in model.devices:
                if index not in existing:
                    yield where, f"there is no device {index} ({have})"
        if _share(model) > _budget(config):
            over = f"{_text(_share(model))} is over the device's budget of {_budget_text(config)}"
            yield ("models", name, "gpu_memory_utilization"), over


@dataclass(slots=True)
class _Load:
    """What has been put on one device, in fractions of it."""

    index: int
    unassigned: Fraction
    beside_pinned: Fraction
    largest: Fraction = Fraction(0)

    def fits(self, model: ModelConfig) -> bool:
        """Whether each model on it could still be loaded next to all pinned ones if `model` came here."""
        rest = self.beside_pinned - self.largest if model.pinned else self.beside_pinned
        return _share(model) <= rest

    def put(self, model: ModelConfig) -> None:
        share = _share(model)
        self.unassigned -= share
        if model.pinned:
            self.beside_pinned -= share
        else:
            self.largest = max(self.largest, share)


def _place(
    config: Config, devices: Sequence[DeviceInfo], keep: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Spread the `auto` models over the devices, after the listed ones and those to `keep`.

    Pinned ones first, then the others, each in order of decreasing fraction (ties: the configuration's
    order), on the devices with the most unassigned fraction (ties: the lowest number) among those where the
    model fits beside the pinned ones. Were pinned models placed last, they could land where they shut others out
    though another device had room.
    """
    budget = _budget(config)
    loads = {d.index: _Load(d.index, budget, budget) for d in sorted(devices, key=lambda d: d.index)}
    homes: dict[str, tuple[int, ...]] = {name: () for name, model in config.models.items() if model.remote}
    for name, model in _local(config).items():
        home = _fixed(model, keep.get(name, ()), loads)
        for index in home:
            loads[index].put(model)
        if home:
            homes[name] = home
    waiting = [(name, model) for name, model in config.models.items() if name not in homes]
    for name, model in sorted(waiting, key=lambda item: (not item[1].pinned, -_share(item[1]))):
        order = sorted(loads.values(), key=lambda load: (not load.fits(model), -load.unassigned, load.index))
        chosen = order[: model.needed_devices]
        for load in chosen:
            load.put(model)
        homes[name] = tuple(sorted(load.index for load in chosen))
    return {name: homes[name] for name in config.models}


def _fixed(model: ModelConfig, kept: tuple[int, ...], loads: Mapping[int, _Load]) -> tuple[int, ...]:
    """The devices of a model that is not to be placed; none if it is."""
    if model.devices != "auto":
        return model.devices
    stays = len(kept) == model.needed_devices and all(i in loads and loads[i].fits(model) for i in kept)
    return kept if stays else ()


def _by_device(homes: dict[str, tuple[int, ...]], names: Sequence[str]) -> dict[int, list[str]]:
    indices = sorted({index for home in homes.values() for index in home})
    return {index: [name for name in names if index in homes[name]] for index in indices}


def _sum(config: Config, names: Sequence[str]) -> Fraction:
    return sum((_share(config.models[name]) for name in names), Fraction(0))


def _list(config: Config, names: Sequence[str]) -> str:
    return ", ".join(f"`{name}` {_text(_share(config.models[name]))}" for name in names)


def _pinned_faults(config: Config, homes: dict[str, tuple[int, ...]]) -> Iterator[Fault]:
    pinned = [name for name, model in config.models.items() if model.pinned]
    for index, names in _by_device(homes, pinned).items():
        rest = _budget(config) - _sum(config, names)
        if rest < 0:
            over = f"over its budget of {_budget_text(config)}"
            yield ("models",), f"pinned on device {index}: {_list(config, names)}: {over} (unpin or move one)"
            continue
        for name, model in config.models.items():
            if not model.pinned and index in homes[name] and _share(model) > rest:
                left = f"{_list(config, names)} leave {_text(rest)} of device {index}"
                what = f"{_text(_share(model))} never fits next to the pinned models: {left} (unpin or move one)"
                yield ("models", name, "gpu_memory_utilization"), what


def _preload_faults(config: Config, homes: dict[str, tuple[int, ...]]) -> Iterator[Fault]:
    preload = [name for name, model in config.models.items() if model.preload]
    for index, names in _by_device(homes, preload).items():
        if _sum(config, names) > _budget(config):
            over = f"over its budget of {_budget_text(config)}"
            yield ("models",), f"to preload on device {index}: {_list(config, names)}: {over} (preload fewer)"
