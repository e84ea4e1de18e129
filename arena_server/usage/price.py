"""What tokens cost, exactly. Pure.

Prices are those of a million tokens, to a millionth of the currency: a token then costs a whole number of 1e-12 of it,
and sums of such numbers are as exact as their parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

DIGITS = 12  # of the currency's fraction


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million tokens, in any currency, with at most 6 decimal places."""

    input_cost: Decimal = Decimal(0)
    output_cost: Decimal = Decimal(0)

    def cost_pico(self, prompt_tokens: int, completion_tokens: int) -> int:
        """In 1e-12 of the currency: tokens x price / 1e6 x 1e12."""
        return prompt_tokens * _of_token(self.input_cost) + completion_tokens * _of_token(self.output_cost)


def _of_token(price: Decimal) -> int:
    return int(price.scaleb(6))


def cost_text(cost_pico: int) -> str:
    """As a decimal number of the currency's units, exact, with at least two places: `0.00`, `1.25`, `0.000123`."""
    units, fraction = divmod(abs(cost_pico), 10**DIGITS)
    sign = "-" if cost_pico < 0 else ""
    return f"{sign}{units}.{f'{fraction:0{DIGITS}}'.rstrip('0'):0<2}"
