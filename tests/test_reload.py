"""The configuration is read again while the daemon runs: what did not change goes on, what did is replaced in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from arena_server import reload as reload_module
from arena_server.api.admin import Reloaded
from arena_server.config import Config, load_config
from arena_server.errors import ConfigError, ModelUnavailable, QueueFull, ShuttingDown
from arena_server.measurements import MeasurementStore
from arena_server.pool.residency import Residency
from tests.support.daemon_app import FakeDaemon, Parts, config_of, running_daemon, running_pool
from tests.support.fake_engine import FakeEngine
from tests.support.fake_probe import FakeProbe
from tests.support.gate import LIMIT_S, turns, until
from tests.support.leases import ask, use, waits
from tests.support.raw_client import Answer, once, post

PATH = "/v1/completions"
# All of them fit at a time.
MODELS: Mapping[str, Mapping[str, Any]] = {
    name: {"model": f"org/{name}", "gpu_memory_utilization": 0.3, "sleep_level": 0} for name in ("alpha", "beta")
}
GAMMA = {"model": "org/gamma", "gpu_memory_utilization": 0.3, "sleep_level": 0}
OTHER = {**MODELS["alpha"], "engine_args": {"max_model_len": 512}}


def ask_for(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": "one two three", "max_tokens": 3, "stream": True}


def write(file: Path, models: Mapping[str, Mapping[str, Any]], **sections: Any) -> None:
    """JSON is YAML."""
    file.write_text(json.dumps({"models": models, **sections}))


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    file = tmp_path / "arena.yaml"
    write(file, MODELS)
    async with running_daemon(file=file) as running:
        yield running
        await running.come_to_rest()


async def reload(daemon: FakeDaemon, models: Mapping[str, Mapping[str, Any]], **sections: Any) -> Reloaded:
    """Write the file anew and have it read."""
    write(daemon.config.file, models, **sections)
    answer = await once(daemon.port, "POST", "/admin/reload")
    assert answer.status == 200, answer.body
    return Reloaded.model_validate(answer.json())


def report(**parts: list[str]) -> Reloaded:
    nothing: dict[str, list[str]] = {name: [] for name in Reloaded.model_fields}
    return Reloaded.model_validate({**nothing, **parts})


async def served(daemon: FakeDaemon) -> list[str]:
    return [card["id"] for card in (await once(daemon.port, "GET", "/v1/models")).json()["data"]]


@contextlib.asynccontextmanager
async def streaming(daemon: FakeDaemon, name: str) -> AsyncIterator[asyncio.Task[Answer]]:
    """A stream of which the first event has left the engine."""
    engine = daemon.engines[name]
    seen = len(engine.requests)
    engine.chunks.hold()
    task = asyncio.create_task(post(daemon.port, PATH, ask_for(name)))
    request = await engine.request(seen)
    engine.chunks.release(1)
    await until(lambda: request.sent == 1, "the first event")
    yield task
    engine.chunks.release()


def whole(answer: Answer) -> bool:
    return answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n") and b"error" not in answer.body


async def test_the_same_file_changes_nothing(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    engines = dict(daemon.engines)
    assert await reload(daemon, MODELS) == report(unchanged=["alpha", "beta"])
    assert daemon.engines == engines
    assert daemon.view("alpha").residency is Residency.AWAKE


async def test_models_come_and_go(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    done = await reload(daemon, {"beta": MODELS["beta"], "org/gamma": GAMMA})
    assert done == report(added=["org/gamma"], removed=["alpha"], unchanged=["beta"])
    assert await served(daemon) == ["beta", "org/gamma"]
    assert whole(await post(daemon.port, PATH, ask_for("org/gamma")))
    assert (await post(daemon.port, PATH, ask_for("alpha"))).status == 404
    assert (await once(daemon.port, "POST", "/admin/models/alpha/load")).status == 404
    await until(lambda: len(daemon.pool.view().models) == 2, "alpha to be gone")
    health = (await once(daemon.port, "GET", "/health")).json()
    assert health["models"].keys() == {"beta", "org/gamma"}


async def test_a_stream_of_a_model_that_did_not_change_goes_on(daemon: FakeDaemon) -> None:
    async with streaming(daemon, "alpha") as stream:
        done = await reload(daemon, {"alpha": {**MODELS["alpha"], "pinned": True, "idle_ttl_s": 1000}, "new": GAMMA})
        assert done == report(added=["new"], removed=["beta"], unchanged=["alpha"])
        assert daemon.view("alpha").pinned
        assert daemon.view("alpha").draining is None
        daemon.engines["alpha"].chunks.release()
        assert whole(await stream)
    assert len([e for e in daemon.made if e.name == "alpha"]) == 1
    assert daemon.engines["alpha"].stops == 0


async def test_a_stream_of_a_changed_model_ends_well_and_then_the_new_engine_serves(daemon: FakeDaemon) -> None:
    old = daemon.engines["alpha"]
    async with streaming(daemon, "alpha") as stream:
        assert await reload(daemon, {**MODELS, "alpha": OTHER}) == report(changed=["alpha"], unchanged=["beta"])
        new = daemon.engines["alpha"]
        assert new is not old
        assert daemon.view("alpha").draining == "its configuration changed"
        again = asyncio.create_task(post(daemon.port, PATH, ask_for("alpha")))
        await waits(daemon, "alpha")
        await turns()
        assert (old.stops, new.loads) == (0, 0)
        old.chunks.release()
        assert whole(await stream)
    assert whole(await again)
    assert (old.stops, len(old.inference), new.loads, len(new.inference)) == (1, 1, 1, 1)


async def test_a_removed_models_stream_ends_well_though_nobody_else_is_let_in(daemon: FakeDaemon) -> None:
    old = daemon.engines["alpha"]
    async with streaming(daemon, "alpha") as stream:
        assert (await reload(daemon, {"beta": MODELS["beta"]})).removed == ["alpha"]
        answer = await post(daemon.port, PATH, ask_for("alpha"))
        assert (answer.status, answer.error()["code"]) == (404, "model_not_found")
        pool = (await once(daemon.port, "GET", "/admin/pool")).json()
        assert [m["name"] for m in pool["models"]] == ["beta", "alpha"], "it is still there"
        assert (await once(daemon.port, "GET", "/health")).json()["models"].keys() == {"beta"}
        old.chunks.release()
        assert whole(await stream)
    await until(lambda: not old.remains, "its engine to be stopped")
    await until(lambda: len(daemon.pool.view().models) == 1, "alpha to be gone")


async def test_who_waits_for_a_removed_model_is_told(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].load_gate.hold()
    waiting = asyncio.create_task(post(daemon.port, PATH, ask_for("alpha")))
    await waits(daemon, "alpha")
    await reload(daemon, {"beta": MODELS["beta"]})
    answer = await waiting
    assert answer.status == 503
    assert answer.error()["message"] == "alpha is no longer in the configuration."
    await until(lambda: len(daemon.pool.view().models) == 1, "alpha to be gone")
    await use(daemon, "beta")


async def test_a_load_of_what_changed_is_called_off_and_who_waits_gets_the_new_one(daemon: FakeDaemon) -> None:
    old = daemon.engines["alpha"]
    old.load_gate.hold()
    waiting = asyncio.create_task(post(daemon.port, PATH, ask_for("alpha")))
    await until(lambda: old.progress, "the load to begin")
    await reload(daemon, {**MODELS, "alpha": OTHER})
    assert whole(await waiting)
    assert (old.stops, len(old.inference), daemon.engines["alpha"].loads) == (1, 0, 1)


async def test_a_failed_model_may_be_asked_for_at_once_when_its_configuration_changed(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].fail_loads("broken weights")
    for _ in range(2):
        with pytest.raises(ModelUnavailable):
            await daemon.pool.acquire(["alpha"])
        await until(lambda: daemon.view("alpha").residency in (Residency.COLD, Residency.FAILED), "the end of it")
    assert daemon.view("alpha").residency is Residency.FAILED
    await reload(daemon, {**MODELS, "alpha": OTHER})
    assert whole(await post(daemon.port, PATH, ask_for("alpha")))


# What is wrong


async def unchanged(daemon: FakeDaemon, said: list[str]) -> list[str]:
    """The lines of the refusal to read the file; nothing else has come of it."""
    engines, before = dict(daemon.engines), daemon.pool.view().models
    answer = await once(daemon.port, "POST", "/admin/reload")
    assert answer.status == 400
    error = answer.error()
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_configuration")
    assert daemon.engines == engines
    assert [(v.name, v.residency) for v in daemon.pool.view().models] == [(v.name, v.residency) for v in before]
    assert await served(daemon) == ["alpha", "beta"]
    lines: list[str] = error["message"].splitlines()
    assert all(line.startswith(f"{daemon.config.file}: ") for line in lines)
    assert len(lines) == len(said)
    for part in said:
        assert any(part in line for line in lines), (part, lines)
    return lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [", ["line 1"]),
        ("", ["is empty"]),
        ("models: {}", ["models: must have at least 1 entry"]),
        (
            json.dumps({"models": {"alpha": {"model": "x", "pinned": 3}, "b b": {"model": "x"}}, "poool": {}}),
            ["models.alpha.pinned: must be true or false", "models.b b", "poool: unknown key (did you mean `pool`?)"],
        ),
        (json.dumps({"models": {"alpha": {"model": "x", "devices": [7]}}}), ["models.alpha.devices"]),
        (
            json.dumps({"models": {n: {"model": "x", "gpu_memory_utilization": 0.6, "pinned": True} for n in "ab"}}),
            ["pinned on device 0"],
        ),
    ],
)
async def test_a_bad_file_is_refused_line_by_line_and_nothing_changes(
    daemon: FakeDaemon, text: str, said: list[str]
) -> None:
    await use(daemon, "alpha")
    daemon.config.file.write_text(text)
    await unchanged(daemon, said)
    assert daemon.view("alpha").residency is Residency.AWAKE
    # A good one is then compared with what is in force.
    assert await reload(daemon, {**MODELS, "org/gamma": GAMMA}) == report(
        added=["org/gamma"], unchanged=["alpha", "beta"]
    )


async def test_a_file_that_is_gone_is_refused(daemon: FakeDaemon) -> None:
    daemon.config.file.unlink()
    await unchanged(daemon, ["cannot be read"])


async def test_a_bad_configuration_is_raised_with_all_of_its_lines() -> None:
    async with running_pool(MODELS) as parts:
        both = {name: {**m, "gpu_memory_utilization": 0.99} for name, m in MODELS.items()}
        with pytest.raises(ConfigError) as raised:
            parts.daemon.reloader.apply(config_of(both))
        assert len(raised.value.lines) == 2
        assert raised.value.status == 400
        await use(parts, "alpha")


# Names, keys, limits


async def test_aliases_change(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    done = await reload(daemon, {**MODELS, "alpha": {**MODELS["alpha"], "aliases": ["gpt-4o"]}})
    assert done == report(unchanged=["alpha", "beta"])
    assert await served(daemon) == ["alpha", "beta", "gpt-4o"]
    assert whole(await post(daemon.port, PATH, ask_for("gpt-4o")))
    assert len([e for e in daemon.made if e.name == "alpha"]) == 1
    await reload(daemon, {**MODELS, "beta": {**MODELS["beta"], "aliases": ["gpt-4o"]}})
    assert whole(await post(daemon.port, PATH, ask_for("gpt-4o")))
    assert len(daemon.engines["beta"].inference) == 1
    await reload(daemon, MODELS)
    assert (await post(daemon.port, PATH, ask_for("gpt-4o"))).status == 404


async def test_an_alias_becomes_a_model_and_a_model_an_alias(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    done = await reload(daemon, {"beta": {**MODELS["beta"], "aliases": ["alpha"]}})
    assert done == report(removed=["alpha"], unchanged=["beta"])
    assert whole(await post(daemon.port, PATH, ask_for("alpha")))
    assert len(daemon.engines["beta"].inference) == 1


async def test_keys_that_need_a_restart_are_named_and_keep_their_effect(daemon: FakeDaemon, tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "server": {"port": 1234, "max_body_bytes": 10},
        "pool": {"load_timeout_s": 5, "wait_notice_s": 1, "max_queue": 7},
        "log_level": "debug",
        "state_dir": str(tmp_path / "other"),
        "engine_start": "spawn",
        "tracing": {"sample_ratio": 0.5},
    }
    done = await reload(daemon, MODELS, **sections)
    assert sorted(done.needs_restart) == [
        "engine_start",
        "log_level",
        "pool.load_timeout_s",
        "pool.wait_notice_s",
        "server.max_body_bytes",
        "server.port",
        "state_dir",
        "tracing",
    ]
    assert done.unchanged == ["alpha", "beta"]
    assert daemon.pool.view().limits.max_queue == 7
    assert whole(await post(daemon.port, PATH, ask_for("alpha"))), "its body has over 10 bytes"


async def test_a_key_needs_a_restart_for_as_long_as_another_value_is_in_force(daemon: FakeDaemon) -> None:
    for _ in range(2):
        assert (await reload(daemon, MODELS, server={"port": 1234})).needs_restart == ["server.port"]
    assert (await reload(daemon, MODELS)).needs_restart == []


async def test_limits_hold_from_now_on(daemon: FakeDaemon) -> None:
    await reload(daemon, MODELS, pool={"max_queue": 1, "max_awake_models": 1})
    daemon.engines["alpha"].load_gate.hold()
    first = ask(daemon, "alpha")
    await waits(daemon, "alpha")
    with pytest.raises(QueueFull):
        await daemon.pool.acquire(["alpha"])
    daemon.engines["alpha"].load_gate.release()
    (await first).release()
    await use(daemon, "beta")
    assert daemon.view("alpha").residency is Residency.COLD


async def test_what_is_left_to_others_changes_with_the_budget(daemon: FakeDaemon) -> None:
    daemon.probe.uses[0] = 25 << 30
    daemon.pool._survey.look()
    assert daemon.pool._core.ledger.outside == {0: 20 << 30}
    # Within 70 GiB there is room for both as long as others keep to the rest.
    await reload(daemon, MODELS, pool={"memory_reserve": 0.3})
    daemon.pool._survey.look()
    lease = await asyncio.wait_for(daemon.pool.acquire(["alpha", "beta"]), 10)
    lease.release()


# Devices


@contextlib.asynccontextmanager
async def two_devices(models: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[Parts]:
    async with running_pool(models, probe=FakeProbe(2)) as parts:
        yield parts


def homes(parts: Parts) -> dict[str, tuple[int, ...]]:
    return dict(parts.daemon.reloader.blueprint.homes)


async def test_models_that_did_not_change_stay_on_their_devices() -> None:
    models = {name: {"model": f"org/{name}", "gpu_memory_utilization": 0.4} for name in ("a", "b", "c")}
    async with two_devices(models) as parts:
        before = homes(parts)
        assert {d for home in before.values() for d in home} == {0, 1}
        for name in models:
            await use(parts, name)
        # Placed anew, this one would come first, and push the others about.
        big = {"model": "org/big", "gpu_memory_utilization": 0.9}
        done = parts.daemon.reloader.apply(config_of({"big": big, "c": models["c"], "b": models["b"]}))
        assert done == report(added=["big"], removed=["a"], unchanged=["c", "b"])
        assert {n: h for n, h in homes(parts).items() if n != "big"} == {n: before[n] for n in ("c", "b")}
        assert all(parts.view(n).residency is Residency.AWAKE for n in ("b", "c"))


async def test_a_model_that_is_told_to_move_moves() -> None:
    models: dict[str, dict[str, Any]] = {"a": {"model": "org/a", "gpu_memory_utilization": 0.4, "devices": [0]}}
    async with two_devices(models) as parts:
        await use(parts, "a")
        done = parts.daemon.reloader.apply(config_of({"a": {**models["a"], "devices": [1]}}))
        assert done == report(changed=["a"])
        await use(parts, "a")
        assert parts.view("a").devices == [1]
        assert tuple(parts.engines["a"].devices) == (1,)
        assert [d.reserved_bytes > 0 for d in parts.pool.view().devices] == [False, True]


# Twice


def variant(length: int) -> dict[str, Any]:
    return {**MODELS["alpha"], "engine_args": {"max_model_len": length}}


async def last_serves(daemon: FakeDaemon, engines: list[FakeEngine]) -> None:
    """Only the first and the last of these engines of one model were ever loaded, and the last one serves."""
    assert whole(await post(daemon.port, PATH, ask_for("alpha")))
    assert [e.loads for e in engines] == [1, *[0] * (len(engines) - 2), 1]
    assert len(engines[-1].inference) == 1
    assert not engines[0].remains


async def test_changed_twice_while_it_drains(daemon: FakeDaemon) -> None:
    engines = [daemon.engines["alpha"]]
    async with streaming(daemon, "alpha") as stream:
        for length in (256, 512):
            assert (await reload(daemon, {**MODELS, "alpha": variant(length)})).changed == ["alpha"]
            engines.append(daemon.engines["alpha"])
        again = asyncio.create_task(post(daemon.port, PATH, ask_for("alpha")))
        await waits(daemon, "alpha")
        engines[0].chunks.release()
        assert whole(await stream)
    assert whole(await again)
    engines[-1].requests.clear()
    await last_serves(daemon, engines)


async def test_changed_and_changed_back_while_it_drains(daemon: FakeDaemon) -> None:
    engines = [daemon.engines["alpha"]]
    async with streaming(daemon, "alpha") as stream:
        for model in (OTHER, MODELS["alpha"]):
            assert (await reload(daemon, {**MODELS, "alpha": model})).changed == ["alpha"]
            engines.append(daemon.engines["alpha"])
        engines[0].chunks.release()
        assert whole(await stream)
    await last_serves(daemon, engines)


async def test_changed_and_then_something_else_while_it_drains(daemon: FakeDaemon) -> None:
    engines = [daemon.engines["alpha"]]
    async with streaming(daemon, "alpha") as stream:
        await reload(daemon, {**MODELS, "alpha": OTHER})
        engines.append(daemon.engines["alpha"])
        done = await reload(daemon, {"alpha": {**OTHER, "pinned": True}})
        assert done == report(removed=["beta"], unchanged=["alpha"])
        engines[0].chunks.release()
        assert whole(await stream)
    await last_serves(daemon, engines)
    assert daemon.view("alpha").pinned


async def test_removed_and_added_again_while_it_drains(daemon: FakeDaemon) -> None:
    engines = [daemon.engines["alpha"]]
    async with streaming(daemon, "alpha") as stream:
        assert (await reload(daemon, {"beta": MODELS["beta"]})).removed == ["alpha"]
        assert (await reload(daemon, MODELS)).added == ["alpha"]
        engines.append(daemon.engines["alpha"])
        engines[0].chunks.release()
        assert whole(await stream)
    await last_serves(daemon, engines)


async def test_changed_and_then_removed_while_it_drains(daemon: FakeDaemon) -> None:
    async with streaming(daemon, "alpha") as stream:
        old = daemon.engines["alpha"]
        await reload(daemon, {**MODELS, "alpha": OTHER})
        await reload(daemon, {"beta": MODELS["beta"]})
        old.chunks.release()
        assert whole(await stream)
    await until(lambda: len(daemon.pool.view().models) == 1, "alpha to be gone")
    assert (await reload(daemon, MODELS)).added == ["alpha"]
    assert whole(await post(daemon.port, PATH, ask_for("alpha")))
    assert daemon.engines["alpha"].loads == 1


async def test_of_two_reloads_at_a_time_the_later_file_is_in_force(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> Config:
        config = load_config(path)
        if not began.is_set():
            began.set()
            assert go_on.wait(LIMIT_S)
        return config

    monkeypatch.setattr(reload_module, "load_config", slow)
    first = asyncio.create_task(reload(daemon, {**MODELS, "org/gamma": GAMMA}))
    await until(began.is_set, "the first to be read")
    second = asyncio.create_task(reload(daemon, MODELS))
    done, _ = await asyncio.wait([second], timeout=1)  # it would end here, were it not to wait for the first
    go_on.set()
    assert not done
    assert (await first).added == ["org/gamma"]
    assert (await second).removed == ["org/gamma"]
    assert await served(daemon) == ["alpha", "beta"]


async def test_the_daemon_ends_while_a_changed_model_drains(tmp_path: Path) -> None:
    file = tmp_path / "arena.yaml"
    write(file, MODELS)
    async with running_daemon(file=file) as daemon:
        old = daemon.engines["alpha"]
        stream = asyncio.create_task(post(daemon.port, PATH, ask_for("alpha")))
        old.chunks.hold()
        await old.request()
        await reload(daemon, {**MODELS, "alpha": OTHER})
    assert whole(await stream)
    assert not old.remains
    assert daemon.engines["alpha"].loads == 0


async def test_a_daemon_that_ends_takes_no_other_configuration() -> None:
    async with running_pool(MODELS) as parts:
        parts.pool.refuse_new()
        with pytest.raises(ShuttingDown):
            parts.daemon.reloader.apply(config_of({**MODELS, "gamma": GAMMA}))
        assert [view.name for view in parts.pool.view().models] == ["alpha", "beta"]


async def test_what_was_measured_of_one_configuration_is_not_another_ones(tmp_path: Path) -> None:
    store = MeasurementStore.open(tmp_path / "measurements.sqlite")
    async with running_pool(MODELS, store=store) as parts:
        await use(parts, "alpha")
        assert parts.view("alpha").times.load_s is not None
        parts.daemon.reloader.apply(config_of({**MODELS, "alpha": OTHER}))
        await until(lambda: parts.view("alpha").residency is Residency.COLD, "the old engine to be stopped")
        assert parts.view("alpha").times.load_s is None
        parts.daemon.reloader.apply(config_of(MODELS))
        assert parts.view("alpha").times.load_s is not None
