"""Cost is exact."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.usage.price import Prices, cost_text

prices = st.decimals(0, 1_000_000, places=6)
tokens = st.integers(0, 10**9)


@given(prices, prices, st.lists(st.tuples(tokens, tokens), max_size=5))
def test_the_cost_of_parts_is_the_cost_of_the_whole(
    input_cost: Decimal, output_cost: Decimal, parts: list[tuple[int, int]]
) -> None:
    each = Prices(input_cost, output_cost)
    whole = each.cost_pico(sum(p for p, _ in parts), sum(c for _, c in parts))
    assert sum(each.cost_pico(*part) for part in parts) == whole
    exact = sum((p * input_cost + c * output_cost for p, c in parts), Decimal()) / 1_000_000
    assert Decimal(cost_text(whole)) == exact


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (0, "0.00"),
        (1, "0.000000000001"),
        (10**12, "1.00"),
        (1_250_000_000_000, "1.25"),
        (123_000_000, "0.000123"),
        (1_234_567_500_000_000_000, "1234567.50"),
        (-500_000_000_000, "-0.50"),
    ],
)
def test_as_text(pico: int, text: str) -> None:
    assert cost_text(pico) == text


def test_a_price_is_of_a_million_tokens() -> None:
    assert cost_text(Prices(Decimal("0.15"), Decimal("0.6")).cost_pico(1_000_000, 500_000)) == "0.45"
