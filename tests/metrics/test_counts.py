"""What is counted of swaps, failures, refusals, requests and reloads; and that labels stay bounded."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.core import Metric

from arena_server.clock import Clock
from arena_server.course import Courses
from arena_server.engine.base import EngineError
from arena_server.metrics.request_tally import RequestTally
from arena_server.metrics.tallies import Tallies
from arena_server.pool.why import Cause, Why, cause_of
from arena_server.request_id import Origin
from tests.metrics.scraped import Scraped, chat, scrape, scrape_after
from tests.support.daemon_app import SLEEP_MEMORY_BYTES, TOTAL_BYTES, FakeDaemon, Hands, running_daemon
from tests.support.gate import until
from tests.support.simulated_memory import SimulatedMemory

# Room for one awake.
MODELS: Mapping[str, Mapping[str, Any]] = {
    name: {"model": f"org/{name}", "gpu_memory_utilization": 0.6, "sleep_level": 1} for name in ("a", "b")
}
STOPPED = {name: {**model, "sleep_level": 0} for name, model in MODELS.items()}


def swapping(
    models: Mapping[str, Mapping[str, Any]] = MODELS, clock: Clock | None = None, **pool: Any
) -> AbstractAsyncContextManager[FakeDaemon]:
    settings = {"sleep_memory_bytes": SLEEP_MEMORY_BYTES, **pool}
    return running_daemon(models, memory=SimulatedMemory({0: TOTAL_BYTES}), clock=clock, pool=settings)


def transitions(page: Scraped) -> dict[tuple[str, str, str], float]:
    family = page.families["arena_transitions"]
    return {(s.labels["model"], s.labels["kind"], s.labels["reason"]): s.value for s in family.samples}


async def order(daemon: FakeDaemon, what: str, model: str) -> None:
    async with aiohttp.ClientSession(daemon.url) as client, client.post(f"/admin/models/{model}/{what}") as response:
        assert response.status == 202


async def is_at(daemon: FakeDaemon, model: str, residency: str) -> None:
    await until(lambda: daemon.view(model).residency == residency, f"{model} to be {residency}")


async def test_swaps_are_counted_by_kind_and_reason_with_what_they_took() -> None:
    async with swapping() as daemon:
        for model in ("a", "b", "a"):
            assert await chat(daemon.url, model) == 200
        page = await scrape(daemon.url)
        assert transitions(page) == {
            ("a", "load", "request"): 1,
            ("a", "sleep", "evicted"): 1,
            ("b", "load", "request"): 1,
            ("b", "sleep", "evicted"): 1,
            ("a", "wake", "request"): 1,
        }
        assert page.value("arena_swaps_total") == 2
        for model, kind in (("a", "load"), ("a", "sleep"), ("a", "wake"), ("b", "load"), ("b", "sleep")):
            assert page.value("arena_transition_seconds_count", model=model, kind=kind) == 1
        assert page.value("arena_leases_total", model="a") == 2
        residency = {
            (s.labels["model"], s.labels["residency"])
            for s in page.families["arena_model_residency"].samples
            if s.value == 1
        }
        assert residency == {("a", "awake"), ("b", "asleep")}


async def test_a_load_is_as_long_as_the_clock_says() -> None:
    clock = Hands()
    async with swapping(clock=clock) as daemon:
        daemon.engines["a"].load_gate.hold()
        asking = asyncio.create_task(chat(daemon.url, "a", stream=True))
        await until(lambda: daemon.engines["a"].loads, "the engine to begin to load")
        clock.time += 42
        page = await scrape(daemon.url)
        assert page.value("arena_queue_oldest_wait_seconds") == 42
        assert page.value("arena_queue_length") == 1
        assert page.value("arena_requests_waiting", model="a") == 1
        daemon.open_gates()
        assert await asking == 200
        page = await scrape_after(daemon.url, 1)
        assert page.value("arena_transition_seconds_sum", model="a", kind="load") == 42
        assert page.value("arena_transition_seconds_bucket", model="a", kind="load", le="40.0") == 0
        assert page.value("arena_transition_seconds_bucket", model="a", kind="load", le="60.0") == 1
        # From the arrival, so that the wait for the model is in all of them.
        assert page.value("arena_queue_wait_seconds_sum", model="a") == 42
        assert page.value("arena_first_token_seconds_sum", model="a") == 42
        assert page.value("arena_request_seconds_sum", model="a", route="/v1/chat/completions") == 42


async def test_each_cause_of_a_transition_has_its_name(tmp_path: Path) -> None:
    file = tmp_path / "arena.yaml"

    def write(**changes: Any) -> None:
        models = {**MODELS, "a": {**MODELS["a"], **changes}}
        pool = {"sleep_memory_bytes": SLEEP_MEMORY_BYTES}
        file.write_text(json.dumps({"models": models, "pool": pool}))

    write()
    seen: set[str] = set()
    async with running_daemon(file=file, memory=SimulatedMemory({0: TOTAL_BYTES})) as daemon:

        async def caused(kind: str, reason: str) -> None:
            await until(lambda: not daemon.view("a").running, "a to be idle")
            page = transitions(await scrape(daemon.url))
            assert page.get(("a", kind, reason)) == 1, page
            assert not [key for key in page if key[2] == "other"]
            seen.add(reason)

        await chat(daemon.url, "a")
        await caused("load", "request")
        await order(daemon, "sleep", "a")
        await is_at(daemon, "a", "asleep")
        await caused("sleep", "operator")
        daemon.engines["a"].wake_error = EngineError("half mapped")
        await chat(daemon.url, "a")
        await caused("stop", "wake_failed")
        daemon.engines["a"].wake_error = None
        daemon.engines["a"].sleep_error = EngineError("does not")
        await order(daemon, "sleep", "a")
        await is_at(daemon, "a", "cold")
        await caused("stop", "sleep_failed")
        daemon.engines["a"].sleep_error = None
        daemon.engines["a"].fail_loads()
        assert await chat(daemon.url, "a") == 503
        await is_at(daemon, "a", "cold")
        await caused("stop", "load_failed")
        daemon.engines["a"].load_error = EngineError("CUDA out of memory", out_of_memory=True)
        assert await chat(daemon.url, "a") == 503
        await until(lambda: daemon.view("a").residency in ("cold", "failed"), "a to have failed")
        await caused("stop", "out_of_memory")
        daemon.engines["a"].load_error = None
        await order(daemon, "reset", "a")
        await chat(daemon.url, "a")
        await daemon.engines["a"].die()
        await is_at(daemon, "a", "cold")
        await caused("stop", "crashed")
        await chat(daemon.url, "a")
        await chat(daemon.url, "b")
        await caused("sleep", "evicted")
        await chat(daemon.url, "a")
        write(env={"OTHER": "1"})
        async with aiohttp.ClientSession(daemon.url) as client, client.post("/admin/reload") as response:
            assert response.status == 200
        await is_at(daemon, "a", "cold")
        await caused("stop", "configuration")
        page = await scrape(daemon.url)
        assert page.value("arena_engine_crashes_total", model="a") == 1
        failures = page.values("arena_transition_failures_total", "kind")
        assert {kind: page.value("arena_transition_failures_total", model="a", kind=kind) for kind in failures} == {
            "load": 3, "sleep": 1, "wake": 1,
        }  # fmt: skip
    assert set(Cause) - seen == {Cause.IDLE, Cause.SLEEP_ROOM, Cause.OTHER}


async def test_a_model_that_is_idle_for_too_long_says_so() -> None:
    models = {"a": {**STOPPED["a"], "idle_ttl_s": 0.01}}
    async with swapping(models) as daemon:
        assert await chat(daemon.url, "a") == 200
        await is_at(daemon, "a", "cold")
        page = await scrape(daemon.url)
        assert transitions(page) == {("a", "load", "request"): 1, ("a", "stop", "idle"): 1}
        assert page.value("arena_swaps_total") == 0, "nobody needed its room"


def test_a_copy_of_a_reason_keeps_its_cause() -> None:
    """`asdict` copies what the pool shows."""
    why = copy.deepcopy(Why("evicted for b", Cause.EVICTED))
    assert (why, cause_of(why)) == ("evicted for b", Cause.EVICTED)
    assert json.dumps({"why": why}) == '{"why": "evicted for b"}'
    assert cause_of("some words") is Cause.OTHER


async def test_refusals_are_counted_by_reason() -> None:
    async with swapping(STOPPED, max_queue=1) as daemon:
        zero = (await scrape(daemon.url)).values("arena_refusals_total", "reason")
        assert zero == dict.fromkeys(["queue_full", "wait_limit", "never_fits", "unavailable", "closing"], 0)
        daemon.engines["a"].load_gate.hold()
        waiting = asyncio.create_task(chat(daemon.url, "a"))
        await is_at(daemon, "a", "loading")
        assert await chat(daemon.url, "b") == 429
        page = await scrape_after(daemon.url, 1)
        assert page.values("arena_refusals_total", "reason") == {**zero, "queue_full": 1}
        assert page.value("arena_requests_total", model="b", route="/v1/chat/completions", status="429") == 1
        assert page.value("arena_queue_wait_seconds_count", model="b") == 0, "it was not granted"
        daemon.open_gates()
        assert await waiting == 200


async def test_requests_are_counted_by_model_route_and_status() -> None:
    async with swapping() as daemon:
        for _ in range(2):
            await chat(daemon.url, "a")
        async with aiohttp.ClientSession(daemon.url) as client:
            body = {"model": "a", "prompt": "one two", "stream": True}
            async with client.post("/v1/completions?beta=1", json=body) as response:
                await response.read()
        page = await scrape_after(daemon.url, 3)
        assert page.value("arena_requests_total", model="a", route="/v1/chat/completions", status="200") == 2
        assert page.value("arena_requests_total", model="a", route="/v1/completions", status="200") == 1
        assert page.value("arena_first_token_seconds_count", model="a") == 1, "of streams alone"
        assert page.value("arena_request_seconds_count", model="a", route="/v1/completions") == 1


async def test_results_are_there_before_the_first_request() -> None:
    """Or a burst of failures that comes first has no increase, and its alert does not fire."""
    none = {"ok": 0, "client_error": 0, "server_error": 0}
    async with swapping() as daemon:
        assert results((await scrape(daemon.url)).families.values(), "a") == none
        assert await chat(daemon.url, "a") == 200
        daemon.engines["b"].fail_loads()
        assert await chat(daemon.url, "b") == 503
        families = (await scrape_after(daemon.url, 2)).families.values()
        assert results(families, "a") == {**none, "ok": 1}
        assert results(families, "b") == {**none, "server_error": 1}


def test_results_are_told_by_the_status() -> None:
    tallies = Tallies(lambda name: name == "a")
    courses = Courses(Hands(), [tallies.requests])
    for status in (200, 304, 400, 404, 429, 499, 500, 502, 503, 504, 599):
        courses.begin(Origin("id"), "/v1/x", "a", stream=False).end(status)
    assert results(tallies.registry.collect(), "a") == {"ok": 2, "client_error": 4, "server_error": 5}


def results(families: Iterable[Metric], model: str) -> dict[str, float]:
    samples = [s for f in families for s in f.samples if s.name == "arena_request_results_total"]
    return {s.labels["result"]: s.value for s in samples if s.labels["model"] == model}


async def test_what_clients_send_never_becomes_a_label() -> None:
    models = {"a": {**MODELS["a"], "aliases": ["gpt-4o"]}}
    async with swapping(models) as daemon:
        await chat(daemon.url, "gpt-4o")
        before = await scrape_after(daemon.url, 1)
        for number in range(20):
            assert await chat(daemon.url, f"made-up-{number}") == 404
            assert await chat(daemon.url, "gpt-4o", user=f"user-{number}") == 200
            async with aiohttp.ClientSession(daemon.url) as client:
                body = {"model": "gpt-4o", "prompt": "x"}
                async with client.post(f"/v1/completions?key={number}", json=body) as response:
                    assert response.status == 200
                async with client.get(f"/{number}") as response:
                    assert response.status == 404
        after = await scrape_after(daemon.url, 41)
        one_route = sum("/v1/completions" in line for line in after.text.splitlines())
        assert len(after.text.splitlines()) == len(before.text.splitlines()) + one_route
        assert "made-up" not in after.text
        assert "gpt-4o" not in after.text


def test_a_course_with_an_odd_model_status_and_route_has_labels_of_the_known_set() -> None:
    tallies = Tallies(lambda name: name == "a")
    courses = Courses(Hands(), [tallies.requests])
    for number in range(3):
        courses.begin(Origin("id"), f"/v1/x?n={number}", f"gone-{number}", stream=True).end(number)
    (family,) = [f for f in tallies.registry.collect() if f.name == "arena_requests"]
    assert [s.labels for s in family.samples if s.name.endswith("_total")] == [
        {"model": "other", "route": "/v1/x", "status": "other"}
    ]
    assert isinstance(tallies.requests, RequestTally)


async def test_reloads_are_counted_by_their_result(tmp_path: Path) -> None:
    file = tmp_path / "arena.yaml"
    good = json.dumps({"models": STOPPED})
    file.write_text(good)
    async with running_daemon(file=file) as daemon, aiohttp.ClientSession(daemon.url) as client:
        for text, status, in_force in ((good, 200, 1), ("{", 400, 0), (good, 200, 1)):
            file.write_text(text)
            async with client.post("/admin/reload") as response:
                assert response.status == status
            assert (await scrape(daemon.url)).value("arena_config_last_reload_successful") == in_force
        assert (await scrape(daemon.url)).values("arena_config_reloads_total", "result") == {"ok": 2, "failed": 1}
