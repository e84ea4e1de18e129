"""bench.peers: what is told to each front door, the verdict, and a run with nginx.

LiteLLM and FastChat themselves are never installed here.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import yaml

from bench.client import Answer, Connection, Counter, Load, Target
from bench.peers import fastchat, litellm, nginx, venv
from bench.peers.__main__ import peers_of
from bench.peers.door import program, until_answers
from bench.peers.judge import judge
from bench.peers.lines import stream_lines
from bench.peers.measure import FirstTokens, Streams
from bench.peers.ports import free_ports
from bench.processes import BenchError
from bench.stand_in import MODEL, answer
from tests.bench.program import ROOT, report_of
from tests.support.processes import lives

WITH_NGINX = pytest.mark.skipif(nginx.binary() is None, reason="nginx is not installed")


def test_without_names_only_nginx_stands_beside_arena_server() -> None:
    assert peers_of(None, has_nginx=True) == ["nginx"]
    assert peers_of("fastchat, litellm", has_nginx=False) == ["litellm", "fastchat"]


@pytest.mark.parametrize(("named", "why"), [("litelm", "litelm"), ("", "some of"), ("nginx", "not installed")])
def test_peers_that_cannot_be_are_refused(named: str, why: str) -> None:
    with pytest.raises(BenchError, match=why):
        peers_of(named, has_nginx=False)


def test_without_nginx_and_names_it_says_what_to_name() -> None:
    with pytest.raises(BenchError, match="--peers litellm,fastchat"):
        peers_of(None, has_nginx=False)


@pytest.mark.parametrize(
    ("added_ms", "met"),
    [
        ({"arena-server": 0.5, "nginx": 0.25}, True),
        ({"arena-server": 0.51, "nginx": 0.25}, False),
        ({"arena-server": 0.5, "nginx": 0.25, "litellm": 1.5, "fastchat": 9.0}, True),
        ({"arena-server": 0.5, "nginx": 0.25, "litellm": 1.4, "fastchat": 9.0}, False),
        ({"arena-server": 0.5, "nginx": 0.2, "litellm": 20.0}, False),
        ({"arena-server": 0.5, "litellm": 20.0}, True),
        ({"arena-server": 0.0, "nginx": 0.1, "litellm": 0.1}, True),
    ],
)
def test_the_goal_is_three_times_ahead_of_python_and_twice_nginx(added_ms: Mapping[str, float], met: bool) -> None:
    verdict = judge(added_ms)
    assert verdict.met is met
    assert set(verdict.ratios) == set(added_ms) - {"arena-server"}


def test_every_ratio_is_told_and_so_is_what_was_not_measured() -> None:
    verdict = judge({"arena-server": 0.5, "nginx": 0.4, "litellm": 2.0})
    assert verdict.ratios == {"litellm": 4.0, "nginx": 1.25}
    assert [line.partition(" times")[0][-4:] for line in verdict.lines] == ["4.00", "1.25"]
    assert "litellm" in verdict.goal
    alone = judge({"arena-server": 0.5, "nginx": 0.4})
    assert "No Python front door was measured" in alone.lines[-1]
    assert "times smaller" not in alone.goal


def test_what_is_added_is_the_difference_to_the_direct_way() -> None:
    times = FirstTokens({"direct": [[1.0, 1.0], [3.0, 3.0]], "nginx": [[2.0, 2.0], [3.5, 3.5]]})
    figures = times.figures()
    assert figures["requests"] == 4
    assert figures["added_ms"]["nginx"] == {"median": 0.75, "p95": 0.5}
    by_block = figures["added_ms_by_block"]["nginx"]
    assert (by_block.low, by_block.high) == (0.5, 1.0)


def test_streams_are_compared_block_by_block() -> None:
    direct = [Load(tokens=100, seconds=1.0), Load(tokens=200, seconds=1.0)]
    through = [Load(tokens=100, seconds=2.0, cpu_s=0.01), Load(tokens=200, seconds=1.0, cpu_s=0.02)]
    loads = Streams({"direct": direct, "nginx": through})
    assert loads.ratios("nginx") == [0.5, 1.0]
    assert loads.cpu_ms_per_1000_chunks("nginx") == pytest.approx(100.0)


def test_nginx_has_one_static_route_and_all_its_files_in_its_directory(tmp_path: Path) -> None:
    text = nginx.config(tmp_path, "/x/engine.sock", 4321, as_root=False)
    for line in (
        "worker_processes 1;",
        "server unix:/x/engine.sock;",
        "listen 127.0.0.1:4321 backlog=2048;",
        "proxy_buffering off;",
        "access_log off;",
        'proxy_set_header Connection "";',
    ):
        assert line in text
    assert "user " not in text
    assert "user root;" in nginx.config(tmp_path, "/x/engine.sock", 4321, as_root=True)


def test_litellm_gets_one_model_at_the_engines_port() -> None:
    settings = yaml.safe_load(litellm.config(4321))
    [model] = settings["model_list"]
    assert model["model_name"] == MODEL
    assert model["litellm_params"]["api_base"] == "http://127.0.0.1:4321/v1"
    assert settings["litellm_settings"]["json_logs"] is False
    assert settings["litellm_settings"]["set_verbose"] is False


@pytest.mark.parametrize(
    ("mark", "chunks"),
    [
        # As LiteLLM 1.106.2 sent them for an answer of two tokens.
        (
            litellm.TOKEN_MARK,
            [
                '{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}',
                '{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" was"}}]}',
                '{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" end"}}]}',
                '{"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}',
                "[DONE]",
            ],
        ),
        # As FastChat 0.2.36 did.
        (
            fastchat.TOKEN_MARK,
            [
                '{"id": "chatcmpl-2", "choices": [{"index": 0, "delta": {"role": "assistant"}, '
                '"finish_reason": null}]}',
                '{"id": "chatcmpl-2", "choices": [{"index": 0, "delta": {"content": " was"}, "finish_reason": null}]}',
                '{"id": "chatcmpl-2", "choices": [{"index": 0, "delta": {"content": " end"}, "finish_reason": null}]}',
                '{"id": "chatcmpl-2", "object": "chat.completion.chunk", '
                '"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}',
                "[DONE]",
            ],
        ),
    ],
    ids=["litellm", "fastchat"],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_marks_count_each_token_once(mark: bytes, chunks: list[str], size: int) -> None:
    counter = Counter()
    connection = Connection(counter, mark)
    text = "".join(f"data: {chunk}\n\n" for chunk in chunks).encode()
    for start in range(0, len(text), size):
        connection.on_body(text[start : start + size])
    assert counter.tokens == 2


def test_all_words_of_the_stand_in_begin_as_the_marks_take_for_granted() -> None:
    steps, end = answer(30, False)
    assert b"".join([*steps, *end]).count(litellm.TOKEN_MARK) == 30


async def test_a_ready_environment_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = venv.directory("x")
    assert home == tmp_path / "arena-server" / "bench-peers" / "x"
    home.mkdir(parents=True)
    assert not venv.is_ready(home, ["a==1"])
    (home / "requirements.txt").write_text("a==1\n")
    assert await venv.ensure("x", ["a==1"]) == home
    assert not (home / "bin").exists()
    assert not venv.is_ready(home, ["a==2"])


async def test_an_environment_is_made_with_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    package = tmp_path / "nothing"
    package.mkdir()
    (package / "pyproject.toml").write_text("no toml")
    with pytest.raises(BenchError, match="uv pip ended with status"):
        await venv.ensure("x", [str(package)])
    home = venv.directory("x")
    assert (home / "bin" / f"python3.{sys.version_info.minor}").exists()
    assert not venv.is_ready(home, [str(package)])


async def test_a_program_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    [port] = free_ports(1)
    async with program(tmp_path, "shell", "/bin/sh", "-c", "pwd; echo $WORD", env={"WORD": "farewell"}) as shell:
        with pytest.raises(BenchError, match="farewell") as told:
            await until_answers(Target("shell", port), shell)
    assert str(tmp_path) in str(told.value)


def test_an_overloaded_front_door_that_came_to_no_request_is_told_so() -> None:
    asked = Load(tokens=100, seconds=1.0, answers=[Answer(0.0, [0.001], 1)])
    none = Load(tokens=50, seconds=1.0)
    figures = Streams({"direct": [asked], "nginx": [none]}).figures()
    assert figures["added_ms"] == {"nginx": None}
    assert "first token of no request" in "\n".join(stream_lines({"streams": 1, "asked_tokens_per_s": 100, **figures}))
    with pytest.raises(BenchError, match="nothing came through nginx"):
        Streams({"direct": [asked], "nginx": [Load()]}).cpu_ms_per_1000_chunks("nginx")


@WITH_NGINX
async def test_an_interrupted_run_leaves_no_process() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.peers", "--requests", "100000"),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        while b"1 client" not in (line := await process.stderr.readline()):  # all are up when this is announced
            assert line, "ended by itself"
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert len(started) == 4  # the engine, the daemon, nginx and its worker
    assert not any(lives(child) for child in started)


@WITH_NGINX
async def test_a_run_with_nginx_ends_with_its_figures_as_json() -> None:
    report = await report_of("peers", "--requests", "3", "--streams", "2", "--seconds", "0.5", "--tokens", "5")
    assert report["bench"] == "peers"
    figures = report["figures"]
    assert figures["one_client"]["requests"] == figures["back_to_back"]["requests"] == 3
    for part in ("one_client", "back_to_back", "streams"):
        assert set(figures[part]["added_ms"]) == {"arena-server", "nginx"}
    assert set(figures["streams"]["tokens_per_s"]) == {"direct", "arena-server", "nginx"}
    # In ticks of 10 ms, of which so short a run may see none.
    assert all(ms >= 0 for ms in figures["streams"]["cpu_ms_per_1000_chunks"].values())
    assert set(figures["ratios"]) == {"nginx"}
    added = {name: ms["median"] for name, ms in figures["one_client"]["added_ms"].items()}
    assert report["met"] is (added["arena-server"] <= 2 * added["nginx"])
    assert "No Python front door was measured" in "\n".join(report["lines"])
    assert "nginx/" in figures["about"]["nginx"]
