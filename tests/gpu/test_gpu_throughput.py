"""The throughput benchmark for GPUs, as far as that needs no GPU."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from bench.client import Answer, Load
from bench.gpu_setup import why_no_gpu
from bench.gpu_throughput import ARENA, SOCKET, VLLM, figures_of, report
from tests.bench.program import output_of, report_of
from tests.gpu.swap_figures import HOST


def load(tokens: int) -> Load:
    return Load(tokens, seconds=2.0, cpu_s=0.5, answers=[Answer(1.0, [1.5, 2.0, 2.5], 3), Answer(1.0, [1.25], 1)])


def figures(arena: list[int], socket: list[int], vllm: list[int], *, dry_run: bool = False) -> dict[str, Any]:
    loads = {ARENA: [load(n) for n in arena], SOCKET: [load(n) for n in socket], VLLM: [load(n) for n in vllm]}
    asked = {"dry_run": dry_run, "size": "8b", "streams": 64, "tokens": 3, "rounds": len(arena)}
    return {**asked, **figures_of(loads)}


def test_rounds_are_compared_one_by_one() -> None:
    found = figures([98, 300, 50], [100, 200, 100], [100, 300, 50])
    assert found["ratio_to_socket"].median == pytest.approx(0.98)
    assert found["ratio_to_vllm"].median == pytest.approx(1.0)
    assert found["tokens_per_s_by_round"][ARENA] == [49.0, 150.0, 25.0]
    assert found["first_token_ms"][ARENA] == {"p50": 250.0, "p99": 500.0}
    assert found["daemon_cpu_share_of_a_core"] == pytest.approx(0.25)


def test_both_of_the_others_count_and_a_dry_run_meets_nothing() -> None:
    assert report(HOST, figures([98], [100], [100])).met
    assert not report(HOST, figures([97], [100], [97])).met
    assert not report(HOST, figures([97], [97], [100])).met
    assert not report(HOST, figures([98], [100], [100], dry_run=True)).met


@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU: it would run for minutes")
async def test_without_a_gpu_it_says_why_and_ends_well() -> None:
    status, output, _ = await output_of("gpu_throughput", "--json")
    assert status == 0
    assert "no NVIDIA GPU" in output


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (scripts/setup)")
@pytest.mark.skipif(why_no_gpu() is None, reason="there is a GPU: it would run for minutes")
async def test_a_dry_run_ends_with_its_figures() -> None:
    few = ("--streams", "2", "--tokens", "16", "--rounds", "1", "--seconds", "1", "--size", "demo")
    found = await report_of("gpu_throughput", "--cpu", *few, limit_s=280)
    assert not found["met"]
    assert set(found["figures"]["tokens_per_s"]) == {ARENA, SOCKET, VLLM}
    assert found["figures"]["ratio_to_vllm"]["median"] > 0
