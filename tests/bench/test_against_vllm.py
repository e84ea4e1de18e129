"""The benchmark beside real vLLM: what it asks, how it judges, and one small run."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bench.against_vllm.__main__ import next_result, rounds
from bench.against_vllm.figures import report
from bench.against_vllm.servers import ARENA, SOCKET, VLLM, WAYS
from bench.against_vllm.tool import Result, Round, result_of, speaking_to
from bench.processes import BenchError
from bench.report import Report, machine
from tests.bench.program import report_of

ADDRESSES: dict[str, str | int] = {SOCKET: "/run/http.sock", ARENA: 8000, VLLM: 8001}
ABOUT = {"model": "tiny", "tokens": 64, "prompt_tokens": 64, "rounds": 3, "idle_cores": dict.fromkeys(WAYS, 0.01)}


def test_every_way_gets_the_same_requests_and_goes_first_as_often() -> None:
    planned = rounds(ADDRESSES, 6, [1, 16], 64)
    for each in planned:
        for clients in (1, 16):
            asked = [r for r in each if r.clients == clients]
            assert sorted(r.way for r in asked) == sorted(WAYS)
            assert all(r.address == ADDRESSES[r.way] for r in asked)
            # Without what says where, nothing is left that differs: not the seed, and so not one prompt.
            assert len({tuple(a for a in r.argv("m", "/m") if not a.startswith("--base-url")) for r in asked}) == 1
            assert asked[0].requests >= clients
    assert Counter(each[0].way for each in planned) == dict.fromkeys(WAYS, 2)
    assert Counter(a.way for each in planned for a, b in pairwise(each[:3]) if b.way == ARENA) == {SOCKET: 2, VLLM: 2}
    assert len({r.seed for each in planned for r in each}) == 6


def test_a_port_is_in_the_address_that_the_tool_asks() -> None:
    assert "--base-url=http://127.0.0.1:8001" in Round(VLLM, 8001, 1, 10, 64, 64, 0).argv("m", "/m")


async def test_the_tools_connections_go_to_the_socket_only_where_it_is_one() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.path)

    app = web.Application()
    app.router.add_get("/v1/models", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    with tempfile.TemporaryDirectory(prefix="arena-") as directory:
        socket = f"{directory}/http.sock"
        await web.UnixSite(runner, socket).start()
        try:
            with speaking_to(socket):
                # As the tool makes it.
                made = aiohttp.TCPConnector(
                    limit=1, limit_per_host=1, ttl_dns_cache=300, use_dns_cache=True, keepalive_timeout=60
                )
            async with (
                aiohttp.ClientSession(connector=made, trust_env=True) as session,
                session.get("http://127.0.0.1:80/v1/models") as response,
            ):
                assert await response.text() == "/v1/models"
        finally:
            await runner.cleanup()
    own = aiohttp.TCPConnector
    with speaking_to(8001):
        assert aiohttp.TCPConnector is own


def test_what_the_tool_found_is_taken_over_and_its_warm_up_counts_as_work() -> None:
    asked = Round(ARENA, 8000, 2, 3, 64, 64, 0)
    found = {
        "num_prompts": 3, "completed": 2, "total_output_tokens": 100, "output_lens": [60, 40, 0],
        "output_throughput": 50.0, "ttfts": [0.004, 0.006], "median_tpot_ms": 2.5,
    }  # fmt: skip
    result = result_of(asked, found, 0.5, 1.5)
    assert result == Result(ARENA, 2, 1, 100 + 2 * 60, 50.0, [4.0, 6.0], 2.5, 0.5, 1.5)


async def test_a_tool_that_ends_is_reported_with_what_it_said_and_so_is_a_failed_answer(tmp_path: Path) -> None:
    log = tmp_path / "tool.log"
    log.write_text("ValueError: no such option")
    lines = asyncio.StreamReader()
    lines.feed_data(
        b'{"way": "arena", "clients": 8, "failed": 2, "tokens": 5, "tokens_per_s": 1, "first_token_ms": [1],'
        b' "per_token_ms": 1, "daemon_cpu_s": 0, "busy_cores": 1}\n'
    )
    lines.feed_eof()
    with pytest.raises(BenchError, match="2 answers of arena failed at 8 clients"):
        await next_result(lines, log)
    with pytest.raises(BenchError, match="no such option"):
        await next_result(lines, log)


def results(added_ms: Sequence[float], ratios: Sequence[float]) -> list[Result]:
    """Of as many rounds, each slower than the last; vLLM's own server is always the slowest."""
    found = []
    for number, (added, ratio) in enumerate(zip(added_ms, ratios, strict=True), 1):
        for clients, more_ms, share in ((1, added, 0.5), (16, 50.0, ratio)):
            for way, first_ms, rate in (
                (SOCKET, 10.0, 1000.0), (ARENA, 10.0 + more_ms, 1000.0 * share), (VLLM, 90.0, 100.0),
            ):  # fmt: skip
                times = [number * 100 + first_ms] * 3
                found.append(Result(way, clients, 0, 1000, rate / number, times, 2.0, 0.05, 1.5))
    return found


def judged(added_ms: Sequence[float], ratios: Sequence[float]) -> Report:
    """The report of those."""
    return report(machine(), ABOUT, results(added_ms, ratios))


def test_it_is_judged_by_medians_of_rounds_at_the_fewest_and_at_the_most_clients() -> None:
    good = judged([0.9, 1.0, 40.0], [0.98, 0.99, 0.1])
    assert good.met
    assert good.figures["added_first_token_ms"] == pytest.approx(1.0)
    assert good.figures["tokens_per_s_ratio"] == pytest.approx(0.98)
    assert not judged([0.9, 1.1, 1.1], [0.98, 0.99, 0.99]).met
    assert not judged([0.9, 0.9, 0.9], [0.97, 0.97, 0.99]).met


def test_the_lines_name_every_way_and_compare_each_with_each() -> None:
    found = judged([0.5, 0.6, 0.7], [0.99, 1.0, 1.01])
    assert any("then one each 2.00 ms" in line for line in found.lines)
    of = found.figures["clients"]["1"]
    assert of["answers"] == 9
    assert set(of["compared"]) == {"arena_to_socket", "arena_to_vllm", "vllm_to_socket"}
    assert of["compared"]["arena_to_vllm"]["added_first_token_ms"].median == pytest.approx(0.6 - 80)
    assert of["ways"][ARENA]["first_token_ms_by_round"] == pytest.approx([110.5, 210.6, 310.7])
    assert of["daemon_cpu_ms_per_1000_tokens"] == pytest.approx(50)


@pytest.mark.vllm
@pytest.mark.timeout(420)  # two servers and the tool each import vLLM, which a busy machine takes minutes for
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (scripts/setup)")
async def test_a_small_run_ends_with_its_figures() -> None:
    found = await report_of("against_vllm", "--rounds", "1", "--clients", "2", "--tokens", "8", limit_s=360)
    figures = found["figures"]
    assert set(figures["idle_cores"]) == {ARENA, VLLM}
    of = figures["clients"]["2"]
    for way in WAYS:
        assert of["ways"][way]["tokens_per_s_by_round"][0] > 0
        assert of["ways"][way]["first_token_ms"]["median"] > 0
