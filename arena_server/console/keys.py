"""`arena-server keys`: API keys made, listed, rotated and revoked. To standard output goes a key's text, alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from difflib import get_close_matches

from rich.cells import cell_len

from arena_server.access.key_card import ACTIVE, REVOKED, IssuedKey, KeyCard, KeyLimits
from arena_server.console.key import VARIABLE
from arena_server.console.key_desk import Desk, NewKey
from arena_server.console.words import clean
from arena_server.errors import ArenaError

TITLES = ("ID", "NAME", "STATE", "SCOPES", "MODELS", "LIMITS", "EXPIRES", "CREATED")
GAP = "  "


class NoSuchKey(ArenaError):
    """No key has this id or name, or several have this name."""


def create_key(desk: Desk, new: NewKey, *, as_json: bool) -> int:
    """Make a key and print its text. Returns the exit status; raises ArenaError."""
    card, issued = desk.create(new)
    _print_issued(card, issued, as_json=as_json)
    models = "all models" if card.models is None else ", ".join(map(clean, card.models))
    _say(f"Key `{clean(card.name)}` ({card.id}): {', '.join(card.scopes)}; {models}; {_ends(card)}.")
    for name in issued.unknown_models:
        _say(f"No model is called `{clean(name)}` now: the key may use it once there is one.")
    _say("The key itself is shown this once: keep it.")
    if issued.first:
        _say(
            "It is the first one: from now on every request has to show a key (a daemon that runs notices in 2 s).\n"
            f"  these commands:   export {VARIABLE}=...   or --key-file FILE\n"
            "  OpenAI's clients: their `api_key`, or the header Authorization: Bearer ..."
        )
    return 0


def list_keys(desk: Desk, *, as_json: bool) -> int:
    """Print all keys, those in force first. Returns the exit status; raises ArenaError."""
    cards = desk.cards()
    if as_json:
        print(json.dumps({"keys": [asdict(card) for card in cards]}, indent=2))
    elif cards:
        for line in table(cards):
            print(line)
    else:
        print("There are no keys: nobody has to show one. Make the first: arena-server keys create NAME --scope admin")
    return 0


def revoke_key(desk: Desk, text: str) -> int:
    """End a key, by its id or name. Returns the exit status; raises ArenaError."""
    found = found_key(desk.cards(), text)
    card = desk.revoke(found.id)
    already = f"was revoked at {card.revoked_at} already" if found.state == REVOKED else "is revoked"
    print(f"Key `{clean(card.name)}` ({card.id}) {already}")
    return 0


def rotate_key(desk: Desk, text: str, grace_s: float, *, as_json: bool) -> int:
    """Print a key's new text, by its id or name. Returns the exit status; raises ArenaError."""
    card, issued = desk.rotate(found_key(desk.cards(), text).id, grace_s)
    _print_issued(card, issued, as_json=as_json)
    until = "is good no more" if card.previous_until is None else f"is good until {card.previous_until}"
    _say(f"Key `{clean(card.name)}` ({card.id}) has a new text, shown this once: keep it. The one before {until}.")
    return 0


def found_key(cards: Sequence[KeyCard], text: str) -> KeyCard:
    """The key of that id or name; of several with one name, the one in force. Raises NoSuchKey."""
    for card in cards:
        if card.id == text:
            return card
    named = [card for card in cards if card.name == text]
    meant = [card for card in named if card.state == ACTIVE] or named
    if len(meant) == 1:
        return meant[0]
    if not meant:
        near = get_close_matches(text[:100], [card.name for card in cards], n=1)
        hint = f"; did you mean `{clean(near[0])}`?" if near else " (arena-server keys list)"
        raise NoSuchKey(f"no key has the id or name `{clean(text)}`{hint}")
    lines = [f"  {card.id}  {card.state}, made {card.created_at}, {', '.join(card.scopes)}" for card in meant]
    raise NoSuchKey("\n".join([f"{len(meant)} keys are called `{clean(text)}`: say which by its id", *lines]))


def table(cards: Iterable[KeyCard]) -> list[str]:
    """The keys as lines, those in force first."""
    rows = [TITLES, *(_row(card) for card in sorted(cards, key=lambda card: card.state != ACTIVE))]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [GAP.join(t + " " * (w - cell_len(t)) for t, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(card: KeyCard) -> tuple[str, ...]:
    models = "all" if card.models is None else ",".join(map(clean, card.models))
    created = "configuration" if card.created_at is None else card.created_at[:10]
    state = card.state if card.previous_until is None else f"{card.state}, rotating"
    expires = "never" if card.expires_at is None else _minute(card.expires_at)
    return (
        clean(card.id),
        clean(card.name),
        state,
        ",".join(card.scopes),
        models,
        _limits(card.limits),
        expires,
        created,
    )


def _limits(limits: KeyLimits | None) -> str:
    """Its own; `-`: those of all keys."""
    if limits is None:
        return "-"
    figures = (
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.concurrent_requests, "at once"),
        (limits.tokens_per_day, "tokens/day"),
    )
    return ", ".join(f"{figure:,} {what}" for figure, what in figures if figure is not None) or "none"


def _ends(card: KeyCard) -> str:
    return "never expires" if card.expires_at is None else f"expires {_minute(card.expires_at)} UTC"


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _print_issued(card: KeyCard, issued: IssuedKey, *, as_json: bool) -> None:
    print(json.dumps({**asdict(card), **asdict(issued)}, indent=2) if as_json else issued.key, flush=True)


def _say(words: str) -> None:
    """To people: standard output is the key's alone, for `KEY=$(arena-server keys create ...)`."""
    print(words, file=sys.stderr)
