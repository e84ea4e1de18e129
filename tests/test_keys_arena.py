"""The arena and keys: a battle is its key's alone, and nobody is shown or given a model that the key is not for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from arena_server.access.key import sha256_of
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.raw_client import Answer, connected
from tests.support.sse import EventReader, Sent

BATTLES = "/v1/arena/battles"
COMPARE = "/v1/arena/compare"
SAYS: dict[str, Any] = {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 3}
MODELS: dict[str, dict[str, Any]] = {
    "alpha": {"model": "org/alpha", "gpu_memory_utilization": 0.3, "aliases": ("first",)},
    "beta": {"model": "org/beta", "gpu_memory_utilization": 0.3},
    "gamma": {"model": "org/gamma", "gpu_memory_utilization": 0.3},
}
ONE, OTHER, NARROW, SINGLE, ADMIN = (
    f"sk-arena-{name}-of-this-test" for name in ("one", "other", "narrow", "single", "admin")
)
KEYS: dict[str, dict[str, Any]] = {
    "one": {"sha256": sha256_of(ONE), "scopes": ("arena",)},
    "other": {"sha256": sha256_of(OTHER), "scopes": ("arena",)},
    "narrow": {"sha256": sha256_of(NARROW), "scopes": ("arena",), "models": ("beta", "first", "mixed")},
    "single": {"sha256": sha256_of(SINGLE), "scopes": ("arena",), "models": ("gamma",)},
    "admin": {"sha256": sha256_of(ADMIN), "scopes": ("admin",)},
}


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon(MODELS, access={"keys": KEYS}, arena={"paced": False}) as running:
        yield running
        await running.come_to_rest()


async def asked(daemon: FakeDaemon, key: str | None, method: str, path: str, body: Any = None) -> Answer:
    headers = [] if key is None else [("Authorization", f"Bearer {key}")]
    async with connected(daemon.port) as client:
        if body is None:
            client.request(method, path, headers=headers)
        else:
            client.post(path, body, headers)
        return await client.answer()


async def fought(daemon: FakeDaemon, key: str | None, path: str = BATTLES, **body: Any) -> list[Sent]:
    """All events of a turn."""
    headers = [] if key is None else [("Authorization", f"Bearer {key}")]
    async with connected(daemon.port) as client:
        client.post(path, body or SAYS, headers)
        assert (await client.head())[0] == 200
        return await EventReader(client).all()


async def test_a_battle_is_not_there_for_another_key(daemon: FakeDaemon) -> None:
    """Not for an administrator's either: who may read all battles could tell who asked what."""
    battle = (await fought(daemon, ONE))[0].data["id"]
    nowhere = await asked(daemon, ONE, "GET", f"{BATTLES}/{'x' * len(battle)}")
    for key in (OTHER, ADMIN):
        for method, path, body in (
            ("GET", f"{BATTLES}/{battle}", None),
            ("POST", f"{BATTLES}/{battle}/turns", {"content": "and now?"}),
            ("POST", f"{BATTLES}/{battle}/vote", {"vote": "a"}),
        ):
            answer = await asked(daemon, key, method, path, body)
            assert answer.status == 404
            # Word for word what is said of one that never was.
            assert answer.body.replace(battle.encode(), b"x" * len(battle)) == nowhere.body
    assert (await asked(daemon, ONE, "GET", f"{BATTLES}/{battle}")).json()["state"] == "open"
    assert (await fought(daemon, ONE, f"{BATTLES}/{battle}/turns", content="and now?"))[-1].data["votable"]
    voted = await asked(daemon, ONE, "POST", f"{BATTLES}/{battle}/vote", {"vote": "a"})
    assert voted.json()["reveal"] is not None
    assert (await asked(daemon, OTHER, "GET", f"{BATTLES}/{battle}")).status == 404


async def test_who_shows_no_key_has_no_battle_of_one_and_the_other_way_round() -> None:
    async with running_daemon(MODELS, access={"keys": KEYS, "anonymous": ("arena",)}) as daemon:
        owned = (await fought(daemon, ONE))[0].data["id"]
        public = (await fought(daemon, None))[0].data["id"]
        found = [
            (await asked(daemon, key, "GET", f"{BATTLES}/{b}")).status for b in (owned, public) for key in (ONE, None)
        ]
        assert found == [200, 404, 404, 200]
        await daemon.come_to_rest()


async def test_a_drawn_pair_is_of_models_that_the_key_is_for(daemon: FakeDaemon) -> None:
    for _ in range(12):  # without the list, gamma would be in two of three draws
        battle = (await fought(daemon, NARROW))[0].data["id"]
        sides = (await asked(daemon, NARROW, "POST", f"{BATTLES}/{battle}/vote", {"vote": "tie"})).json()["reveal"][
            "sides"
        ]
        assert {sides[letter]["model"] for letter in "ab"} == {"alpha", "beta"}


async def test_a_key_for_one_model_has_no_battles(daemon: FakeDaemon) -> None:
    answer = await asked(daemon, SINGLE, "POST", BATTLES, SAYS)
    assert answer.status == 409
    assert answer.error()["code"] == "no_pair"


@pytest.mark.parametrize(
    ("names", "status", "code"),
    [
        (["first", "beta"], 200, None),
        (["beta", "gamma"], 403, "model_not_allowed"),
        (["gamma", "first"], 403, "model_not_allowed"),
        (["alpha", "beta"], 403, "model_not_allowed"),  # the list has its alias, and not this name
        (["beta", "nil"], 404, "model_not_found"),
    ],
)
async def test_named_models_are_those_of_the_list(
    daemon: FakeDaemon, names: list[str], status: int, code: str | None
) -> None:
    for path, more in ((BATTLES, {}), (COMPARE, {"stream": False})):
        answer = await asked(daemon, NARROW, "POST", path, {**SAYS, **more, "models": names})
        assert answer.status == status
        if code is not None:
            assert answer.error()["code"] == code
            assert "gamma" not in answer.error()["message"].replace("`gamma`", "", names.count("gamma"))


async def test_settings_show_a_key_its_models(daemon: FakeDaemon) -> None:
    shown = {key: (await asked(daemon, key, "GET", "/v1/arena/settings")).json() for key in (ONE, NARROW, SINGLE)}
    assert [(s["battles"], s["models"]) for s in shown.values()] == [
        (True, ["alpha", "beta", "gamma"]),
        (True, ["first", "beta"]),  # by names that it may use
        (False, ["gamma"]),
    ]


async def test_an_alias_of_several_models_lets_each_of_them_be_drawn() -> None:
    keys = {"mixed": {"sha256": sha256_of(ONE), "scopes": ("arena",), "models": ("mixed",)}}
    aliases = {"mixed": {"alpha": 90, "gamma": 10}}
    async with running_daemon(MODELS, access={"keys": keys}, aliases=aliases) as daemon:
        assert (await asked(daemon, ONE, "GET", "/v1/arena/settings")).json()["models"] == ["mixed"]
        battle = (await fought(daemon, ONE))[0].data["id"]
        assert (await asked(daemon, ONE, "POST", f"{BATTLES}/{battle}/vote", {"vote": "tie"})).status == 200
        await daemon.come_to_rest()


async def test_a_battle_ends_with_the_key_s_right_to_its_models(tmp_path: Path) -> None:
    file = tmp_path / "arena.yaml"
    models = {name: {**model, "aliases": [], "sleep_level": 0} for name, model in MODELS.items()}

    def configure(*allowed: str) -> None:
        keys = {
            "one": {"sha256": sha256_of(ONE), "scopes": ["arena"], "models": allowed},
            "admin": {"sha256": sha256_of(ADMIN), "scopes": ["admin"]},
        }
        whole = {"models": models, "access": {"keys": keys}, "arena": {"paced": False}, "state_dir": str(tmp_path)}
        file.write_text(json.dumps(whole))  # which is YAML, too

    configure("alpha", "beta")
    async with running_daemon(file=file) as daemon:
        battle = (await fought(daemon, ONE))[0].data["id"]
        turns = f"{BATTLES}/{battle}/turns"
        assert (await fought(daemon, ONE, turns, content="and now?"))[-1].data["votable"]
        configure("alpha", "gamma")
        assert (await asked(daemon, ADMIN, "POST", "/admin/reload")).status == 200
        refused = await asked(daemon, ONE, "POST", turns, {"content": "and now?"})
        assert (refused.status, refused.error()["code"]) == (403, "model_not_allowed")
        for model in MODELS:  # the battle is blind
            assert model not in refused.error()["message"]
        voted = await asked(daemon, ONE, "POST", f"{BATTLES}/{battle}/vote", {"vote": "a"})
        assert voted.status == 200
        await daemon.come_to_rest()


async def test_figures_are_of_the_models_that_the_key_is_for(daemon: FakeDaemon) -> None:
    assert set((await asked(daemon, SINGLE, "GET", "/stats")).json()["models"]) == {"gamma"}
    assert set((await asked(daemon, NARROW, "GET", "/stats")).json()["models"]) == {"alpha", "beta"}
    assert set((await asked(daemon, ONE, "GET", "/stats")).json()["models"]) == set(MODELS)
