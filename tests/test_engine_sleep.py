"""How vLLM is put to sleep and woken: what is asked, in which order, and what is said when it goes wrong."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from arena_server.engine.base import EngineError
from arena_server.engine.canary import PROMPT
from arena_server.engine.client import EngineClient
from arena_server.engine.sleeper import Sleeper
from tests.support.fake_engine import FakeEngine
from tests.support.gate import until
from tests.support.replies import Received, Reply, reply_to, whole

CANARY = "POST /v1/completions"
ASLEEP = ["POST /sleep?level=1", "GET /is_sleeping"]
AWAKE_1 = ["POST /wake_up", "GET /is_sleeping", CANARY]
AWAKE_2 = [
    "POST /wake_up?tags=weights",
    "POST /collective_rpc",
    "POST /wake_up?tags=kv_cache",
    "GET /is_sleeping",
    CANARY,
]


class Vllm:
    """vLLM's routes for sleeping, as a fake engine answers them, and a sleeper that asks them."""

    def __init__(self, engine: FakeEngine, socket: Path) -> None:
        self.engine = engine
        self.sleeper = Sleeper(EngineClient(socket), "fake", timeout_s=30)
        self.quick_sleeper = Sleeper(EngineClient(socket), "fake", timeout_s=0.05)
        self.instead: dict[str, Reply] = {}  # what is answered at these paths
        self._sleeping = False
        engine.reply = self.reply

    def reply(self, request: Received) -> Reply:
        path, _, query = request.path.partition("?")
        if path == "/sleep":
            self._sleeping = True
        elif path == "/wake_up":
            self._sleeping = query == "tags=weights"
        if request.path in self.instead:
            return self.instead[request.path]
        return whole({"is_sleeping": self._sleeping}) if path == "/is_sleeping" else reply_to(request)

    async def sleep_and_wake(self, level: int) -> None:
        await self.sleeper.sleep(level)
        await self.sleeper.wake()

    @property
    def asked(self) -> list[str]:
        """Everything that was asked since the last look."""
        asked = [f"{r.method} {r.path}" for r in self.engine.requests]
        self.engine.requests.clear()
        return asked


def error(status: str, message: str) -> Reply:
    return whole({"error": {"message": message, "code": int(status.split()[0])}}, status)


def completion(text: str) -> Reply:
    return whole({"choices": [{"index": 0, "text": text}]})


@pytest.fixture
async def vllm() -> AsyncIterator[Vllm]:
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        engine = FakeEngine("fake", Path(directory) / "1")
        await engine.load()
        yield Vllm(engine, Path(directory) / "1" / "http.sock")
        await engine.stop()
        assert engine.faults == []


async def test_level_1_is_two_requests_and_the_canary_is_first_asked_once(vllm: Vllm) -> None:
    await vllm.sleeper.sleep(1)
    assert vllm.asked == [CANARY, *ASLEEP]
    await vllm.sleeper.wake()
    assert vllm.asked == AWAKE_1
    await vllm.sleeper.sleep(1)
    assert vllm.asked == ASLEEP


async def test_level_2_reads_the_weights_again_before_the_cache_is_there(vllm: Vllm) -> None:
    await vllm.sleeper.sleep(2)
    assert vllm.asked == [CANARY, "POST /sleep?level=2", "GET /is_sleeping"]
    await vllm.sleeper.wake()
    assert [r.json() for r in vllm.engine.requests if r.path == "/collective_rpc"] == [{"method": "reload_weights"}]
    assert vllm.asked == AWAKE_2


async def test_waking_undoes_the_last_sleep_whatever_was_before(vllm: Vllm) -> None:
    for level, steps in ((2, AWAKE_2), (1, AWAKE_1), (2, AWAKE_2)):
        await vllm.sleeper.sleep(level)
        _ = vllm.asked
        await vllm.sleeper.wake()
        assert vllm.asked == steps


async def test_the_canary_is_greedy_and_short(vllm: Vllm) -> None:
    await vllm.sleeper.sleep(1)
    asked = vllm.engine.requests[0].json()
    assert asked["temperature"] == 0
    assert asked["model"] == "fake"
    # A block of the cache holds 16 tokens at least; no tokenizer makes more tokens than bytes, and a few at the ends.
    assert len(PROMPT.encode()) <= 12


@pytest.mark.parametrize("level", [1, 2])
async def test_an_engine_that_answers_otherwise_after_its_sleep_is_not_awake(vllm: Vllm, level: int) -> None:
    vllm.instead["/v1/completions"] = completion("four, five")
    await vllm.sleeper.sleep(level)
    vllm.instead["/v1/completions"] = completion("!!!!!!!!")
    expected = "waking: the canary's answer: it answers '!!!!!!!!' to what it answered 'four, five' before it slept"
    with pytest.raises(EngineError) as failed:
        await vllm.sleeper.wake()
    assert str(failed.value) == expected


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "501 Not Implemented"])
async def test_a_model_that_completes_no_text_sleeps_without_a_canary(vllm: Vllm, status: str) -> None:
    vllm.instead["/v1/completions"] = error(status, "no")
    await vllm.sleeper.sleep(1)
    await vllm.sleeper.wake()


SLEEP_1, SLEEP_2 = "/sleep?level=1", "/sleep?level=2"
WEIGHTS, CACHE = "/wake_up?tags=weights", "/wake_up?tags=kv_cache"


@pytest.mark.parametrize(
    ("level", "path", "what"),
    [
        (1, SLEEP_1, "falling asleep: /sleep?level=1"),
        (2, SLEEP_2, "falling asleep: /sleep?level=2"),
        (1, "/v1/completions", "falling asleep: the canary's first answer"),
        (1, "/is_sleeping", "falling asleep: /is_sleeping"),
        (1, "/wake_up", "waking: /wake_up"),
        (2, WEIGHTS, "waking: /wake_up?tags=weights"),
        (2, "/collective_rpc", "waking: /collective_rpc"),
        (2, CACHE, "waking: /wake_up?tags=kv_cache"),
    ],
)
async def test_the_step_that_fails_is_named(vllm: Vllm, level: int, path: str, what: str) -> None:
    vllm.instead[path] = error("500 Internal Server Error", "no\nway")
    with pytest.raises(EngineError) as failed:
        await vllm.sleep_and_wake(level)
    reason = str(failed.value)
    assert reason.startswith(f"{what}: the engine answered 500: ")
    assert "way" in reason
    assert "\n" not in reason
    assert not failed.value.out_of_memory


async def test_a_lack_of_memory_is_told_apart(vllm: Vllm) -> None:
    vllm.instead["/wake_up"] = error("500 Internal Server Error", "Worker failed with 'CUDA Error: out of memory'")
    await vllm.sleeper.sleep(1)
    with pytest.raises(EngineError) as failed:
        await vllm.sleeper.wake()
    assert failed.value.out_of_memory


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (whole({"is_sleeping": False}), "the engine says that it is not asleep"),
        (whole(["no"]), 'the engine answered 200: ["no"]'),
        (Reply([], length=0), "the engine answered 200: nothing"),
    ],
)
async def test_an_engine_that_only_says_it_slept_is_found_out(vllm: Vllm, said: Reply, text: str) -> None:
    vllm.instead["/is_sleeping"] = said
    with pytest.raises(EngineError) as failed:
        await vllm.sleeper.sleep(1)
    assert str(failed.value) == f"falling asleep: /is_sleeping: {text}"


async def test_an_engine_that_only_says_it_woke_is_found_out(vllm: Vllm) -> None:
    await vllm.sleeper.sleep(1)
    vllm.instead["/is_sleeping"] = whole({"is_sleeping": True})
    with pytest.raises(EngineError, match=r"^waking: /is_sleeping: the engine says that it is still asleep$"):
        await vllm.sleeper.wake()


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(vllm: Vllm) -> None:
    vllm.engine.chunks.hold()
    with pytest.raises(EngineError) as failed:
        await vllm.quick_sleeper.sleep(1)
    reason = "falling asleep: the canary's first answer: no answer within 0.05 s (pool.sleep_timeout_s)"
    assert str(failed.value) == reason
    await until(lambda: vllm.engine.requests[0].aborted, "the request to be given up")


async def test_an_engine_that_dies_meanwhile_is_told_of(vllm: Vllm) -> None:
    vllm.engine.chunks.hold()
    await vllm.engine.vanish()
    with pytest.raises(EngineError, match=r"^falling asleep: the canary's first answer: "):
        await vllm.sleeper.sleep(1)
