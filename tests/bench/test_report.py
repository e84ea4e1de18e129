"""How measurements are summed up."""

from __future__ import annotations

from bench.report import percentile


def test_percentile() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 99) == 99
    assert percentile(values, 50) == 50
    assert percentile([7.0], 95) == 7
