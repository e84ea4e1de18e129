"""`/admin`: each order in each state, what is told of it, and that the console understands every answer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from arena_server.console.picture import Acted, Decisions, Picture
from arena_server.console.shape import read
from arena_server.engine.base import LoadProgress
from arena_server.gpu.probe import ProbeError
from arena_server.pool.residency import Residency
from tests.support.daemon_app import (
    MODELS,
    SLEEP_MEMORY_BYTES,
    TOTAL_BYTES,
    FakeDaemon,
    Hands,
    running_daemon,
)
from tests.support.fake_probe import FakeProbe
from tests.support.gate import turns, until
from tests.support.leases import ask, use, waits
from tests.support.raw_client import Answer, once
from tests.support.simulated_memory import SimulatedMemory

SLEEPERS: Mapping[str, Mapping[str, Any]] = {n: {**m, "sleep_level": 1} for n, m in MODELS.items()}
ORDERS = ("load", "sleep", "stop", "pin", "unpin", "reset")


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    memory = SimulatedMemory({0: TOTAL_BYTES})
    settings = {"sleep_memory_bytes": SLEEP_MEMORY_BYTES}
    async with running_daemon(SLEEPERS, memory=memory, pool=settings) as running:
        yield running
    assert not memory.faults


async def order(daemon: FakeDaemon, name: str, what: str) -> Answer:
    return await once(daemon.port, "POST", f"/admin/models/{name}/{what}")


async def accepted(daemon: FakeDaemon, name: str, what: str) -> Acted:
    """The answer to an order that is carried out, as the console reads it."""
    answer = await order(daemon, name, what)
    assert answer.status == 202, answer.body
    return read(Acted, answer.json())


async def picture(daemon: FakeDaemon) -> Picture:
    answer = await once(daemon.port, "GET", "/admin/pool")
    assert answer.status == 200
    return read(Picture, answer.json())


async def decisions(daemon: FakeDaemon) -> Decisions:
    answer = await once(daemon.port, "GET", "/admin/decisions")
    assert answer.status == 200
    return read(Decisions, answer.json())


async def comes_to(daemon: FakeDaemon, name: str, residency: Residency) -> None:
    await until(lambda: daemon.view(name).residency is residency, f"{name} to be {residency}")


async def fails(daemon: FakeDaemon, name: str) -> None:
    """Have the model fail until it is left alone."""
    daemon.engines[name].fail_loads("broken weights")
    for _ in range(2):
        asked = ask(daemon, name)
        await until(asked.done, "the load to fail")
        await until(lambda: daemon.view(name).residency in (Residency.COLD, Residency.FAILED), "its end")
    assert daemon.view(name).residency is Residency.FAILED


# Orders


async def test_a_cold_model_is_loaded_stopped_and_loaded_again(daemon: FakeDaemon) -> None:
    acted = await accepted(daemon, "alpha", "load")
    assert acted.model.residency in ("cold", "loading")
    await comes_to(daemon, "alpha", Residency.AWAKE)
    await daemon.idle("alpha")
    assert (await accepted(daemon, "alpha", "load")).model.residency == "awake"
    assert (await accepted(daemon, "alpha", "stop")).model.residency == "stopping"
    await comes_to(daemon, "alpha", Residency.COLD)
    assert (await accepted(daemon, "alpha", "stop")).model.residency == "cold"
    assert daemon.engines["alpha"].loads == 1


async def test_an_awake_model_is_put_to_sleep_and_woken(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    assert (await accepted(daemon, "alpha", "sleep")).model.residency == "falling asleep"
    await comes_to(daemon, "alpha", Residency.ASLEEP)
    assert (await accepted(daemon, "alpha", "sleep")).model.residency == "asleep"
    await accepted(daemon, "alpha", "load")
    await comes_to(daemon, "alpha", Residency.AWAKE)
    assert daemon.engines["alpha"].loads == 1


async def test_a_busy_model_drains_first_and_shows_it(daemon: FakeDaemon) -> None:
    lease = await daemon.pool.acquire(["alpha"])
    acted = await accepted(daemon, "alpha", "sleep")
    assert (acted.model.residency, acted.model.running) == ("awake", 1)
    assert acted.model.draining == "an operator's order"
    lease.release()
    await comes_to(daemon, "alpha", Residency.ASLEEP)
    assert (await picture(daemon)).models[0].draining is None


async def test_a_load_that_is_stopped_refuses_who_waits_for_it(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].load_gate.hold()
    await accepted(daemon, "alpha", "load")
    waiting = ask(daemon, "alpha")
    await until(lambda: daemon.engines["alpha"].progress, "the load to begin")
    assert (await accepted(daemon, "alpha", "stop")).model.residency == "stopping"
    await until(waiting.done, "the refusal")
    assert "alpha was stopped: an operator's order" in str(waiting.exception())
    await comes_to(daemon, "alpha", Residency.COLD)


@pytest.mark.parametrize("state", [Residency.COLD, Residency.LOADING, Residency.STOPPING, Residency.FAILED])
async def test_only_what_is_awake_can_be_put_to_sleep(daemon: FakeDaemon, state: Residency) -> None:
    alpha = daemon.engines["alpha"]
    if state is Residency.LOADING:
        alpha.load_gate.hold()
        await accepted(daemon, "alpha", "load")
    elif state is Residency.STOPPING:
        await use(daemon, "alpha")
        alpha.stop_gate.hold()
        await accepted(daemon, "alpha", "stop")
    elif state is Residency.FAILED:
        await fails(daemon, "alpha")
    await comes_to(daemon, "alpha", state)
    answer = await order(daemon, "alpha", "sleep")
    assert answer.status == 409
    assert answer.error()["code"] == "conflict"
    assert answer.error()["message"] == f"alpha is {state}: only a model that is awake can be put to sleep."
    assert daemon.view("alpha").residency is state


async def test_a_model_that_never_sleeps_cannot_be_put_to_sleep() -> None:
    async with running_daemon() as daemon:
        await use(daemon, "alpha")
        answer = await order(daemon, "alpha", "sleep")
        assert answer.status == 409
        assert answer.error()["message"] == "alpha cannot sleep: its sleep_level is 0. It can be stopped."
        assert daemon.view("alpha").residency is Residency.AWAKE


async def test_a_failed_model_is_not_loaded_until_it_is_reset(daemon: FakeDaemon) -> None:
    await fails(daemon, "alpha")
    shown = (await picture(daemon)).models[0]
    assert (shown.residency, shown.failures, shown.error) == ("failed", 2, "broken weights")
    assert shown.retry_in_s is not None
    answer = await order(daemon, "alpha", "load")
    assert answer.status == 503
    assert answer.error()["message"].startswith("alpha failed: broken weights (reset it, or wait ")
    acted = await accepted(daemon, "alpha", "reset")
    assert (acted.model.residency, acted.model.failures, acted.model.error) == ("cold", 0, None)
    daemon.engines["alpha"].load_error = None
    await accepted(daemon, "alpha", "load")
    await comes_to(daemon, "alpha", Residency.AWAKE)


async def test_a_pinned_model_is_not_evicted_until_it_is_unpinned(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    assert (await accepted(daemon, "alpha", "pin")).model.pinned
    for name in ("beta", "org/gamma"):
        await use(daemon, name)
    assert daemon.view("alpha").residency is Residency.AWAKE
    assert not (await accepted(daemon, "alpha", "unpin")).model.pinned
    await use(daemon, "beta")
    assert daemon.view("alpha").residency is Residency.ASLEEP


async def test_what_can_never_be_awake_beside_the_pinned_ones_is_neither_pinned_nor_loaded(daemon: FakeDaemon) -> None:
    for name in ("alpha", "beta"):
        await accepted(daemon, name, "pin")
    for what in ("pin", "load"):
        answer = await order(daemon, "org/gamma", what)
        assert answer.status == 409, answer.body
        error = answer.error()
        assert error["code"] == "models_do_not_fit_together"
        assert "alpha 40.0 GiB (pinned)" in error["message"]
    assert not daemon.view("org/gamma").pinned


async def test_a_load_that_finds_the_queue_full_is_refused_at_once() -> None:
    async with running_daemon(pool={"max_queue": 1}) as daemon:
        daemon.engines["alpha"].load_gate.hold()
        await accepted(daemon, "alpha", "load")
        answer = await order(daemon, "beta", "load")
        assert (answer.status, answer.error()["code"]) == (429, "queue_full")
        daemon.engines["alpha"].load_gate.release()
        await daemon.idle("alpha")
        await accepted(daemon, "beta", "load")


async def test_nothing_is_loaded_once_the_daemon_stops(daemon: FakeDaemon) -> None:
    daemon.pool.refuse_new()
    answer = await order(daemon, "alpha", "load")
    assert (answer.status, answer.error()["code"]) == (503, "shutting_down")
    assert (await picture(daemon)).status == "stopping"


async def bring(daemon: FakeDaemon, name: str, state: Residency) -> None:
    """Have the model there, and stay there for as long as its gates are closed."""
    engine = daemon.engines[name]
    if state is Residency.FAILED:
        await fails(daemon, name)
    elif state is Residency.LOADING:
        engine.load_gate.hold()
        await accepted(daemon, name, "load")
    elif state is not Residency.COLD:
        await use(daemon, name)
    if state in (Residency.FALLING_ASLEEP, Residency.ASLEEP, Residency.WAKING):
        if state is Residency.FALLING_ASLEEP:
            engine.sleep_gate.hold()
        await accepted(daemon, name, "sleep")
    if state is Residency.WAKING:
        await comes_to(daemon, name, Residency.ASLEEP)
        engine.wake_gate.hold()
        await accepted(daemon, name, "load")
    if state is Residency.STOPPING:
        engine.stop_gate.hold()
        await accepted(daemon, name, "stop")
    await comes_to(daemon, name, state)


@pytest.mark.parametrize("state", list(Residency))
async def test_a_model_is_pinned_unpinned_and_reset_in_every_state(daemon: FakeDaemon, state: Residency) -> None:
    await bring(daemon, "alpha", state)
    for what, pinned in (("pin", True), ("pin", True), ("unpin", False)):
        acted = await accepted(daemon, "alpha", what)
        assert (acted.model.residency, acted.model.pinned) == (state, pinned)
    acted = await accepted(daemon, "alpha", "reset")
    assert acted.model.residency == ("cold" if state is Residency.FAILED else state)


@pytest.mark.parametrize("state", [s for s in Residency if s is not Residency.FAILED])
async def test_a_load_is_taken_in_every_state_and_ends_awake(daemon: FakeDaemon, state: Residency) -> None:
    await bring(daemon, "alpha", state)
    await accepted(daemon, "alpha", "load")
    daemon.open_gates()
    await daemon.idle("alpha")
    assert daemon.view("alpha").residency is Residency.AWAKE


@pytest.mark.parametrize("state", list(Residency))
async def test_a_stop_is_taken_in_every_state_and_leaves_nothing(daemon: FakeDaemon, state: Residency) -> None:
    await bring(daemon, "alpha", state)
    await accepted(daemon, "alpha", "stop")
    daemon.open_gates()
    await comes_to(daemon, "alpha", Residency.FAILED if state is Residency.FAILED else Residency.COLD)
    assert not daemon.engines["alpha"].remains
    daemon.engines["alpha"].load_error = None


# Names


@pytest.mark.parametrize("what", ORDERS)
async def test_an_alias_stands_for_its_model(daemon: FakeDaemon, what: str) -> None:
    for name in ("gpt-4o", "org/alias", "org%2Falias"):
        await use(daemon, "alpha")
        assert (await accepted(daemon, name, what)).model.name == "alpha"


@pytest.mark.parametrize("what", ORDERS)
async def test_a_name_may_have_slashes(daemon: FakeDaemon, what: str) -> None:
    for name in ("org/gamma", quote("org/gamma", safe="")):
        await use(daemon, "org/gamma")
        assert (await accepted(daemon, name, what)).model.name == "org/gamma"


@pytest.mark.parametrize("order_", ORDERS)
async def test_a_model_may_be_called_like_an_order(order_: str) -> None:
    models = {order_: MODELS["beta"], f"{order_}/{order_}": MODELS["beta"]}
    async with running_daemon(models) as daemon:
        for name in models:
            assert (await accepted(daemon, name, "load")).model.name == name


@pytest.mark.parametrize("what", ORDERS)
async def test_a_model_that_does_not_exist_is_a_404_with_the_names_there_are(daemon: FakeDaemon, what: str) -> None:
    for name in ("nobody", "org/nobody", "Alpha", "alpha%20", "%C3%A4"):
        answer = await order(daemon, name, what)
        assert answer.status == 404
        error = answer.error()
        assert error["code"] == "model_not_found"
        for known in ("`alpha`", "`gpt-4o`", "`org/alias`", "`beta`", "`org/gamma`"):
            assert known in error["message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/admin/models/alpha/eat", 405),  # there could be a model of that name
        ("/admin/models/alpha", 405),
        ("/admin/models//load", 404),
        ("/admin", 404),
    ],
)
async def test_what_is_no_order_is_none(daemon: FakeDaemon, path: str, status: int) -> None:
    answer = await once(daemon.port, "POST", path)
    assert answer.status == status
    assert answer.error()["type"] == "invalid_request_error"


@pytest.mark.parametrize(("path", "status"), [("/admin/models/alpha/load", 404), ("/admin/reload", 405)])
async def test_orders_are_posted(daemon: FakeDaemon, path: str, status: int) -> None:
    """A browser that fetches links ahead must not change anything."""
    assert (await once(daemon.port, "GET", path)).status == status
    assert daemon.view("alpha").residency is Residency.COLD


# Decisions


async def test_a_swap_is_told_with_its_reasons_and_its_cost() -> None:
    clock = Hands()
    memory = SimulatedMemory({0: TOTAL_BYTES})
    settings = {"sleep_memory_bytes": SLEEP_MEMORY_BYTES}
    async with running_daemon(SLEEPERS, memory=memory, pool=settings, clock=clock) as daemon:
        alpha = daemon.engines["alpha"]
        alpha.load_gate.hold()
        waiting = ask(daemon, "alpha")
        await until(lambda: alpha.progress, "the load to begin")
        clock.time += 11
        alpha.load_gate.release()
        (await waiting).release()
        await use(daemon, "beta")
        await use(daemon, "org/gamma")
        for order_ in ("stop", "load"):
            await accepted(daemon, "alpha", order_)
            await comes_to(daemon, "alpha", Residency.COLD if order_ == "stop" else Residency.AWAKE)
        found = (await decisions(daemon)).decisions
    whys = [(d.what, d.model, d.why) for d in found]
    assert whys[:5] == [
        ("load", "alpha", "a request waits for it"),
        ("load", "beta", "a request waits for it"),
        ("drain", "alpha", "evicted for org/gamma"),
        ("sleep", "alpha", "evicted for org/gamma"),
        ("load", "org/gamma", "a request waits for it"),
    ]
    assert ("stop", "alpha", "an operator's order") in whys
    loads = [d.cost_s for d in found if d.what == "load" and d.model == "alpha"]
    assert loads[0] is not None
    assert loads[1] == 11, "what it took the first time"
    assert all(d.cost_s is None for d in found if d.what == "drain")
    assert [d.at for d in found] == sorted(d.at for d in found)


async def test_a_refusal_is_told(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].fail_loads("broken weights")
    asked = ask(daemon, "alpha")
    await until(asked.done, "the refusal")
    (refused,) = [d for d in (await decisions(daemon)).decisions if d.what == "refuse"]
    assert (refused.model, refused.cost_s) == (None, None)
    assert "broken weights" in refused.why


# The picture


async def test_the_pool_is_shown_in_every_state(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    seen = {}

    async def look() -> Picture:
        now = await picture(daemon)
        seen[now.models[0].residency] = now
        return now

    cold = await look()
    assert [m.name for m in cold.models] == list(MODELS)
    assert cold.models[0].aliases == ("gpt-4o", "org/alias")
    alpha.load_gate.hold()
    waiting = ask(daemon, "alpha")
    await until(lambda: alpha.progress, "the load to begin")
    alpha.progress = LoadProgress("loading weights", 0.4)
    loading = await look()
    shown = loading.models[0].loading
    assert shown is not None
    assert (shown.phase, shown.fraction) == ("loading weights", 0.4)
    assert loading.models[0].eta_s is not None
    assert [(w.place, w.models, w.phase) for w in loading.queue] == [(1, ("alpha",), "loading alpha")]
    alpha.load_gate.release()
    with await waiting:
        awake = await look()
        assert (awake.models[0].running, awake.models[0].requests_total) == (1, 1)
        assert awake.devices[0].reserved_bytes == int(TOTAL_BYTES * 0.4)
        assert awake.devices[0].used_bytes == int(TOTAL_BYTES * 0.4)
        assert awake.queue == ()
    alpha.sleep_gate.hold()
    await accepted(daemon, "alpha", "sleep")
    falling = await look()
    assert falling.host.sleep_reserved_bytes > 0
    alpha.sleep_gate.release()
    await comes_to(daemon, "alpha", Residency.ASLEEP)
    asleep = await look()
    assert asleep.models[0].memory.devices[0].reserved_bytes == alpha.asleep_bytes
    assert asleep.host.sleep_budget_bytes == SLEEP_MEMORY_BYTES
    alpha.wake_gate.hold()
    waiting = ask(daemon, "alpha")
    await comes_to(daemon, "alpha", Residency.WAKING)
    await look()
    alpha.wake_gate.release()
    (await waiting).release()
    alpha.stop_gate.hold()
    await accepted(daemon, "alpha", "stop")
    await look()
    alpha.stop_gate.release()
    await comes_to(daemon, "alpha", Residency.COLD)
    await fails(daemon, "alpha")
    await look()
    assert seen.keys() == {str(r) for r in Residency}


async def test_swaps_are_counted(daemon: FakeDaemon) -> None:
    for name in ("alpha", "beta", "org/gamma", "alpha"):
        await use(daemon, name)
    assert (await picture(daemon)).swaps_total == 2


async def test_who_waits_is_shown_in_order(daemon: FakeDaemon) -> None:
    leases = [await daemon.pool.acquire([name]) for name in ("alpha", "beta")]
    tasks = [ask(daemon, "org/gamma"), ask(daemon, "org/gamma", "alpha")]
    await waits(daemon, "org/gamma", 2)
    shown = (await picture(daemon)).queue
    assert [(w.place, w.models) for w in shown] == [(1, ("org/gamma",)), (2, ("alpha", "org/gamma"))]
    for lease in leases:
        lease.release()
    for task in tasks:
        (await task).release()


async def test_what_others_hold_is_shown(daemon: FakeDaemon) -> None:
    daemon.probe.uses[0] = 90 << 30
    daemon.pool._survey.look()
    device = (await picture(daemon)).devices[0]
    assert device.outside_bytes == 90 << 30
    assert device.used_bytes == 90 << 30
    assert device.blocked is not None
    daemon.probe.uses[0] = 0
    daemon.pool._survey.look()
    assert (await picture(daemon)).devices[0].blocked is None


async def test_a_device_that_says_nothing_is_shown_as_such(daemon: FakeDaemon) -> None:
    daemon.probe.error = ProbeError("GPU is lost")
    assert (await picture(daemon)).devices[0].used_bytes is None
    daemon.probe.error = None


async def test_orders_do_not_wait_for_what_they_cause(daemon: FakeDaemon) -> None:
    daemon.engines["alpha"].load_gate.hold()
    await accepted(daemon, "alpha", "load")
    await accepted(daemon, "beta", "load")
    await turns()
    assert daemon.engines["beta"].loads == 0
    daemon.engines["alpha"].load_gate.release()
    await comes_to(daemon, "beta", Residency.AWAKE)


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 202), ("none", 202)]
)
async def test_pages_of_other_sites_give_no_orders(daemon: FakeDaemon, site: str, status: int) -> None:
    answer = await once(daemon.port, "POST", "/admin/models/alpha/stop", headers=[("sec-fetch-site", site)])
    assert answer.status == status


async def processes(daemon: FakeDaemon) -> list[tuple[int, str | None, int, int | None]] | str:
    """Those of device 0: pid, model, bytes, bytes in the ledger; or why they are not known."""
    device = (await picture(daemon)).devices[0]
    assert (device.processes is None) == (device.processes_unknown is not None)
    if device.processes is None:
        assert device.processes_unknown is not None
        return device.processes_unknown
    return [(p.pid, p.model, p.bytes, p.ledger_bytes) for p in device.processes]


async def test_what_each_process_has_is_shown_beside_the_ledger(daemon: FakeDaemon) -> None:
    share = int(TOTAL_BYTES * 0.4)
    assert await processes(daemon) == "the driver does not say what each process has"
    alpha, beta = daemon.engines["alpha"], daemon.engines["beta"]
    daemon.probe.lists[0] = {}
    await use(daemon, "alpha")
    (pid,) = alpha.pids
    daemon.probe.lists[0] = {os.getpid(): 5 << 30, pid: 38 << 30}
    assert await processes(daemon) == [(pid, "alpha", 38 << 30, share), (os.getpid(), None, 5 << 30, None)]
    names = {p.pid: p.name for p in (await picture(daemon)).devices[0].processes or ()}
    assert names[os.getpid()] == psutil.Process().name()
    assert names[pid] == "?"  # it is no real one
    # One that loads is the daemon's, too, before anything was measured of it.
    beta.load_gate.hold()
    waiting = ask(daemon, "beta")
    await until(lambda: beta.progress, "the load to begin")
    (other,) = beta.pids
    daemon.probe.lists[0] = {pid: 38 << 30, other: 1 << 30}
    assert await processes(daemon) == [(pid, "alpha", 38 << 30, share), (other, "beta", 1 << 30, share)]
    beta.load_gate.release()
    (await waiting).release()


async def test_where_engines_are_not_listed_by_their_own_numbers_nothing_is_said_of_processes(
    daemon: FakeDaemon,
) -> None:
    """In a container the driver may list them as the host numbers them: they would pass for others'."""
    await use(daemon, "alpha")
    daemon.probe.lists[0] = {4711: 38 << 30}
    found = await processes(daemon)
    assert found == "the driver lists processes by other numbers than this daemon's (a container?)"


async def test_the_hosts_ram_has_no_processes() -> None:
    async with running_daemon(probe=FakeProbe(gpu=False)) as daemon:
        await use(daemon, "alpha")
        assert await processes(daemon) == "host RAM is shared between processes"
