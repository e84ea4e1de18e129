"""A sudden end loses what was used in the last second, no more, though the answer had not ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from arena_server.store.store import Store
from arena_server.store.url import sqlite_url
from arena_server.store.usage_record import By, Span
from arena_server.usage.ledger import Ledger
from arena_server.usage.meter import FLUSH_EVERY_S

# What a busy machine may take for a flush, and to let a process run again.
SLACK_S = 2.0


def said_by_one_that_is_killed(url: str) -> list[tuple[str, float, int]]:
    """What happened (counted, kept), when, and how many tokens it were in all."""
    with subprocess.Popen([sys.executable, "-m", "tests.usage.spender", url], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        said: list[str] = []
        while sum(line.startswith("kept") for line in said) < 2:
            said.append(it.stdout.readline())
            assert said[-1], "it ended by itself"
        said += [it.stdout.readline() for _ in range(20)]  # in the middle of the next second
        it.kill()
        said += it.stdout
    return [(what, float(at), int(tokens)) for what, at, tokens in (s.split() for s in said if s.endswith("\n"))]


async def test_what_sigkill_loses(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "arena.sqlite")
    said = said_by_one_that_is_killed(url)
    store = Store(url)
    (row,) = await Ledger(store).sums(By.KEY, Span())
    await store.close()
    assert row.used.requests == 1
    assert row.used.completion_tokens >= max(tokens for what, _, tokens in said if what == "kept")
    counted = [(at, tokens) for what, at, tokens in said if what == "counted"]
    end = counted[-1][0]
    first_lost = min((at for at, tokens in counted if tokens > row.used.completion_tokens), default=end)
    assert end - first_lost < FLUSH_EVERY_S + SLACK_S
