"""What engines inherit of the daemon's environment: all but its keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from arena_server.access.key import sha256_of
from arena_server.engine.launcher import Launcher
from arena_server.serve import secret_variables
from tests.support.daemon_app import config_of


def test_the_variables_of_all_keys_are_secret() -> None:
    models = {
        "near": {"model": "x/y"},
        "far": {"model": "z", "backend_url": "http://127.0.0.1:1/v1", "api_key_env": "FAR_KEY"},
    }
    keys = {"ops": {"key_env": "OPS_KEY"}, "ci": {"sha256": sha256_of("x")}}
    found = secret_variables(config_of(models, access={"keys": keys}))
    assert found == {"ARENA_API_KEY", "OPS_KEY", "FAR_KEY"}


async def test_an_engine_is_not_given_what_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    start = asyncio.create_subprocess_exec

    async def start_another(*argv: str, env: dict[str, str], **rest: Any) -> Any:
        given.update(env)
        return await start("true", **rest)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_another)
    monkeypatch.setenv("OPS_KEY", "the-operators-key")
    monkeypatch.setenv("ARENA_TEST_PLAIN", "plain")
    launcher = Launcher("fork", {"ADDED": "1"}, {"OPS_KEY"})
    try:
        await launcher.warm_up()
    finally:
        await launcher.close()
    assert "OPS_KEY" not in given
    assert (given["ARENA_TEST_PLAIN"], given["ADDED"]) == ("plain", "1")
