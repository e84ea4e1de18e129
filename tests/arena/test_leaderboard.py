"""The leaderboard: one process at a time, its answer kept, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from arena_server.arena.leaderboard import COMMAND, Leaderboard, LeaderboardFailed
from arena_server.errors import ShuttingDown
from arena_server.store.records import Vote, VoteCount

REST_S = 2.0
AT_ONCE_S = 10.0  # what needs no process: a test that fails must not hang
RANKING = {"votes": 1, "models": [], "pairs": []}


class HeldClock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at


class Votes:
    """A source of votes; `a` has won all of them."""

    def __init__(self, count: int) -> None:
        self.count = count

    async def votes(self) -> int:
        return self.count

    async def tallies(self) -> Sequence[VoteCount]:
        return [VoteCount("a", "b", Vote.A, 0.5, self.count)] if self.count else []


class Child:
    """A process in the ranking's place. It notes that it began, and answers when the test says so."""

    def __init__(self, directory: Path) -> None:
        self._begun = directory / "begun"
        self._begun.touch()
        self._gate = directory / "gate"
        os.mkfifo(self._gate)
        self._program = directory / "child.py"
        self._program.write_text(
            "import os, sys\n"
            f"open({str(self._begun)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
            "sys.stdin.read()\n"
            f"sys.stdout.write(open({str(self._gate)!r}).read())\n"
        )
        self.command = (sys.executable, str(self._program))

    def pids(self) -> list[int]:
        """Of those that have begun so far."""
        return [int(line) for line in self._begun.read_text().splitlines()]

    async def begun(self, count: int) -> int:
        """Wait until so many have; returns the last one's pid."""
        async with asyncio.timeout(30):
            while len(self.pids()) < count:  # noqa: ASYNC110 (another process tells)
                await asyncio.sleep(0.01)
        return self.pids()[-1]

    async def answer(self, **more: Any) -> None:
        """Let the one that waits end."""
        await asyncio.to_thread(self._gate.write_text, json.dumps({**RANKING, **more}))


@pytest.fixture
def child(tmp_path: Path) -> Child:
    return Child(tmp_path)


@asynccontextmanager
async def board(votes: Votes, clock: HeldClock, *names: str, **more: Any) -> AsyncIterator[Leaderboard]:
    found = Leaderboard(votes, clock, lambda: names, rest_s=REST_S, **more)
    try:
        yield found
    finally:
        await found.close()


async def test_it_is_what_the_interface_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scipy.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    async with board(Votes(30), HeldClock(), "b", "new") as leaderboard:
        found = await leaderboard.get()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"updated_at", "votes", "scale", "models", "pairs"}
    assert datetime.fromisoformat(found["updated_at"]).tzinfo == UTC
    assert found["votes"] == 30
    assert found["scale"].startswith("Elo-like")
    assert [model["model"] for model in found["models"]] == ["a", "b", "new"]
    first, _, last = found["models"]
    assert first["lower"] < first["rating"] < first["upper"]
    assert {k: v for k, v in first.items() if k not in ("rating", "lower", "upper", "votes_needed")} == {
        **{"model": "a", "rank": 1, "votes": 30, "wins": 30},
        **{"losses": 0, "ties": 0, "both_bad": 0},
    }
    assert (last["rank"], last["rating"], last["votes"], last["votes_needed"]) == (None, None, 0, None)
    assert found["pairs"] == [{"a": "a", "b": "b", "a_wins": 30, "b_wins": 0, "ties": 0, "both_bad": 0}]


async def test_without_votes_the_models_are_listed() -> None:
    async with board(Votes(0), HeldClock(), "a", "b") as leaderboard:
        found = await leaderboard.get()
    assert (found["votes"], found["pairs"]) == (0, [])
    assert [(model["model"], model["rating"]) for model in found["models"]] == [("a", None), ("b", None)]


async def test_it_is_kept_until_the_votes_change(child: Child) -> None:
    votes, clock = Votes(1), HeldClock()
    async with board(votes, clock, command=child.command) as leaderboard:
        asked = asyncio.create_task(leaderboard.get())
        await child.begun(1)
        await child.answer()
        first = await asked
        clock.at += 100 * REST_S
        assert await asyncio.wait_for(leaderboard.get(), AT_ONCE_S) is first
        votes.count = 2
        asked = asyncio.create_task(leaderboard.get())
        await child.begun(2)
        await child.answer(votes=2)
        assert (await asked)["votes"] == 2
        assert len(child.pids()) == 2


async def test_new_votes_wait_for_the_rest_to_be_over(child: Child) -> None:
    votes, clock = Votes(1), HeldClock()
    async with board(votes, clock, command=child.command) as leaderboard:
        asked = asyncio.create_task(leaderboard.get())
        await child.begun(1)
        await child.answer()
        first = await asked
        votes.count = 2
        clock.at += REST_S - 0.1
        assert await asyncio.wait_for(leaderboard.get(), AT_ONCE_S) is first
        clock.at += 0.2
        asked = asyncio.create_task(leaderboard.get())
        await child.begun(2)
        await child.answer(votes=2)
        assert (await asked)["votes"] == 2


async def test_all_who_ask_share_one_ranking_and_one_who_leaves_does_not_end_it(child: Child) -> None:
    async with board(Votes(1), HeldClock(), command=child.command) as leaderboard:
        askers = [asyncio.create_task(leaderboard.get()) for _ in range(5)]
        await child.begun(1)
        askers.append(asyncio.create_task(leaderboard.get()))
        leaver = askers.pop(0)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        await child.answer()
        found = await asyncio.gather(*askers)
        assert all(one is found[0] for one in found)
        assert len(child.pids()) == 1


async def test_the_close_ends_the_process_and_tells_who_waits(child: Child) -> None:
    async with board(Votes(1), HeldClock(), command=child.command) as leaderboard:
        asked = asyncio.create_task(leaderboard.get())
        pid = await child.begun(1)
        assert psutil.pid_exists(pid)
        await leaderboard.close()
        assert not psutil.pid_exists(pid)
        with pytest.raises(ShuttingDown):
            await asked
        with pytest.raises(ShuttingDown):
            await leaderboard.get()
    assert len(child.pids()) == 1


async def test_one_that_takes_too_long_is_ended(child: Child, caplog: pytest.LogCaptureFixture) -> None:
    async with board(Votes(1), HeldClock(), command=child.command, limit_s=0.5) as leaderboard:
        with pytest.raises(LeaderboardFailed, match=r"longer than 0\.5 s"):
            await leaderboard.get()
    assert not any(psutil.pid_exists(pid) for pid in child.pids())
    assert "longer than 0.5 s" in caplog.text


@pytest.mark.parametrize(
    ("program", "logged"),
    [
        ("import sys; sys.exit('no such thing')", "status 1: no such thing"),
        ("print('a warning'); print('{}')", "cannot rank"),
        ("print('{}')", "not a ranking"),
    ],
)
async def test_a_failure_is_told_and_does_not_stay(
    program: str, logged: str, child: Child, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    faulty = tmp_path / "faulty.py"
    faulty.write_text(program)
    async with board(Votes(1), HeldClock(), command=(sys.executable, str(faulty))) as leaderboard:
        with caplog.at_level(logging.WARNING), pytest.raises(LeaderboardFailed, match="the server's log"):
            await leaderboard.get()
        assert logged in caplog.text
        faulty.write_text(f"print({json.dumps(json.dumps(RANKING))})")
        assert (await leaderboard.get())["votes"] == 1


async def test_a_program_that_is_not_there_is_a_failure_too() -> None:
    async with board(Votes(1), HeldClock(), command=("/no/such/program",)) as leaderboard:
        with pytest.raises(LeaderboardFailed):
            await leaderboard.get()


async def test_the_daemon_needs_neither_numpy_nor_scipy() -> None:
    program = "import sys, arena_server.arena.leaderboard as _; print({'numpy', 'scipy'} & set(sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert output.strip() == b"set()"
    assert COMMAND[0] == sys.executable
