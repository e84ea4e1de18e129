"""From asking for a pair that is not there to the first text of both: with nothing else up, and with others in use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass

from bench.evening.asking import Answered, Refused, chat, chat_fields
from bench.evening.contenders import Contender
from bench.evening.trace import Battle
from bench.processes import BenchError

# Of those who use the other two models: two streams of each, so that hardly a moment comes with none running.
STREAMS = 2
STREAM_TOKENS = 160
PROMPT = "Two keepers share a lighthouse. What does each of them say about the sea?"
PAIR_TOKENS = 16


@dataclass(frozen=True, slots=True)
class InUse:
    """A pair's answer, and the longest that one of those who used the others waited for the next text to begin."""

    pair: Answered
    others_wait_s: float


async def load_s(side: Contender, model: str) -> float:
    """Seconds from asking for one cold model to its first text."""
    await side.stop_all()
    return (await _asked(chat(side.client, model, chat_fields(_pair((model, model)))))).wait_s


async def cold(side: Contender, models: tuple[str, str]) -> Answered:
    """Ask for two models where no engine is up."""
    await side.stop_all()
    return await _asked(side.battle(_pair(models)))


async def in_use(side: Contender, used: Sequence[str], models: tuple[str, str]) -> InUse:
    """Ask for two models where two others are in use, and there is room for one more."""
    await side.stop_all()
    waits: list[float] = []
    async with _users(side, used, waits):
        waits.clear()
        answered = await _asked(side.battle(_pair(models)))
    return InUse(answered, max(waits, default=0.0))


@contextlib.asynccontextmanager
async def _users(side: Contender, models: Sequence[str], waits: list[float]) -> AsyncIterator[None]:
    """People who ask again as soon as they have an answer; their waits for its first text go to `waits`.

    Entered when each of them has had an answer, and asked again; at the end each has its last one whole. Nobody leaves
    before: what a daemon does about that is not compared here. Raises BenchError.
    """
    ended = asyncio.Event()

    async def user(model: str, turn: int, answered: asyncio.Event) -> None:
        # The first answer is shorter for every other one, so that they do not all end at one moment ever after.
        fields = chat_fields(Battle(0, 0.0, (model, model), PROMPT, STREAM_TOKENS // (turn + 1)))
        while not ended.is_set():
            waits.append((await _asked(chat(side.client, model, fields))).wait_s)
            answered.set()
            fields = chat_fields(Battle(0, 0.0, (model, model), PROMPT, STREAM_TOKENS))

    try:
        async with asyncio.TaskGroup() as group:
            events = []
            for model in models:
                for turn in range(STREAMS):
                    events.append(asyncio.Event())
                    group.create_task(user(model, turn, events[-1]))
            for event in events:
                await event.wait()
            try:
                yield
            finally:
                ended.set()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _pair(models: tuple[str, str]) -> Battle:
    return Battle(0, 0.0, models, "Tell me about the sea.", PAIR_TOKENS)


async def _asked(answer: Awaitable[Answered]) -> Answered:
    try:
        return await answer
    except Refused as e:
        raise BenchError(f"a request that nothing stood against was not answered: {e}") from e
