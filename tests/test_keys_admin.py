"""`/admin/keys`: what it makes and ends is in force at once; nothing it says lets anybody in but what made a key."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from arena_server.access.issuer import Issuer, KeyOrder
from arena_server.access.key import sha256_of
from arena_server.api.chat_fields import parse
from arena_server.api.key_body import KeyBody
from arena_server.caller import Scope
from arena_server.errors import BadRequest
from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.raw_client import Answer, connected

KEYS = "/admin/keys"
ADMIN = "sk-arena-the-configuration-s-own-key"
CONFIGURED = {"access": {"keys": {"ops": {"sha256": sha256_of(ADMIN), "scopes": ("admin",)}}}}


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    """Without any key."""
    async with running_daemon() as running:
        yield running


@pytest.fixture
async def kept() -> AsyncIterator[FakeDaemon]:
    """With a key of the configuration's, good for everything."""
    async with running_daemon(**CONFIGURED) as running:
        yield running


async def asked(daemon: FakeDaemon, method: str, path: str, body: Any = None, key: str | None = None) -> Answer:
    headers = [] if key is None else [("Authorization", f"Bearer {key}")]
    async with connected(daemon.port) as client:
        if body is not None:
            client.post(path, body, headers)
        else:
            client.request(method, path, headers=headers)
        return await client.answer()


async def made(daemon: FakeDaemon, key: str | None = None, **body: Any) -> dict[str, Any]:
    answer = await asked(daemon, "POST", KEYS, {"name": "somebody", **body}, key)
    assert answer.status == 201, answer.body
    assert answer.header("cache-control") == "no-store"
    card: dict[str, Any] = answer.json()
    return card


async def lets_in(daemon: FakeDaemon, key: str | None, path: str = "/v1/models") -> int:
    return (await asked(daemon, "GET", path, key=key)).status


async def test_the_first_key_closes_the_daemon_at_once(daemon: FakeDaemon) -> None:
    assert await lets_in(daemon, None, KEYS) == 200
    first = await made(daemon, scopes=["admin"])
    assert first["first"]
    assert await lets_in(daemon, None, KEYS) == 401
    assert await lets_in(daemon, first["key"], KEYS) == 200
    second = await made(daemon, first["key"], scopes=["inference"])
    assert not second["first"]
    assert await lets_in(daemon, second["key"]) == 200
    assert await lets_in(daemon, second["key"], KEYS) == 403


async def test_a_first_key_that_cannot_administer_is_refused_unless_it_is_forced(daemon: FakeDaemon) -> None:
    answer = await asked(daemon, "POST", KEYS, {"name": "app"})
    assert answer.status == 409
    assert answer.error()["code"] == "no_admin_key"
    assert await lets_in(daemon, None, KEYS) == 200  # nothing was made
    forced = await made(daemon, name="app", force=True)
    assert await lets_in(daemon, forced["key"]) == 200
    assert await lets_in(daemon, forced["key"], KEYS) == 403


async def test_a_list_shows_all_of_a_key_but_its_text_and_its_hash(kept: FakeDaemon) -> None:
    limits = {"requests_per_minute": 60, "tokens_per_day": 1000}
    expires = datetime.now(UTC) + timedelta(days=1)
    key = await made(
        kept,
        ADMIN,
        name="app",
        scopes=["arena", "inference"],
        models=["alpha", "gpt-4o"],
        limits=limits,
        expires_at=expires.isoformat(),
    )
    await asked(kept, "POST", f"{KEYS}/{key['id']}/rotate", {"grace_s": 60}, ADMIN)
    answer = await asked(kept, "GET", KEYS, key=ADMIN)
    ops, app = answer.json()["keys"]
    assert (ops["id"], ops["source"], ops["state"], ops["scopes"]) == (
        "config:ops",
        "configuration",
        "active",
        ["admin"],
    )
    assert (app["id"], app["name"], app["source"], app["state"]) == (key["id"], "app", "store", "active")
    assert (app["scopes"], app["models"]) == (["arena", "inference"], ["alpha", "gpt-4o"])
    assert app["limits"] == {**limits, "tokens_per_minute": None, "concurrent_requests": None}
    assert datetime.fromisoformat(app["expires_at"]) == expires.replace(microsecond=0)
    assert app["previous_until"] is not None
    for secret in (key["key"], sha256_of(key["key"]), sha256_of(ADMIN)):
        assert secret.encode() not in answer.body
        assert secret[:8].encode() not in answer.body.replace(b"sk-arena", b"")


async def test_a_revoked_key_is_good_for_nothing_at_once_and_stays_in_the_list(kept: FakeDaemon) -> None:
    key = await made(kept, ADMIN)
    assert await lets_in(kept, key["key"]) == 200
    revoked = await asked(kept, "DELETE", f"{KEYS}/{key['id']}", key=ADMIN)
    assert (revoked.status, revoked.json()["state"]) == (200, "revoked")
    assert await lets_in(kept, key["key"]) == 401
    assert (await asked(kept, "DELETE", f"{KEYS}/{key['id']}", key=ADMIN)).json() == revoked.json()
    assert (await asked(kept, "POST", f"{KEYS}/{key['id']}/rotate", {}, ADMIN)).status == 409
    listed = (await asked(kept, "GET", KEYS, key=ADMIN)).json()["keys"]
    assert [(k["id"], k["state"]) for k in listed] == [("config:ops", "active"), (key["id"], "revoked")]


async def test_a_key_that_was_revoked_was_so_the_first_time(tmp_path: Path) -> None:
    days = itertools.count(1)
    store = Store(sqlite_url(tmp_path / "arena.sqlite"))
    issuer = Issuer(store, dict, tuple, lambda: datetime(2026, 1, next(days), tzinfo=UTC))
    card, _ = await issuer.create(KeyOrder("me", (Scope.ADMIN,)))
    first = await issuer.revoke(card.id, keep_admin=False)
    assert first.revoked_at is not None
    assert await issuer.revoke(card.id, keep_admin=False) == first
    await store.close()


async def test_the_last_key_that_administers_cannot_be_revoked_from_afar(daemon: FakeDaemon) -> None:
    first = await made(daemon, scopes=["admin"])
    answer = await asked(daemon, "DELETE", f"{KEYS}/{first['id']}", key=first["key"])
    assert answer.status == 409
    assert answer.error()["code"] == "no_admin_key"
    assert f"arena-server keys revoke {first['id']} --config" in answer.error()["message"]
    second = await made(daemon, first["key"], scopes=["admin"])
    assert (await asked(daemon, "DELETE", f"{KEYS}/{first['id']}", key=first["key"])).status == 200
    assert await lets_in(daemon, second["key"], KEYS) == 200


async def test_two_administrators_who_revoke_each_other_do_not_both_succeed(daemon: FakeDaemon) -> None:
    one = await made(daemon, scopes=["admin"])
    other = await made(daemon, one["key"], scopes=["admin"])
    answers = await asyncio.gather(
        asked(daemon, "DELETE", f"{KEYS}/{other['id']}", key=one["key"]),
        asked(daemon, "DELETE", f"{KEYS}/{one['id']}", key=other["key"]),
    )
    # The later one may be too late for its key, or for its order.
    assert sorted(answer.status for answer in answers) in ([200, 401], [200, 409])
    assert sorted([await lets_in(daemon, one["key"], KEYS), await lets_in(daemon, other["key"], KEYS)]) == [200, 401]


@pytest.mark.parametrize(("grace_s", "before"), [(None, 200), (60, 200), (0, 401)])
async def test_a_rotated_key_has_a_new_text_and_the_old_one_its_grace(
    kept: FakeDaemon, grace_s: float | None, before: int
) -> None:
    key = await made(kept, ADMIN, scopes=["arena"])
    body = {} if grace_s is None else {"grace_s": grace_s}
    answer = await asked(kept, "POST", f"{KEYS}/{key['id']}/rotate", body, ADMIN)
    assert (answer.status, answer.header("cache-control")) == (200, "no-store")
    new = answer.json()
    assert (new["id"], new["scopes"], new["first"]) == (key["id"], ["arena"], False)
    assert new["key"] != key["key"]
    assert await lets_in(kept, new["key"]) == 200
    assert await lets_in(kept, key["key"]) == before
    assert (new["previous_until"] is not None) == (before == 200)


async def test_a_second_rotation_ends_the_first_text(kept: FakeDaemon) -> None:
    key = await made(kept, ADMIN)
    texts = [key["key"]]
    for _ in range(2):
        texts.append((await asked(kept, "POST", f"{KEYS}/{key['id']}/rotate", {"grace_s": 60}, ADMIN)).json()["key"])
    assert [await lets_in(kept, text) for text in texts] == [401, 200, 200]


@pytest.mark.parametrize("order", ["rotate", "revoke"])
async def test_the_configuration_s_keys_are_changed_there(kept: FakeDaemon, order: str) -> None:
    method, path = ("POST", f"{KEYS}/config:ops/rotate") if order == "rotate" else ("DELETE", f"{KEYS}/config:ops")
    answer = await asked(kept, method, path, {} if method == "POST" else None, ADMIN)
    assert answer.status == 409
    assert "access.keys" in answer.error()["message"]
    assert await lets_in(kept, ADMIN, KEYS) == 200


async def test_a_key_that_is_not_there(kept: FakeDaemon) -> None:
    for key_id in ("0123456789ab", "config:nobody", "%20", "a/b"):
        for answer in (
            await asked(kept, "DELETE", f"{KEYS}/{key_id}", key=ADMIN),
            await asked(kept, "POST", f"{KEYS}/{key_id}/rotate", {}, ADMIN),
        ):
            assert answer.status == 404
            assert answer.error()["code"] == "key_not_found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": " a"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "config:a"}, "name"),
        ({"name": "a" * 101}, "name"),
        ({"name": 1}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"models": []}, "models"),
        ({"models": [".."]}, "models.0"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"request": 1}}, "limits.request"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"sha256": "0" * 64}, "sha256"),
    ],
)
def test_no_key_that_can_be_made(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(KeyBody, json.dumps({"name": "app", **body}).encode())
    assert caught.value.param == param


async def test_a_key_that_cannot_be_made_is_not(kept: FakeDaemon) -> None:
    for body in ({"name": "app", "expires_at": "2020-01-01T00:00:00Z"}, {"name": "app", "scopes": ["root"]}):
        assert (await asked(kept, "POST", KEYS, body, ADMIN)).status == 400
    assert len((await asked(kept, "GET", KEYS, key=ADMIN)).json()["keys"]) == 1


async def test_models_that_nobody_serves_now_are_told(kept: FakeDaemon) -> None:
    key = await made(kept, ADMIN, models=["alpha", "gpt-4o", "later"])
    assert key["unknown_models"] == ["later"]


async def test_a_page_of_another_site_makes_no_keys(daemon: FakeDaemon) -> None:
    async with connected(daemon.port) as client:
        client.post(KEYS, {"name": "evil", "scopes": ["admin"]}, [("Sec-Fetch-Site", "cross-site")])
        answer = await client.answer()
    assert answer.error()["code"] == "cross_site"
    assert await lets_in(daemon, None, KEYS) == 200


async def test_a_row_that_makes_no_sense_is_listed_nevertheless(kept: FakeDaemon) -> None:
    """The list is where it is to be seen."""
    ids = [(await made(kept, ADMIN, name=f"key-{n}"))["id"] for n in range(3)]
    for key_id, change in zip(ids, ("scopes = 'null'", "scopes = 'no JSON'", "models = '5'"), strict=True):
        damage = f"UPDATE arena_keys SET {change} WHERE id = '{key_id}'"
        await kept.votes.transact(lambda c, damage=damage: c.exec_driver_sql(damage), write=True)  # type: ignore[misc]
    answer = await asked(kept, "GET", KEYS, key=ADMIN)
    assert answer.status == 200
    cards = {card["id"]: card for card in answer.json()["keys"]}
    assert [cards[key_id]["name"] for key_id in ids] == ["key-0", "(cannot be read)", "key-2"]
    assert [cards[key_id]["scopes"] for key_id in ids] == [[], [], ["inference"]]
