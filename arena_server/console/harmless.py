"""A model's text made harmless: a terminal must show it, and never obey it."""

from __future__ import annotations

import re
import unicodedata

from arena_server.console.words import ESCAPE

# The beginning of a control sequence, whose end may come with the next piece. What is longer is none.
UNFINISHED = re.compile(r"\x1b(\[[0-?]{0,32}[ -/]{0,8})?\Z")
# Embeddings, overrides and isolates turn the direction of all that follows them, other columns' text too.
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
BREAKS = frozenset("\u2028\u2029")


class Harmless:
    """Pieces of one text, one after the other."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """What may be shown of the text so far, beyond what was given back before."""
        text = ESCAPE.sub("", self._held + piece)
        unfinished = UNFINISHED.search(text)
        self._held = unfinished.group() if unfinished else ""
        return "".join(map(_shown, text[: len(text) - len(self._held)]))


def _shown(letter: str) -> str:
    if letter in "\n\t":
        return letter
    if letter in BREAKS:
        return "\n"
    category = unicodedata.category(letter)
    if category == "Cs":
        return "\ufffd"
    return "" if category == "Cc" or letter in TURNING else letter
