"""A vote that was acknowledged survives the daemon's sudden end."""

from __future__ import annotations

import subprocess
import sys

from arena_server.store.records import Vote
from arena_server.store.schema import votes
from arena_server.store.store import Store
from tests.store.conftest import Home, rows
from tests.store.samples import NOON, battle


def votes_of_one_that_is_killed(url: str) -> list[str]:
    """The battles whose votes were acknowledged to it."""
    command = [sys.executable, "-m", "tests.store.voter", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as voter:
        assert voter.stdout is not None
        acknowledged = [voter.stdout.readline() for _ in range(20)]
        voter.kill()
        acknowledged += voter.stdout
    return [line.strip() for line in acknowledged if line.endswith("\n")]


async def test_votes_survive_sigkill(store: Store, home: Home) -> None:
    acknowledged = votes_of_one_that_is_killed(home.url)
    assert len(acknowledged) >= 20
    kept = {row["battle_id"] for row in rows(home.url, votes)}
    assert set(acknowledged) <= kept
    await store.vote(battle("after"), Vote.A, NOON)
    assert await store.votes() == len(kept) + 1
