"""Answers through nginx: each token as it comes, silence while a model loads, and the end when a client goes."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path

import pytest

from tests.nginx.site import Certificates, Proxy, nginx
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.gate import until
from tests.support.replies import DONE

CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "one two three four five"}], "max_tokens": 5}
STREAM = {**CHAT, "stream": True}
SPEED = 100  # of nginx's clock, where a test has it run faster
LOAD_S = 300


async def test_each_token_is_here_before_the_engine_may_send_the_next(daemon: FakeDaemon, proxy: Proxy) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with proxy.connected() as client:
        client.post("/v1/chat/completions", STREAM, [("Accept-Encoding", "gzip")])
        await until(lambda: alpha.inference, "the request to reach the engine")
        alpha.chunks.release(1)
        status, headers = await client.head()
        assert (status, dict(headers)["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert "content-encoding" not in dict(headers)
        seen = [await client.chunk()]
        # With the last one comes the count of tokens, which the client did not ask for.
        for word, chunks in (("two", 1), ("three", 1), ("four", 1), ("five", 2)):
            assert alpha.inference[0].sent == len(seen)
            alpha.chunks.release(chunks)
            seen.append(await client.chunk())
            assert word.encode() in seen[-1]
        alpha.chunks.release()
        assert await client.chunk() == DONE
        assert await client.chunk() == b""
    assert b"one" in seen[0]


async def test_the_gaps_between_tokens_are_kept(daemon: FakeDaemon, proxy: Proxy) -> None:
    """By the clock: the client gets them at the pace at which the engine sends them."""
    alpha = daemon.engines["alpha"]
    gap_s = 0.05
    loop = asyncio.get_running_loop()
    alpha.chunks.hold()

    async def pace() -> None:
        for _ in range(7):  # one is the count of tokens, which the client did not ask for
            alpha.chunks.release(1)
            await asyncio.sleep(gap_s)

    async with proxy.connected() as client:
        client.post("/v1/chat/completions", STREAM)
        await until(lambda: alpha.inference, "the request to reach the engine")
        pacing = asyncio.create_task(pace())
        await client.head()
        came = []
        while await client.chunk():
            came.append(loop.time())
        await pacing
    gaps = [after - before for before, after in itertools.pairwise(came)]
    assert len(gaps) == 5
    # One that came late may have the next on its heels: most of them, not each.
    assert sorted(gaps)[len(gaps) // 2] > gap_s / 2, gaps


async def test_a_waiting_client_is_told_of_it(tmp_path: Path, certificates: Certificates) -> None:
    """SSE comments come through while nothing else does."""
    async with running_daemon(pool={"wait_notice_s": 0.01}) as daemon:
        daemon.engines["alpha"].load_gate.hold()
        with nginx(tmp_path, daemon.port, certificates) as proxy:
            async with proxy.connected() as client:
                client.post("/v1/chat/completions", STREAM)
                status, _ = await client.head()
                assert status == 200
                assert re.fullmatch(rb": .*\n\n", await client.chunk())
                daemon.open_gates()
                assert (await client.chunk()).startswith(b"data: ")


async def test_a_client_that_leaves_frees_its_engine(daemon: FakeDaemon, proxy: Proxy) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with proxy.connected() as client:
        client.post("/v1/chat/completions", STREAM)
        await until(lambda: alpha.inference, "the request to reach the engine")
        alpha.chunks.release(2)
        await client.chunk_after_head()
        client.leave()
        await until(lambda: alpha.inference[0].aborted, "the engine to see that the client has gone")
    await daemon.idle("alpha")


async def test_a_client_that_leaves_without_a_byte_of_its_answer_frees_its_engine(
    daemon: FakeDaemon, proxy: Proxy
) -> None:
    alpha = daemon.engines["alpha"]
    alpha.chunks.hold()
    async with proxy.connected() as client:
        client.post("/v1/chat/completions", CHAT)
        await until(lambda: alpha.inference, "the request to reach the engine")
        client.leave()
        await until(lambda: alpha.inference[0].aborted, "the engine to see that the client has gone")
    await daemon.idle("alpha")


async def test_a_silent_load_of_five_minutes_ends_well(
    daemon: FakeDaemon, tmp_path: Path, certificates: Certificates, fast_clock: dict[str, str]
) -> None:
    """nginx's clock runs fast (libfaketime); its own log says how long it has waited."""
    alpha = daemon.engines["alpha"]
    alpha.load_gate.hold()
    with nginx(tmp_path, daemon.port, certificates, environment=fast_clock) as proxy:
        async with proxy.connected() as client:
            client.post("/v1/chat/completions", CHAT)
            await until(lambda: alpha.progress, "the load to begin")
            await asyncio.sleep((LOAD_S + 6) / SPEED)
            alpha.load_gate.release()
            answer = await client.answer()
            assert answer.status == 200, answer.body
            assert answer.json()["choices"][0]["message"]["content"] == "one two three four five "
        await until(lambda: "POST" in proxy.access_log, "nginx to log the request")
        assert total_s(proxy) > LOAD_S


async def test_with_nginxs_own_time_limit_the_same_load_ends_in_504(
    daemon: FakeDaemon, tmp_path: Path, certificates: Certificates, fast_clock: dict[str, str]
) -> None:
    """The control: what the test above says of the site, it could not say of any site."""
    alpha = daemon.engines["alpha"]
    alpha.load_gate.hold()
    default = {"proxy_read_timeout 3600s;": ""}
    with nginx(tmp_path, daemon.port, certificates, replaced=default, environment=fast_clock) as proxy:
        answer = await proxy.post("/v1/chat/completions", CHAT)
        assert answer.status == 504
        assert answer.error()["code"] == "timeout"
        await until(lambda: "POST" in proxy.access_log, "nginx to log the request")
        assert 60 <= total_s(proxy) < LOAD_S


def total_s(proxy: Proxy) -> float:
    """How long the last request that asked for an answer took, by nginx's clock."""
    line = [line for line in proxy.access_log.splitlines() if '"POST' in line][-1]
    found = re.search(r"total=([0-9.]+)", line)
    assert found, line
    return float(found[1])


@pytest.fixture
def fast_clock() -> dict[str, str]:
    """The environment in which all of a program's clocks run `SPEED` times as fast."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed (Debian: apt-get install faketime)")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"+0 x{SPEED}"}
