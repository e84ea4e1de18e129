"""What every `Engine` has to keep to, and how a test lays hands on one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import pytest

from arena_server.engine.base import Engine, EngineError
from arena_server.engine.client import EngineLost
from tests.support.gate import LIMIT_S, until


class Subject(Protocol):
    """An engine under test, with what only its kind can say and do."""

    @property
    def engine(self) -> Engine:
        """The engine."""
        ...

    @property
    def ways_to_die(self) -> Sequence[str]:
        """What `kill` knows."""
        ...

    def leftovers(self) -> list[str]:
        """Processes, sockets and directories of it that there are."""
        ...

    def break_loads(self) -> None:
        """Let the next loads fail."""
        ...

    def mend_loads(self) -> None:
        """Let the next loads succeed."""
        ...

    def hold_load(self) -> None:
        """Keep the next load from ending, if it can be; it is long enough otherwise."""
        ...

    async def kill(self, way: str) -> None:
        """Kill it behind its own back; return once that is done."""
        ...

    def hold_sleep(self) -> None:
        """Keep the next sleep and the next waking from ending, if they can be; a test cancels them early otherwise."""
        ...

    def stream_request(self) -> dict[str, object]:
        """The body of a request to /v1/completions whose answer goes on for seconds."""
        ...


@contextlib.asynccontextmanager
async def streaming(subject: Subject) -> AsyncIterator[AsyncIterator[bytes]]:
    """The rest of a long answer, whose first bytes are here."""
    body = json.dumps(subject.stream_request()).encode()
    async with subject.engine.client.post("/v1/completions", [(b"content-type", b"application/json")], body) as answer:
        assert answer.status == 200, await answer.read()
        chunks = answer.chunks()
        assert await asyncio.wait_for(anext(chunks), LIMIT_S)
        yield chunks


async def _joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def healthy(engine: Engine) -> bool:
    """Whether it answers."""
    async with engine.client.get("/health") as response:
        await response.read()
        return response.status == 200


async def answer_text(engine: Engine) -> str:
    """What it answers to a short question, chosen greedily."""
    asked = {"model": engine.name, "prompt": "In the morning the cat", "max_tokens": 8, "temperature": 0}
    headers = [(b"content-type", b"application/json")]
    async with engine.client.post("/v1/completions", headers, json.dumps(asked).encode()) as answer:
        body = await answer.read()
        assert answer.status == 200, body
        return str(json.loads(body)["choices"][0]["text"])


class EngineContract:
    """The suite; a subclass has a fixture `subject`."""

    async def test_a_loaded_engine_answers_and_a_stopped_one_is_gone(self, subject: Subject) -> None:
        assert subject.leftovers() == []
        await subject.engine.load()
        assert await healthy(subject.engine)
        assert subject.leftovers() != []
        await subject.engine.stop()
        assert subject.leftovers() == []

    async def test_it_can_be_loaded_again_after_a_stop(self, subject: Subject) -> None:
        for _ in range(2):
            await subject.engine.load()
            assert await healthy(subject.engine)
            await subject.engine.stop()
            await subject.engine.stop()
            assert subject.leftovers() == []

    async def test_a_stop_before_any_load_does_no_harm(self, subject: Subject) -> None:
        await subject.engine.stop()
        await subject.engine.load()
        assert await healthy(subject.engine)

    async def test_progress_is_shown_during_a_load_alone(self, subject: Subject) -> None:
        assert subject.engine.progress is None
        subject.hold_load()
        load = asyncio.create_task(subject.engine.load())
        await until(lambda: subject.engine.progress, "progress")
        progress = subject.engine.progress
        assert progress is not None
        assert progress.phase
        assert progress.fraction is None or 0 <= progress.fraction <= 1
        subject.mend_loads()
        await load
        assert subject.engine.progress is None
        await subject.engine.stop()
        assert subject.engine.progress is None

    async def test_its_client_is_there_while_it_is_loaded_alone(self, subject: Subject) -> None:
        with pytest.raises(RuntimeError):
            _ = subject.engine.client
        await subject.engine.load()
        assert subject.engine.client is subject.engine.client
        await subject.engine.stop()
        with pytest.raises(RuntimeError):
            _ = subject.engine.client

    async def test_a_load_that_fails_says_why_and_leaves_nothing_after_a_stop(self, subject: Subject) -> None:
        subject.break_loads()
        with pytest.raises(EngineError) as failed:
            await subject.engine.load()
        reason = str(failed.value)
        assert reason.strip()
        assert "\n" not in reason
        await subject.engine.stop()
        assert subject.engine.progress is None
        assert subject.leftovers() == []
        subject.mend_loads()
        await subject.engine.load()
        assert await healthy(subject.engine)

    @pytest.mark.parametrize("after_s", [0, 0.01, 0.5])
    async def test_a_load_that_is_cancelled_leaves_nothing_after_a_stop(self, subject: Subject, after_s: float) -> None:
        subject.hold_load()
        load = asyncio.create_task(subject.engine.load())
        await asyncio.wait([load], timeout=after_s)  # a moment in its middle, wherever that is
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await subject.engine.stop()
        assert subject.engine.progress is None
        assert subject.leftovers() == []
        subject.mend_loads()
        await subject.engine.load()
        assert await healthy(subject.engine)

    async def test_its_death_is_told_in_one_line_for_each_way_to_die(self, subject: Subject) -> None:
        for way in subject.ways_to_die:
            await subject.engine.load()
            died = asyncio.create_task(subject.engine.died())
            assert await healthy(subject.engine)
            assert not died.done()
            await subject.kill(way)
            reason = await asyncio.wait_for(died, LIMIT_S)
            assert reason.strip()
            assert "\n" not in reason
            assert await asyncio.wait_for(subject.engine.died(), LIMIT_S) == reason, "who asks late hears it too"
            await subject.engine.stop()
            assert subject.leftovers() == []

    async def test_who_reads_an_answer_when_it_dies_or_is_stopped_is_told(self, subject: Subject) -> None:
        """By a broken connection, or in the engine's own last words; never by a wait without end."""
        for way in (*subject.ways_to_die, "stop"):
            await subject.engine.load()
            async with streaming(subject) as rest:
                if way == "stop":
                    await subject.engine.stop()
                else:
                    await subject.kill(way)
                    await subject.engine.died()
                    await subject.engine.stop()
                with contextlib.suppress(EngineLost):
                    answer = await asyncio.wait_for(_joined(rest), LIMIT_S)
                    assert b'"error"' in answer[-1000:], "an answer in good order has to tell of it"
            assert subject.leftovers() == []

    async def test_a_request_that_is_given_up_is_aborted_and_the_next_is_served(self, subject: Subject) -> None:
        await subject.engine.load()
        for _ in range(3):
            async with streaming(subject):
                pass
        assert await healthy(subject.engine)

    async def test_the_log_is_kept_through_a_stop_and_has_an_end(self, subject: Subject) -> None:
        await subject.engine.load()
        assert 0 < len(subject.engine.log_tail) <= 200
        await subject.engine.stop()
        assert 0 < len(subject.engine.log_tail) <= 200
        assert all("\n" not in line for line in subject.engine.log_tail)


class LocalEngineContract(EngineContract):
    """For engines on this host, too: they have processes, and can sleep."""

    @pytest.mark.parametrize("level", [1, 2])
    async def test_it_answers_the_same_after_it_slept(self, subject: Subject, level: int) -> None:
        engine = subject.engine
        await engine.load()
        before = await answer_text(engine)
        assert before
        for _ in range(2):
            await engine.sleep(level)
            assert engine.progress is None
            await engine.wake()
            assert await healthy(engine)
            assert await answer_text(engine) == before

    async def test_it_is_loaded_again_after_it_slept_and_was_stopped(self, subject: Subject) -> None:
        await subject.engine.load()
        await subject.engine.sleep(1)
        assert subject.leftovers() != []
        await subject.engine.stop()
        assert subject.leftovers() == []
        await subject.engine.load()
        assert await healthy(subject.engine)
        await subject.engine.sleep(1)
        await subject.engine.wake()
        assert await healthy(subject.engine)

    async def test_its_death_is_told_while_it_sleeps(self, subject: Subject) -> None:
        for way in subject.ways_to_die:
            await subject.engine.load()
            died = asyncio.create_task(subject.engine.died())
            await subject.engine.sleep(1)
            assert not died.done()
            await subject.kill(way)
            reason = await asyncio.wait_for(died, LIMIT_S)
            assert reason.strip()
            assert "\n" not in reason
            await subject.engine.stop()
            assert subject.leftovers() == []

    @pytest.mark.parametrize("level", [1, 2])
    @pytest.mark.parametrize("step", ["sleep", "wake"])
    async def test_a_stop_leaves_nothing_of_one_that_was_cancelled_while_it_fell_asleep_or_woke(
        self, subject: Subject, step: str, level: int
    ) -> None:
        engine = subject.engine
        for after_s in (0, 0.001, 0.02):
            await engine.load()
            if step == "wake":
                await engine.sleep(level)
            subject.hold_sleep()
            changing = asyncio.create_task(engine.sleep(level) if step == "sleep" else engine.wake())
            await asyncio.wait([changing], timeout=after_s)  # a moment in its middle, wherever that is
            changing.cancel()
            await asyncio.wait([changing])
            await engine.stop()
            assert engine.pids == frozenset()
            assert subject.leftovers() == []
            subject.mend_loads()

    async def test_its_processes_are_known_while_it_has_any(self, subject: Subject) -> None:
        assert subject.engine.pids == frozenset()
        await subject.engine.load()
        awake = subject.engine.pids
        assert awake
        await subject.engine.sleep(1)
        assert subject.engine.pids == awake
        await subject.engine.stop()
        assert subject.engine.pids == frozenset()
