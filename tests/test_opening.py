"""What has to be read before anybody is let in: a trouble is told, tried again, and never silent."""

from __future__ import annotations

import asyncio
import logging

import pytest

from arena_server.opening import CannotOpen, Opening
from tests.support.daemon_app import running_daemon
from tests.support.gate import until
from tests.support.raw_client import once


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arena_server.opening.TRY_AGAIN_S", 0.01)


async def test_a_defect_is_told_without_its_inside_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    allowed = asyncio.Event()
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        if not allowed.is_set():
            raise KeyError("sk-secret")

    opening = Opening([step])
    running = asyncio.create_task(opening.run())
    with pytest.raises(CannotOpen) as told:
        await opening.passed()
    assert told.value.status == 503
    assert told.value.retry_after_s is not None
    assert "secret" not in told.value.message
    await until(lambda: calls > 5, "it to be tried again")
    assert [r.exc_info is not None for r in caplog.records if r.levelno == logging.ERROR] == [True], "said once"
    allowed.set()
    await running
    await opening.passed()


async def test_a_part_that_ends_with_a_defect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:

        async def fall(_: object) -> None:
            raise KeyError("what it fell over")

        patch.setattr("arena_server.access.keyring.Keyring.watch", fall)
        async with running_daemon() as daemon:
            await until(lambda: "A part of the daemon has ended" in caplog.text, "it to be told")
            assert "what it fell over" in caplog.text
            assert (await once(daemon.port, "GET", "/health")).status == 200
