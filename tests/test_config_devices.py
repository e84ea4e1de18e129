from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arena_server.config import Config, parse_config
from arena_server.config_devices import check_devices
from arena_server.config_types import Origin
from arena_server.devices import DeviceInfo
from arena_server.errors import ConfigError

FILE = Path("/etc/arena/arena.yaml")


def gpus(count: int, first: int = 0) -> list[DeviceInfo]:
    return [DeviceInfo(i, "GPU", 80 << 30) for i in range(first, first + count)]


def parse(models: dict[str, Any], **pool: Any) -> Config:
    raw = {"pool": pool, "models": {name: {"model": "org/x", **model} for name, model in models.items()}}
    return parse_config(json.dumps(raw).encode(), Origin(FILE, None))


def m(fraction: float, *flags: str, **more: Any) -> dict[str, Any]:
    return {"gpu_memory_utilization": fraction, **dict.fromkeys(flags, True), **more}


def tp(size: int) -> dict[str, Any]:
    return {"engine_args": {"tensor_parallel_size": size}}


@pytest.mark.parametrize(
    ("models", "count", "homes"),
    [
        ({"a": m(0.3), "b": m(0.3)}, 1, {"a": (0,), "b": (0,)}),
        ({"a": m(0.3), "b": m(0.3)}, 2, {"a": (0,), "b": (1,)}),
        # The largest first, each where most is unassigned, even when that is under nothing.
        ({"a": m(0.2), "b": m(0.9), "c": m(0.5)}, 2, {"a": (1,), "b": (0,), "c": (1,)}),
        ({"a": m(0.9), "b": m(0.8), "c": m(0.7), "d": m(0.6)}, 2, {"a": (0,), "b": (1,), "c": (1,), "d": (0,)}),
        # Listed ones stand before any is chosen, and in the order they are listed.
        ({"a": m(0.9), "b": m(0.1, devices=[0])}, 2, {"a": (1,), "b": (0,)}),
        ({"a": m(0.5, devices=[1, 0], **tp(2))}, 2, {"a": (1, 0)}),
        ({"a": m(0.5, **tp(2)), "b": m(0.9, devices=[1])}, 3, {"a": (0, 2), "b": (1,)}),
        # Largest first alone would put `p` next to `b`, which then could never load.
        ({"a": m(0.9), "b": m(0.8), "p": m(0.3, "pinned")}, 2, {"a": (1,), "b": (1,), "p": (0,)}),
        # A pinned one leaves a listed one its room, though the other device has less unassigned.
        (
            {
                "a": m(0.8, devices=[0]),
                "b": m(0.5, devices=[1]),
                "c": m(0.5, devices=[1]),
                "p": m(0.3, "pinned"),
            },
            2,
            {"a": (0,), "b": (1,), "c": (1,), "p": (1,)},
        ),
    ],
)
def test_homes(models: dict[str, Any], count: int, homes: dict[str, tuple[int, ...]]) -> None:
    found = check_devices(parse(models), gpus(count))
    assert found == homes
    assert list(found) == list(models)
    assert check_devices(parse(models), gpus(count)[::-1]) == homes


@pytest.mark.parametrize("flag", ["pinned", "preload"])
def test_what_fits_exactly_is_not_lost_to_floats(flag: str) -> None:
    assert 0.4 + 0.55 > 1 - 0.05
    assert check_devices(parse({"a": m(0.4, flag), "b": m(0.55, flag)}), gpus(1)) == {"a": (0,), "b": (0,)}


def test_the_whole_device_when_nothing_is_reserved() -> None:
    assert check_devices(parse({"a": m(1.0)}, memory_reserve=0), gpus(1, first=3)) == {"a": (3,)}


BUDGET = "0.95 (1 - pool.memory_reserve 0.05)"


@pytest.mark.parametrize(
    ("models", "pool", "count", "lines"),
    [
        ({"a": m(0.5)}, {}, 0, ["models: there is no device to run them on"]),
        (
            {"a": m(0.5, devices=[3]), "b": m(0.97), "c": m(0.1, **tp(4))},
            {},
            2,
            [
                "models.a.devices: there is no device 3 (this machine has 0, 1)",
                f"models.b.gpu_memory_utilization: 0.97 is over the device's budget of {BUDGET}",
                "models.c.devices: the engine runs on 4 devices, this machine has 0, 1 (lower its parallel sizes)",
            ],
        ),
        (
            {"a": m(0.2, "pinned"), "b": m(0.2, "pinned"), "c": m(0.97)},
            {"max_awake_models": 1},
            1,
            [
                "pool.max_awake_models: 1 is under the number of pinned models, 2 (raise it or unpin one)",
                f"models.c.gpu_memory_utilization: 0.97 is over the device's budget of {BUDGET}",
            ],
        ),
        (
            {"a": m(0.2, "pinned"), "b": m(0.2)},
            {"max_awake_models": 1},
            1,
            ["pool.max_awake_models: pinned models take all 1, the others could never load (raise it or unpin one)"],
        ),
        (
            {"a": m(0.2, "preload"), "b": m(0.2, "preload")},
            {"max_awake_models": 1},
            1,
            ["pool.max_awake_models: 1 is under the number of models to preload, 2 (raise it or preload fewer)"],
        ),
        (
            {"a": m(0.5, "pinned"), "b": m(0.46, "pinned")},
            {},
            1,
            [f"models: pinned on device 0: `a` 0.5, `b` 0.46: over its budget of {BUDGET} (unpin or move one)"],
        ),
        (
            {"a": m(0.5, "pinned"), "b": m(0.45), "c": m(0.46), "d": m(0.9, devices=[1])},
            {},
            1,
            ["models.d.devices: there is no device 1 (this machine has 0)"],
        ),
        (
            {"a": m(0.3, "pinned"), "b": m(0.2, "pinned"), "c": m(0.45), "d": m(0.46)},
            {},
            1,
            [
                "models.d.gpu_memory_utilization: 0.46 never fits next to the pinned models: "
                "`a` 0.3, `b` 0.2 leave 0.45 of device 0 (unpin or move one)"
            ],
        ),
        (
            {"a": m(0.5, "preload"), "b": m(0.4, "preload", devices=[0]), "c": m(0.1, "preload", devices=[0])},
            {},
            1,
            [f"models: to preload on device 0: `a` 0.5, `b` 0.4, `c` 0.1: over its budget of {BUDGET} (preload fewer)"],
        ),
    ],
)
def test_faults(models: dict[str, Any], pool: dict[str, Any], count: int, lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_devices(parse(models, **pool), gpus(count))
    assert caught.value.lines == [f"{FILE}: {line}" for line in lines]


def test_all_awake_models_may_be_pinned_when_there_are_no_others() -> None:
    models = {"a": m(0.4, "pinned"), "b": m(0.4, "pinned")}
    assert check_devices(parse(models, max_awake_models=2), gpus(1)) == {"a": (0,), "b": (0,)}


PERCENT = st.integers(min_value=1, max_value=95)


@st.composite
def pools(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Models by name, with their fractions in percent under `percent`, and a number of devices."""
    count = draw(st.integers(min_value=1, max_value=3))
    models: dict[str, Any] = {}
    for i in range(draw(st.integers(min_value=1, max_value=6))):
        size = draw(st.integers(min_value=1, max_value=count))
        model = {"percent": draw(PERCENT), "pinned": draw(st.booleans()), "preload": draw(st.booleans()), **tp(size)}
        if draw(st.booleans()):
            model["devices"] = draw(st.permutations(range(count)))[:size]
        models[f"m{i}"] = model
    return models, count


def as_config(models: dict[str, Any]) -> Config:
    given = {
        name: {**{k: v for k, v in model.items() if k != "percent"}, "gpu_memory_utilization": model["percent"] / 100}
        for name, model in models.items()
    }
    return parse(given)


@given(pools())
@example(({"a": {"percent": 95, "pinned": True, "preload": True}}, 1))
@example(({name: {"percent": 19, "pinned": True, "preload": True} for name in "abcde"}, 1))
def test_what_is_accepted_fits_to_the_percent(pool: tuple[dict[str, Any], int]) -> None:
    models, count = pool
    try:
        homes = check_devices(as_config(models), gpus(count))
    except ConfigError:
        return
    for name, model in models.items():
        size = model.get("engine_args", {}).get("tensor_parallel_size", 1)
        assert len(set(homes[name])) == len(homes[name]) == size
        assert set(homes[name]) <= set(range(count))
        assert homes[name] == tuple(model.get("devices", homes[name]))
    for index in range(count):
        here = [model for name, model in models.items() if index in homes[name]]
        pinned = sum(model["percent"] for model in here if model["pinned"])
        assert pinned <= 95
        assert all(pinned + model["percent"] <= 95 for model in here if not model["pinned"])
        assert sum(model["percent"] for model in here if model["preload"]) <= 95


@given(pools())
def test_with_nothing_pinned_or_preloaded_every_pool_is_accepted(pool: tuple[dict[str, Any], int]) -> None:
    models, count = pool
    loose = {name: {**model, "pinned": False, "preload": False} for name, model in models.items()}
    assert check_devices(as_config(loose), gpus(count)).keys() == models.keys()


@given(st.lists(PERCENT, min_size=1, max_size=4), st.integers(min_value=1, max_value=3))
def test_one_pinned_model_shuts_nobody_out_where_some_placement_does_not(percents: list[int], count: int) -> None:
    models: dict[str, Any] = {f"m{i}": {"percent": p, "pinned": i == 0} for i, p in enumerate(percents)}
    possible = any(
        all(home != 0 or percents[0] + p <= 95 for home, p in zip(homes, percents[1:], strict=True))
        for homes in product(range(count), repeat=len(percents) - 1)
    )
    try:
        check_devices(as_config(models), gpus(count))
        accepted = True
    except ConfigError:
        accepted = False
    assert accepted == possible
