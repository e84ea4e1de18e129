"""The check before a release measures what it promises, and a broken bound is told."""

from __future__ import annotations

import json

import pytest

from bench import quick
from bench.quick import Check, report
from bench.report import machine
from tests.bench.program import assert_is_report, output_of


def test_a_broken_bound_is_told() -> None:
    checks = [Check("first", 1.99, 2.0), Check("second", 2.01, 2.0)]
    found = report(machine(), checks)
    assert not found.met
    assert [line.split()[-1] for line in found.lines] == ["ok", "HIGH"]
    assert [check["ok"] for check in found.figures["checks"]] == [True, False]
    assert report(machine(), checks[:1]).met


@pytest.mark.parametrize(("ratio", "status"), [(1.0, 0), (3.0, 1)])
def test_the_exit_status_says_whether_a_bound_is_broken(
    ratio: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measured(_: quick.Effort) -> list[Check]:
        return [Check("a ratio", ratio, 2.0)]

    monkeypatch.setattr(quick, "measure", measured)
    monkeypatch.setattr("sys.argv", ["quick"])
    assert quick.main() == status


async def test_a_tiny_run_has_all_checks() -> None:
    status, output, progress = await output_of("quick", "--tiny", "--json")
    last = json.loads(output.splitlines()[-1])  # whatever the bounds say of so little
    assert_is_report(last)
    assert status == (0 if last["met"] else 1), progress
    checks = {check["what"]: check for check in last["figures"]["checks"]}
    assert len(checks) == 7
    assert all(check["ratio"] > 0 for check in checks.values())
    assert all(check["ok"] for what, check in checks.items() if "simulation" in what), checks
