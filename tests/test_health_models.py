"""`GET /health` and `/v1/models`, on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import openai
import pytest

from arena_server import __version__
from arena_server.api.health import FAILED
from arena_server.engine.base import LoadProgress
from arena_server.errors import ModelUnavailable
from tests.support.daemon_app import MODELS, TOTAL_BYTES, FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.leases import ask, use, waits
from tests.support.raw_client import connected, once


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        yield running


async def health(daemon: FakeDaemon) -> dict[str, Any]:
    answer = await once(daemon.port, "GET", "/health")
    assert answer.status == 200
    body: dict[str, Any] = answer.json()
    return body


async def model(daemon: FakeDaemon, name: str) -> dict[str, Any]:
    state: dict[str, Any] = (await health(daemon))["models"][name]
    return state


def is_now(daemon: FakeDaemon, residency: str) -> bool:
    return daemon.view("alpha").residency == residency


async def test_health_shows_the_whole_picture(daemon: FakeDaemon) -> None:
    daemon.probe.used = 123
    await use(daemon, "org/gamma")
    lease = await daemon.pool.acquire(["alpha"])
    body = await health(daemon)
    uptime = body.pop("uptime_s")
    assert 0 <= uptime < 60
    gamma = body["models"]["org/gamma"]
    assert 0 <= gamma.pop("idle_s") < 60
    for name in ("alpha", "org/gamma"):
        assert 0 <= body["models"][name].pop("last_load_s") < 60
    common = {"remote": False, "gpu_memory_utilization": 0.4, "devices": [0], "pinned": False, "waiting": 0}
    common |= {"display_name": None}
    common |= {"loading": None, "error": None, "retry_in_s": None, "draining": None, "eta_s": None, "last_wake_s": None}
    assert body == {
        "status": "healthy",
        "version": __version__,
        "loaded_models": ["alpha", "org/gamma"],
        "available_models": list(MODELS),
        "models": {
            "alpha": {**common, "residency": "awake", "aliases": ["gpt-4o", "org/alias"], "running": 1, "idle_s": 0.0},
            "beta": {
                **common, "residency": "cold", "aliases": [], "running": 0, "idle_s": None, "last_load_s": None,
            },
            "org/gamma": {**common, "residency": "awake", "aliases": [], "running": 0},
        },
        "devices": [
            {
                "index": 0,
                "name": "Fake GPU",
                "total_bytes": TOTAL_BYTES,
                "reserved_bytes": 2 * int(TOTAL_BYTES * 0.4),
                "used_bytes": 123,
                "blocked": None,
            }
        ],
        "queue": [],
    }  # fmt: skip
    lease.release()


async def test_health_shows_how_far_a_load_is_and_who_waits_for_it(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.load_gate.hold()
    async with connected(daemon.port) as client:
        client.post("/v1/completions", {"model": "alpha", "prompt": "a"})
        await until(lambda: alpha.progress, "the load to begin")
        for progress, shown in [
            (LoadProgress("importing vLLM"), {"phase": "importing vLLM", "fraction": None}),
            (LoadProgress("loading weights", 0.25), {"phase": "loading weights", "fraction": 0.25}),
        ]:
            alpha.progress = progress
            state = await model(daemon, "alpha")
            assert state["loading"] == shown
            assert (state["residency"], state["waiting"], state["running"]) == ("loading", 1, 0)
        assert (await health(daemon))["loaded_models"] == []
        alpha.load_gate.release()
        assert (await client.answer()).status == 200
    state = await model(daemon, "alpha")
    assert state["loading"] is None
    assert state["residency"] == "awake"


async def test_health_shows_a_stop_under_way(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    await use(daemon, "beta")
    daemon.engines["alpha"].stop_gate.hold()
    task = ask(daemon, "org/gamma")
    await waits(daemon, "org/gamma")
    await until(lambda: daemon.engines["alpha"].stops, "the stop to begin")
    body = await health(daemon)
    assert body["models"]["alpha"]["residency"] == "stopping"
    assert body["loaded_models"] == ["beta"]
    assert body["devices"][0]["reserved_bytes"] == 2 * int(TOTAL_BYTES * 0.4), "not free before it is back"
    daemon.engines["alpha"].stop_gate.release()
    (await task).release()


async def test_health_shows_why_a_model_failed_and_when_it_may_be_tried_again(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.fail_loads("torch.OutOfMemoryError: 2 GiB lacking")
    for residency in ("cold", "failed"):
        with pytest.raises(ModelUnavailable):
            await daemon.pool.acquire(["alpha"])
        await until(partial(is_now, daemon, residency), f"alpha to be {residency}")
        state = await model(daemon, "alpha")
        assert state["error"] == FAILED
        assert state["residency"] == residency
        assert (state["retry_in_s"] is None) == (residency == "cold")
    assert 0 <= state["retry_in_s"] <= 1
    answer = await once(daemon.port, "POST", "/v1/completions", b'{"model": "alpha"}')
    assert answer.status == 503
    assert answer.header("retry-after") == "1"
    assert answer.error() == {
        "message": "torch.OutOfMemoryError: 2 GiB lacking",
        "type": "service_unavailable_error",
        "param": None,
        "code": "model_unavailable",
    }


async def test_a_model_that_could_be_loaded_has_no_error_any_more(daemon: FakeDaemon) -> None:
    await use(daemon, "alpha")
    await daemon.engines["alpha"].die("CUDA error")
    await until(lambda: daemon.view("alpha").residency == "cold", "the crash to be noticed")
    assert (await model(daemon, "alpha"))["error"] == FAILED
    await use(daemon, "alpha")
    assert (await model(daemon, "alpha"))["error"] is None


async def test_models_lists_every_name_that_may_be_used(daemon: FakeDaemon) -> None:
    answer = await once(daemon.port, "GET", "/v1/models")
    body = answer.json()
    created = body["data"][0]["created"]
    card = {"object": "model", "created": created, "owned_by": "arena-server"}
    assert body == {
        "object": "list",
        "data": [
            {**card, "id": "alpha", "root": "org/alpha", "parent": None, "display_name": "alpha"},
            {**card, "id": "beta", "root": "org/beta", "parent": None, "display_name": "beta"},
            {**card, "id": "org/gamma", "root": "org/gamma", "parent": None, "display_name": "org/gamma"},
            {**card, "id": "gpt-4o", "root": "org/alpha", "parent": "alpha", "display_name": "gpt-4o"},
            {**card, "id": "org/alias", "root": "org/alpha", "parent": "alpha", "display_name": "org/alias"},
        ],
    }


async def test_openais_client_lists_and_retrieves_models(daemon: FakeDaemon) -> None:
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        listed = [m async for m in await client.models.list()]
        assert [m.id for m in listed] == ["alpha", "beta", "org/gamma", "gpt-4o", "org/alias"]
        for card in listed:
            assert await client.models.retrieve(card.id) == card
        with pytest.raises(openai.NotFoundError) as raised:
            await client.models.retrieve("nobody")
        assert raised.value.code == "model_not_found"


@pytest.mark.parametrize("path", ["org/gamma", "org%2Fgamma", "org%2fgamma"])
async def test_a_model_with_a_slash_in_its_name_is_found_by_either_spelling(daemon: FakeDaemon, path: str) -> None:
    answer = await once(daemon.port, "GET", f"/v1/models/{path}")
    assert answer.status == 200
    assert answer.json()["id"] == "org/gamma"


@pytest.mark.parametrize("name", ["nobody", "alpha/", "org", "ALPHA", "../alpha"])
async def test_a_model_that_does_not_exist_is_a_404_in_openais_form(daemon: FakeDaemon, name: str) -> None:
    answer = await once(daemon.port, "GET", f"/v1/models/{name}")
    assert answer.status == 404
    error = answer.error()
    assert error["message"].startswith(f"The model `{name}` does not exist. Available models: `alpha`, ")
    assert (error["param"], error["code"]) == ("model", "model_not_found")


async def test_looking_loads_nothing(daemon: FakeDaemon) -> None:
    for path in ("/health", "/v1/models", "/v1/models/alpha"):
        assert (await once(daemon.port, "GET", path)).status == 200
        assert (await once(daemon.port, "POST", path, b"{}")).status == 405
    assert not any(e.loads for e in daemon.engines.values())
