"""Models and aliases are added, changed and removed while the daemon runs, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from arena_server.errors import ShuttingDown
from arena_server.pool.residency import Residency
from arena_server.registry_entry import without_secrets
from arena_server.store.errors import StoreUnavailable
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.support.admin_client import add, done, named, order, refused
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.leases import use
from tests.support.raw_client import Answer, once, post

PATH = "/v1/completions"
shares_daemon = pytest.mark.asyncio(loop_scope="module")
FRACTION = {"gpu_memory_utilization": 0.2, "sleep_level": 0}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "alpha": {"model": "org/alpha", "aliases": ["first"], **FRACTION},
    "beta": {"model": "org/beta", **FRACTION},
}
GAMMA = {"model": "org/gamma", **FRACTION}


def write(file: Path, models: Mapping[str, Mapping[str, Any]] = MODELS, **sections: Any) -> None:
    database = {"database": sqlite_url(file.parent / "arena.sqlite")}
    file.write_text(json.dumps({"models": models, "arena": database, **sections}))


@contextlib.asynccontextmanager
async def started(file: Path) -> AsyncIterator[FakeDaemon]:
    async with running_daemon(file=file) as running:
        await once(running.port, "GET", "/v1/models")  # which waits for what has to be read first
        yield running
        await running.come_to_rest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "arena.yaml"
    write(path)
    return path


@pytest.fixture
async def daemon(file: Path) -> AsyncIterator[FakeDaemon]:
    async with started(file) as running:
        yield running


def prompt(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": "one two three", "max_tokens": 3, "stream": True}


def whole(answer: Answer) -> bool:
    return answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n") and b"error" not in answer.body


async def served(daemon: FakeDaemon) -> list[str]:
    return [card["id"] for card in (await once(daemon.port, "GET", "/v1/models")).json()["data"]]


async def states(daemon: FakeDaemon) -> dict[str, str]:
    found = await done(daemon.port, "GET", "models")
    return {f"{m['source']}:{m['name']}": m["state"] for m in found["models"]}


# What it is for


async def test_a_model_is_added_served_and_removed(daemon: FakeDaemon) -> None:
    card = await add(daemon.port, "org/gamma", **GAMMA, display_name="Gamma", input_cost=0.15)
    assert (card["name"], card["source"], card["state"], card["residency"]) == (
        "org/gamma",
        "registry",
        "active",
        "cold",
    )
    assert card["settings"] == {**GAMMA, "display_name": "Gamma", "input_cost": 0.15}
    assert await served(daemon) == ["alpha", "beta", "org/gamma", "first"]
    shown = (await once(daemon.port, "GET", "/v1/models/org/gamma")).json()
    assert (shown["root"], shown["display_name"]) == ("org/gamma", "Gamma")
    assert daemon.engines["org/gamma"].loads == 0, "adding loads nothing"
    assert whole(await post(daemon.port, PATH, prompt("org/gamma")))
    assert await done(daemon.port, "DELETE", f"models/{named('org/gamma')}") == {"removed": "org/gamma"}
    assert (await post(daemon.port, PATH, prompt("org/gamma"))).status == 404
    await until(lambda: len(daemon.pool.view().models) == 2, "its engine to be gone")
    assert await states(daemon) == {"file:alpha": "active", "file:beta": "active"}


async def test_streams_of_others_never_notice(daemon: FakeDaemon) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    stream = asyncio.create_task(post(daemon.port, PATH, prompt("alpha")))
    request = await alpha.request(0)
    alpha.chunks.release(1)
    await until(lambda: request.sent == 1, "the first event")
    await add(daemon.port, "gamma", **GAMMA)
    await done(daemon.port, "PATCH", "models/gamma", {"engine_args": {"max_model_len": 512}})
    await done(daemon.port, "PUT", "aliases/both", {"targets": {"alpha": 1, "gamma": 1}})
    await done(daemon.port, "DELETE", "aliases/both")
    await done(daemon.port, "DELETE", "models/gamma")
    assert daemon.view("alpha").draining is None
    assert request.sent == 1
    alpha.chunks.release()
    assert whole(await stream)
    assert len([e for e in daemon.made if e.name in MODELS]) == 2


async def test_a_change_replaces_the_engine_only_if_that_depends_on_it(daemon: FakeDaemon) -> None:
    await add(daemon.port, "gamma", **GAMMA, engine_args={"max-model-len": 512}, aliases=["g"])
    await use(daemon, "gamma")
    engine = daemon.engines["gamma"]
    prices = {"input_cost": 1, "display_name": "G", "aliases": ["h"], "pinned": True, "fallback": ["alpha"]}
    await done(daemon.port, "PATCH", "models/gamma", prices)
    assert daemon.engines["gamma"] is engine
    assert daemon.view("gamma").residency is Residency.AWAKE
    assert whole(await post(daemon.port, PATH, prompt("h")))
    # RFC 7396: null removes, objects are gone into.
    patch = {"engine_args": {"max_model_len": None, "seed": 7}, "display_name": None, "pinned": None}
    card = (await done(daemon.port, "PATCH", "models/gamma", patch))["model"]
    assert card["settings"] == {
        **GAMMA, "engine_args": {"seed": 7}, "input_cost": 1, "aliases": ["h"], "fallback": ["alpha"]
    }  # fmt: skip
    assert daemon.engines["gamma"] is not engine
    assert whole(await post(daemon.port, PATH, prompt("gamma")))


async def test_disabled_and_enabled_again(daemon: FakeDaemon) -> None:
    await add(daemon.port, "gamma", **GAMMA)
    card = (await done(daemon.port, "POST", "models/gamma/disable"))["model"]
    assert (card["state"], card["residency"]) == ("disabled", None)
    assert (await post(daemon.port, PATH, prompt("gamma"))).status == 404
    assert (await done(daemon.port, "POST", "models/gamma/enable"))["model"]["state"] == "active"
    assert whole(await post(daemon.port, PATH, prompt("gamma")))


async def test_an_alias_is_split_set_anew_and_removed(daemon: FakeDaemon) -> None:
    await add(daemon.port, "gamma", **GAMMA)
    await done(daemon.port, "PUT", "aliases/chat", {"targets": "alpha"})
    assert whole(await post(daemon.port, PATH, prompt("chat")))
    assert len(daemon.engines["alpha"].inference) == 1
    set_to = (await done(daemon.port, "PUT", "aliases/chat", {"targets": {"alpha": 0, "gamma": 10}}))["alias"]
    assert (set_to["source"], set_to["state"], set_to["targets"]) == ("registry", "active", {"alpha": 0, "gamma": 10})
    answer = await post(daemon.port, PATH, prompt("chat"))
    assert whole(answer)
    assert json.loads(daemon.engines["gamma"].inference[0].body)["model"] == "gamma"
    assert [a["name"] for a in (await done(daemon.port, "GET", "aliases"))["aliases"]] == ["chat"]
    await done(daemon.port, "DELETE", "aliases/chat")
    assert (await post(daemon.port, PATH, prompt("chat"))).status == 404


async def test_orders_for_a_model_still_find_it(daemon: FakeDaemon) -> None:
    await add(daemon.port, "org/gamma", **GAMMA)
    assert (await order(daemon.port, "POST", f"models/{named('org/gamma')}/load")).status == 202
    await until(lambda: daemon.view("org/gamma").residency is Residency.AWAKE, "it to be loaded")
    assert (await done(daemon.port, "GET", f"models/{named('org/gamma')}"))["model"]["residency"] == "awake"
    assert (await done(daemon.port, "GET", "models/alpha"))["model"]["source"] == "file"


# What outlives the daemon


async def test_what_was_added_is_there_after_a_restart_and_what_is_to_be_loaded_is(file: Path) -> None:
    async with started(file) as daemon:
        await add(daemon.port, "gamma", **GAMMA, preload=True, fallback=["delta", "alpha"][1:])
        await add(daemon.port, "delta", **GAMMA)
        await done(daemon.port, "POST", "models/delta/disable")
        await done(daemon.port, "PUT", "aliases/chat", {"targets": {"alpha": 1, "gamma": 2}})
        before = (await done(daemon.port, "GET", "models"), await done(daemon.port, "GET", "aliases"))
    async with started(file) as daemon:
        await until(lambda: daemon.view("gamma").residency is Residency.AWAKE, "gamma to be loaded")
        assert daemon.engines["alpha"].loads == 0
        after = (await done(daemon.port, "GET", "models"), await done(daemon.port, "GET", "aliases"))
        for model in (*before[0]["models"], *after[0]["models"]):
            del model["residency"]
        assert after == before
        assert await served(daemon) == ["alpha", "beta", "gamma", "first", "chat"]


async def test_without_anything_added_no_database_is_made(file: Path) -> None:
    async with started(file) as daemon:
        await done(daemon.port, "GET", "models")
        assert not (file.parent / "arena.sqlite").exists()


async def test_the_file_is_read_again_and_what_was_added_stays(daemon: FakeDaemon, file: Path) -> None:
    await add(daemon.port, "gamma", **GAMMA)
    await use(daemon, "gamma")
    engine = daemon.engines["gamma"]
    write(file, {**MODELS, "delta": GAMMA})
    report = await done(daemon.port, "POST", "reload")
    assert (report["added"], report["removed"], report["unchanged"]) == (["delta"], [], ["alpha", "beta", "gamma"])
    assert daemon.engines["gamma"] is engine
    assert await served(daemon) == ["alpha", "beta", "delta", "gamma", "first"]


async def test_what_the_file_says_by_now_comes_into_force_with_a_reload_alone(daemon: FakeDaemon, file: Path) -> None:
    write(file, {"alpha": MODELS["alpha"]})
    await add(daemon.port, "gamma", **GAMMA)
    assert await served(daemon) == ["alpha", "beta", "gamma", "first"]


async def test_the_file_has_precedence_for_its_names(
    daemon: FakeDaemon, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await add(daemon.port, "gamma", **GAMMA, aliases=["g"])
    await add(daemon.port, "delta", **GAMMA, aliases=["d", "e"])
    await done(daemon.port, "PUT", "aliases/chat", {"targets": "gamma"})
    write(file, {**MODELS, "gamma": {**GAMMA, "model": "org/the-files"}}, aliases={"d": "beta", "chat": "beta"})
    await done(daemon.port, "POST", "reload")
    assert await states(daemon) == {
        "file:alpha": "active", "file:beta": "active", "file:gamma": "active",
        "registry:gamma": "hidden", "registry:delta": "active",
    }  # fmt: skip
    assert sorted(await served(daemon)) == ["alpha", "beta", "chat", "d", "delta", "e", "first", "gamma"]
    assert (await once(daemon.port, "GET", "/v1/models/d")).json()["parent"] == "beta"
    shown = (await done(daemon.port, "GET", "models/gamma"))["model"]
    assert (shown["source"], shown["settings"]["model"]) == ("file", "org/the-files")
    assert "Model gamma was added, and is hidden" in caplog.text
    assert "Alias chat was added, and is hidden" in caplog.text
    assert (await done(daemon.port, "GET", "models"))["models"][-1]["errors"] == [
        "models.delta.aliases: `d` is the file's"
    ]
    # What is hidden can be removed, and comes back when the file lets go of its name.
    await done(daemon.port, "DELETE", "aliases/chat")
    write(file)
    await done(daemon.port, "POST", "reload")
    assert (await done(daemon.port, "GET", "models/gamma"))["model"]["settings"]["model"] == "org/gamma"
    assert sorted(await served(daemon)) == ["alpha", "beta", "d", "delta", "e", "first", "g", "gamma"]


async def test_what_can_no_longer_be_used_is_left_out_and_keeps_nobody_from_being_served(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(file) as daemon:
        await add(daemon.port, "gamma", **GAMMA)
        await add(daemon.port, "delta", **GAMMA, fallback=["beta"])
        await add(daemon.port, "big", model="org/big", gpu_memory_utilization=0.9, sleep_level=0)
        await done(daemon.port, "PUT", "aliases/chat", {"targets": {"gamma": 1, "beta": 1}})
    write(file, {"alpha": {**MODELS["alpha"], "pinned": True}})  # beside it, `big` has no room any more
    async with started(file) as daemon:
        assert await states(daemon) == {
            "file:alpha": "active", "registry:gamma": "active", "registry:delta": "faulty", "registry:big": "faulty"
        }  # fmt: skip
        by_name = {m["name"]: m["errors"] for m in (await done(daemon.port, "GET", "models"))["models"]}
        assert by_name["delta"] == ['models.delta.fallback.0: "beta" is not a configured model']
        assert by_name["big"][0].startswith("models.big.gpu_memory_utilization: 0.9 never fits next to the pinned")
        (alias,) = (await done(daemon.port, "GET", "aliases"))["aliases"]
        assert (alias["state"], alias["errors"]) == ("faulty", ["aliases.chat.beta: is not a configured model"])
        assert whole(await post(daemon.port, PATH, prompt("gamma")))
        assert "Model delta was added, and is left out: models.delta.fallback.0" in caplog.text
        # And it can be mended.
        assert (await done(daemon.port, "PATCH", "models/delta", {"fallback": None}))["model"]["state"] == "active"
        assert whole(await post(daemon.port, PATH, prompt("delta")))


async def spoil(file: Path, statement: str) -> None:
    store = Store(sqlite_url(file.parent / "arena.sqlite"))

    def execute(connection: Any) -> None:
        connection.exec_driver_sql(statement)

    await store.transact(execute, write=True)
    await store.close()


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ("settings = '{{'", "`settings` is no JSON"),
        ("settings = '[]'", "`settings` is no object"),
        ('settings = \'{"display_name": "x"}\'', "models.gamma.model: is missing"),
        ("settings = 'null'", "`settings` is no object"),
        ("settings = '{\"model\": NaN}'", "`settings` is no JSON"),
        ("created_at = 'yesterday'", "its row in the database cannot be read"),
        ('settings = \'{"model": "x", "fallback": 5}\'', "models.gamma.fallback: must be a list"),
    ],
)
async def test_a_row_that_cannot_be_read_hides_no_other_and_can_be_removed_or_mended(
    file: Path, column: str, why: str
) -> None:
    async with started(file) as daemon:
        for name in ("gamma", "delta", "other"):
            await add(daemon.port, name, **GAMMA)
    await spoil(file, f"UPDATE arena_models SET {column} WHERE name IN ('gamma', 'other')")
    async with started(file) as daemon:
        assert await states(daemon) == {
            "file:alpha": "active", "file:beta": "active",
            "registry:gamma": "faulty", "registry:delta": "active", "registry:other": "faulty",
        }  # fmt: skip
        assert why in (await done(daemon.port, "GET", "models/gamma"))["model"]["errors"][0]
        assert whole(await post(daemon.port, PATH, prompt("delta")))
        # Others come and go beside it.
        await add(daemon.port, "epsilon", **GAMMA, fallback=["delta"])
        assert (await order(daemon.port, "DELETE", "models/delta")).status == 409
        await done(daemon.port, "DELETE", "models/epsilon")
        await done(daemon.port, "DELETE", "models/gamma")
        card = (await done(daemon.port, "PATCH", "models/other", {**GAMMA, "fallback": None}))["model"]
        assert card["state"] == "active"
    async with started(file) as daemon:
        assert await served(daemon) == ["alpha", "beta", "delta", "other", "first"]


@pytest.mark.parametrize("targets", ["{{", "5", "[]", '{"alpha": "much"}', '{"alpha": -1}'])
async def test_nor_does_an_alias(file: Path, targets: str) -> None:
    async with started(file) as daemon:
        await add(daemon.port, "gamma", **GAMMA)
        for name in ("chat", "other"):
            await done(daemon.port, "PUT", f"aliases/{name}", {"targets": {"alpha": 1, "gamma": 1}})
    await spoil(file, f"UPDATE arena_aliases SET targets = '{targets}'")
    async with started(file) as daemon:
        shown = (await done(daemon.port, "GET", "aliases"))["aliases"]
        assert [(a["name"], a["state"]) for a in shown] == [("chat", "faulty"), ("other", "faulty")]
        await done(daemon.port, "DELETE", "aliases/chat")
        assert (await done(daemon.port, "PUT", "aliases/other", {"targets": "gamma"}))["alias"]["state"] == "active"
        assert (await order(daemon.port, "DELETE", "models/gamma")).status == 409
        assert await served(daemon) == ["alpha", "beta", "gamma", "first", "other"]


# What is refused, and changes nothing


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "models", {"name": "alpha", **GAMMA}, 409, "`alpha` stands in "),
        ("POST", "models", {"name": "first", **GAMMA}, 409, "`first` stands in "),
        ("POST", "models", {"name": "added", **GAMMA}, 409, "There is a model `added` already"),
        ("POST", "models", {"name": "chat", **GAMMA}, 400, 'aliases.chat: is already the name of a model'),
        ("POST", "models", {"name": "b b", **GAMMA}, 400, "models.b b: must be 1 to 200 letters"),
        ("POST", "models", {"name": 7, **GAMMA}, 400, "`name` must be the model's name."),
        ("POST", "models", {"name": "x"}, 400, "models.x.model: is missing"),
        ("POST", "models", {"name": "x", **GAMMA, "pined": 1}, 400, "models.x.pined: unknown key (did you"),
        ("POST", "models", {"name": "x", **GAMMA, "aliases": ["beta"]}, 400, "models.x.aliases: `beta` is the file's"),
        ("POST", "models", {"name": "x", **GAMMA, "aliases": ["chat"]}, 400, "aliases.chat: is already an alias"),
        ("POST", "models", {"name": "x", **GAMMA, "fallback": ["y"]}, 400, 'models.x.fallback.0: "y" is not'),
        ("POST", "models", {"name": "x", **GAMMA, "devices": [9]}, 400, "models.x.devices: there is no device 9"),
        ("POST", "models", {"name": "x", "model": "a", "gpu_memory_utilization": 0.99}, 400, "0.99 is over"),
        ("POST", "models", {"name": "x", **GAMMA, "model": "a\0b"}, 400, "A text holds a NUL"),
        ("POST", "models", ["x"], 400, "must be an object"),
        ("PATCH", "models/alpha", {"pinned": True}, 409, "`alpha` stands in "),
        ("PATCH", "models/nobody", {"pinned": True}, 404, "The model `nobody` does not exist"),
        ("PATCH", "models/added", {"model": None}, 400, "models.added.model: is missing"),
        ("PATCH", "models/added", {"gpu_memory_utilization": 2}, 400, "utilization: must be at most 1"),
        ("DELETE", "models/alpha", None, 409, "`alpha` stands in "),
        ("DELETE", "models/nobody", None, 404, "The model `nobody` does not exist"),
        ("DELETE", "models/added", None, 409, "the alias `chat` points to it, it is a fallback of `other`"),
        ("POST", "models/added/disable", None, 409, "The model `added` is needed: "),
        ("GET", "models/nobody", None, 404, "The model `nobody` does not exist"),
        ("PUT", "aliases/alpha", {"targets": "beta"}, 409, "`alpha` stands in "),
        ("PUT", "aliases/added", {"targets": "beta"}, 400, "aliases.added: is already the name of a model"),
        ("PUT", "aliases/new", {"targets": "bet"}, 400, 'is not a configured model (did you mean "beta"?)'),
        ("PUT", "aliases/new", {"targets": {"alpha": 0}}, 400, "aliases.new: all its weights are 0"),
        ("PUT", "aliases/new", {"targets": {"alpha": -1}}, 400, "aliases.new.alpha: must be at least 0"),
        ("PUT", "aliases/new", {"targets": {"alpha": 1e308, "beta": 1e308}}, 400, "alpha: must be at most 1000000"),
        ("PUT", "aliases/new", {"target": "beta"}, 400, "The body must be"),
        ("DELETE", "aliases/nobody", None, 404, "`nobody` does not exist"),
    ],
)  # fmt: skip
@shares_daemon
async def test_what_is_refused_changes_nothing(
    refusing: FakeDaemon, method: str, path: str, body: object, status: int, said: str
) -> None:
    before = (await done(refusing.port, "GET", "models"), await done(refusing.port, "GET", "aliases"))
    got, _, message = await refused(refusing.port, method, path, body)
    assert got == status, message
    assert said in message
    assert (await done(refusing.port, "GET", "models"), await done(refusing.port, "GET", "aliases")) == before
    assert sorted(await served(refusing)) == ["added", "alpha", "beta", "chat", "first", "other"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def refusing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FakeDaemon]:
    path = tmp_path_factory.mktemp("refusing") / "arena.yaml"
    write(path)
    async with started(path) as daemon:
        await add(daemon.port, "added", **GAMMA)
        await add(daemon.port, "other", **GAMMA, fallback=["added"])
        await done(daemon.port, "PUT", "aliases/chat", {"targets": {"added": 1, "beta": 0}})
        yield daemon


async def test_who_would_push_out_another_that_was_added_is_refused(daemon: FakeDaemon) -> None:
    await add(daemon.port, "big", model="org/big", gpu_memory_utilization=0.9, sleep_level=0)
    status, code, message = await refused(daemon.port, "POST", "models", {"name": "pin", **GAMMA, "pinned": True})
    assert (status, code) == (400, "invalid_configuration")
    assert "never fits next to the pinned models" in message
    assert "registry:pin" not in await states(daemon)


async def test_what_cannot_be_kept_is_not_put_into_force(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("The disk is full.")

    monkeypatch.setattr(daemon.votes, "transact", fail)
    status, _, message = await refused(daemon.port, "POST", "models", {"name": "gamma", **GAMMA})
    assert (status, message) == (503, "The disk is full.")
    assert await served(daemon) == ["alpha", "beta", "first"]


@pytest.mark.parametrize("lost", [1, 2, 4], ids=["once", "its undoing too", "for a while"])
async def test_what_was_refused_is_not_there_after_a_restart_though_it_was_kept(
    file: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """A database can do what it is asked, and fail to say so."""
    monkeypatch.setattr("arena_server.registry.UNDO_AGAIN_S", 0.01)
    async with started(file) as daemon:
        transact, left = daemon.votes.transact, lost

        async def losing(work: Any, *, write: bool) -> Any:
            nonlocal left
            done = await transact(work, write=write)
            if write and left > 0:
                left -= 1
                raise StoreUnavailable("The connection was lost.")
            return done

        monkeypatch.setattr(daemon.votes, "transact", losing)
        assert (await refused(daemon.port, "POST", "models", {"name": "gamma", **GAMMA}))[0] == 503
        await until(lambda: left == 0, "it to be undone")
        await add(daemon.port, "delta", **GAMMA)  # and the next change is as any other
    async with started(file) as daemon:
        assert await served(daemon) == ["alpha", "beta", "delta", "first"]


async def test_what_a_defect_keeps_from_coming_into_force_is_not_kept(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(file) as daemon:

        def fall(*_: object) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(type(daemon.daemon.reloader), "apply", fall)
        assert (await order(daemon.port, "POST", "models", {"name": "gamma", **GAMMA})).status == 500
        monkeypatch.undo()
    async with started(file) as daemon:
        assert await served(daemon) == ["alpha", "beta", "first"]


async def test_what_cannot_be_put_into_force_is_not_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with started(file) as daemon:
        await add(daemon.port, "gamma", **GAMMA)

        def refuse(_: object) -> None:
            raise ShuttingDown("The server is shutting down.")

        monkeypatch.setattr(type(daemon.daemon.reloader), "apply", lambda _, config: refuse(config))
        for method, path, body in (
            ("POST", "models", {"name": "delta", **GAMMA}),
            ("PATCH", "models/gamma", {"pinned": True}),
            ("DELETE", "models/gamma", None),
            ("PUT", "aliases/chat", {"targets": "gamma"}),
        ):
            assert (await refused(daemon.port, method, path, body))[0] == 503
        monkeypatch.undo()
    async with started(file) as daemon:
        assert await served(daemon) == ["alpha", "beta", "gamma", "first"]
        assert (await done(daemon.port, "GET", "models/gamma"))["model"]["settings"] == GAMMA


async def test_changes_at_the_same_time_are_made_one_after_the_other(daemon: FakeDaemon) -> None:
    names = [f"m{i}" for i in range(8)]
    orders = [order(daemon.port, "POST", "models", {"name": name, **GAMMA}) for name in (*names, *names)]
    answers = await asyncio.gather(*orders, order(daemon.port, "POST", "reload"))
    assert sorted(a.status for a in answers) == [200, *[201] * 8, *[409] * 8]
    assert sorted(await served(daemon)) == sorted(["alpha", "beta", "first", *names])


async def test_pages_of_other_sites_give_no_orders(daemon: FakeDaemon) -> None:
    answer = await once(daemon.port, "DELETE", "/admin/models/alpha", b"", [("Sec-Fetch-Site", "cross-site")])
    assert (answer.status, answer.error()["code"]) == (403, "cross_site")


async def test_secrets_are_not_shown(daemon: FakeDaemon) -> None:
    env = {"HF_TOKEN": "hf_verysecret", "VLLM_X": "1"}
    card = await add(daemon.port, "gamma", **GAMMA, env=env, engine_args={"hf_token": "s3cret"})
    listed = json.dumps(
        [card, await done(daemon.port, "GET", "models"), await done(daemon.port, "GET", "models/gamma")]
    )
    assert "verysecret" not in listed
    assert "s3cret" not in listed
    assert card["settings"]["env"] == {"HF_TOKEN": "(hidden)", "VLLM_X": "1"}
    # They are there nevertheless, and stay when something else changes.
    await done(daemon.port, "PATCH", "models/gamma", {"pinned": True})
    model = daemon.daemon.reloader.blueprint.config.models["gamma"]
    assert model.env["HF_TOKEN"] == "hf_verysecret"
    assert model.engine_args["hf_token"] == "s3cret"


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"env": {"HF_TOKEN": "(hidden)"}}, "models.gamma.env.HF_TOKEN: is"),
        (
            {"engine_args": {"hf_overrides": {"api_key": "(hidden)"}}},
            "models.gamma.engine_args.hf_overrides.api_key: is",
        ),
    ],
)
async def test_what_stands_in_a_secrets_place_is_not_taken_for_one(
    daemon: FakeDaemon, given: dict[str, Any], where: str
) -> None:
    await add(daemon.port, "gamma", **GAMMA, env={"HF_TOKEN": "hf_verysecret"})
    for method, path, body in (
        ("PATCH", "models/gamma", given),
        ("POST", "models", {"name": "gamma2", **GAMMA, **given}),
    ):
        status, _, message = await refused(daemon.port, method, path, body)
        assert status == 400
        assert where.replace("gamma", body.get("name", "gamma")) in message
    assert daemon.daemon.reloader.blueprint.config.models["gamma"].env["HF_TOKEN"] == "hf_verysecret"


def test_secrets_are_known_by_their_names_also_within_others() -> None:
    given = {
        "engine_args": {
            "max_num_batched_tokens": 1, "tokenizer": "t", "return_tokens_as_token_ids": True, "hf_token": "S",
            "hf_overrides": {"api_key": "S", "eos_token_id": 2, "list": [{"apiKey": "S"}], "key-file": "f"},
            "kv_transfer_config": '{"password": "S"}', "generation_config": '{"seed": 1}', "url": "redis://u:S@h/0",
        },
        "env": {"HF_TOKEN": "S", "MY_AUTH": "S", "TOKENIZERS_PARALLELISM": "1", "REDIS": "redis://u:S@h/0"},
    }  # fmt: skip
    hidden = "(hidden)"
    assert without_secrets(given) == {
        "engine_args": {
            "max_num_batched_tokens": 1, "tokenizer": "t", "return_tokens_as_token_ids": True, "hf_token": hidden,
            "hf_overrides": {"api_key": hidden, "eos_token_id": 2, "list": [{"apiKey": hidden}], "key-file": "f"},
            "kv_transfer_config": hidden, "generation_config": '{"seed": 1}', "url": hidden,
        },
        "env": {"HF_TOKEN": hidden, "MY_AUTH": hidden, "TOKENIZERS_PARALLELISM": "1", "REDIS": hidden},
    }  # fmt: skip


async def test_an_argument_is_the_same_however_it_is_written(daemon: FakeDaemon) -> None:
    await add(daemon.port, "gamma", **GAMMA, engine_args={"max-model-len": 512, "no-enable-prefix-caching": True})
    for patch, then in (
        ({"max-model-len": 1024}, {"max_model_len": 1024, "enable_prefix_caching": False}),
        ({"no-enable-prefix-caching": None}, {"max_model_len": 1024}),
        ({"max-model-len": None}, {}),
    ):
        card = (await done(daemon.port, "PATCH", "models/gamma", {"engine_args": patch}))["model"]
        assert card["settings"]["engine_args"] == then
    both = {"engine_args": {"max-model-len": 1, "max_model_len": 2}}
    assert "is the same argument as" in (await refused(daemon.port, "PATCH", "models/gamma", both))[2]


async def test_followers_hear_of_each_configuration_in_force(daemon: FakeDaemon, file: Path) -> None:
    heard: list[list[str]] = []
    daemon.daemon.reloader.followers.append(lambda config: heard.append(list(config.models)))
    await add(daemon.port, "gamma", **GAMMA)
    await refused(daemon.port, "POST", "models", {"name": "x"})
    write(file, {"alpha": MODELS["alpha"]})
    await done(daemon.port, "POST", "reload")
    write(file, {})
    await refused(daemon.port, "POST", "reload")
    assert heard == [["alpha", "beta", "gamma"], ["alpha", "gamma"]]


async def test_a_bad_file_leaves_what_was_added_as_it_is(daemon: FakeDaemon, file: Path) -> None:
    await add(daemon.port, "gamma", **GAMMA)
    write(file, {"alpha": {**MODELS["alpha"], "devices": [9]}})
    status, _, message = await refused(daemon.port, "POST", "reload")
    assert status == 400
    assert message.startswith(f"{file}: models.alpha.devices: there is no device 9")
    assert await states(daemon) == {"file:alpha": "active", "file:beta": "active", "registry:gamma": "active"}
    await done(daemon.port, "PATCH", "models/gamma", {"pinned": True})
