"""The suite keeps what benchmarks print, and says which of them failed or were skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import suite
from bench.catalogue import CATALOGUE, Benchmark, Need, chosen
from bench.result import keep, parse
from bench.suite import Outcome, outcome_of, run_one, split, why_skipped
from tests.bench.program import output_of

BENCHMARK = Benchmark("overhead", "what it measures")
REPORT = {
    "bench": "overhead", "figures": {"ms": 1.0}, "goal": "at most 2 ms", "met": False, "lines": ["1 ms"],
    "machine": {"cores": 2}, "versions": {"python": "3.11"},
}  # fmt: skip


def an_outcome(status: int, output: str) -> Outcome:
    return outcome_of(BENCHMARK, "python -m bench.overhead", "abc", datetime.now(UTC), 3.0, status, output)


def a_package(directory: Path, programs: Mapping[str, str]) -> None:
    """Benchmarks of these names, in their sources."""
    (directory / "bench").mkdir()
    for name, source in {"__init__": "", **programs}.items():
        (directory / "bench" / f"{name}.py").write_text(source)


def test_a_goal_that_is_not_met_is_a_result() -> None:
    outcome = an_outcome(0, f"some lines\n{json.dumps(REPORT)}\n")
    assert outcome.failed is None
    assert outcome.result is not None
    assert outcome.result.figures == {"ms": 1.0}
    assert "NOT MET" in outcome.row()
    assert "at most 2 ms" in outcome.row()


@pytest.mark.parametrize(
    ("status", "output"),
    [(1, "no GPU today\n"), (0, "no JSON\n"), (0, ""), (1, json.dumps(REPORT)), (0, '{"bench": "overhead"}'), (0, "7")],
)
def test_what_does_not_end_with_a_report_has_failed(status: int, output: str) -> None:
    outcome = an_outcome(status, output)
    assert outcome.result is None
    assert outcome.failed
    assert "FAILED" in outcome.row()


def test_what_a_benchmark_skips_itself_is_no_failure() -> None:
    outcome = an_outcome(0, 'not measured\n{"bench": "overhead", "skipped": "one core"}\n')
    assert (outcome.skipped, outcome.failed, outcome.result) == ("one core", None, None)


async def test_a_benchmark_is_run_and_its_report_kept(tmp_path: Path) -> None:
    options = ("--requests", "2", "--streams", "1", "--tokens", "5", "--seconds", "0.2")
    outcome = await run_one(BENCHMARK, options, "abc")
    assert outcome.result is not None, outcome.failed
    keep(tmp_path / "new" / "overhead.json", outcome.result)
    kept = parse((tmp_path / "new" / "overhead.json").read_text())
    assert kept.command == f"python -m bench.overhead {' '.join(options)} --json"
    assert (kept.bench, kept.commit) == ("overhead", "abc")
    assert kept.seconds > 0
    assert kept.figures["one_client"]["requests"] == 2


def test_what_comes_after_two_dashes_is_the_benchmarks() -> None:
    assert split(["gpu_swap", "--out", "x", "--", "--only", "swaps", "--", "y"]) == (
        ["gpu_swap", "--out", "x"],
        ["--only", "swaps", "--", "y"],
    )
    assert split(["cost"]) == (["cost"], [])


async def test_options_of_its_own_are_given_to_a_benchmark_and_kept_with_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_package(tmp_path, {"good": f"import sys; assert sys.argv[1] == '--only'; print({json.dumps(REPORT)!r})"})
    monkeypatch.chdir(tmp_path)
    (good,) = await suite.run_all([Benchmark("good", "")], None, tmp_path / "out", ["--only", "two swaps"])
    assert good.result is not None, good.failed
    assert good.result.command == "python -m bench.good --only 'two swaps' --json"


@pytest.mark.parametrize("names", [[], ["overhead", "cost"]])
def test_options_of_no_one_benchmark_are_refused(
    names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["suite", *names, "--list", "--", "--requests", "2"])
    with pytest.raises(SystemExit, match="2"):
        suite.main()
    assert "--requests 2 is for one benchmark" in capsys.readouterr().err


async def test_one_that_fails_does_not_end_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_package(tmp_path, {"good": f"print({json.dumps(REPORT)!r})", "bad": "raise SystemExit(3)"})
    monkeypatch.chdir(tmp_path)  # `python -m` looks there first
    benchmarks = [Benchmark(name, "") for name in ("bad", "good")]
    bad, good = await suite.run_all(benchmarks, None, tmp_path / "out")
    assert bad.failed == "ended with status 3, and no report"
    assert good.result is not None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.json"]
    assert "FAILED: ended with status 3" in capsys.readouterr().out


async def test_what_is_skipped_is_said_and_no_failure(tmp_path: Path) -> None:
    status, output, _ = await output_of("suite", "peers", "--out", str(tmp_path / "out"))
    assert status == 0
    assert "skipped: only with --peers" in output
    assert not (tmp_path / "out").exists()


async def test_an_unknown_name_is_refused() -> None:
    status, _, said = await output_of("suite", "nonsense")
    assert status == 2
    assert "overhead" in said


def test_peers_are_run_when_asked_for() -> None:
    (peers,) = chosen(["peers"])
    assert peers.need is Need.PEERS
    assert why_skipped(peers, "nginx") is None
    assert chosen([]) == list(CATALOGUE)


def test_commits_are_told_apart_from_changed_trees() -> None:
    assert suite.commit_now().removesuffix("-dirty")
