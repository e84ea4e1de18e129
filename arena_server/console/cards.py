"""The names that models answer to, as `GET /v1/models` lists them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """A name; `parent` is the model's own name if this is an alias."""

    id: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class Cards:
    """The whole list."""

    data: tuple[Card, ...]


def own_names(cards: Iterable[Card]) -> list[str]:
    """Each model once."""
    return [card.id for card in cards if card.parent is None]
