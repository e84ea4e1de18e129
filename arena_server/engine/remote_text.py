"""Another server's text, made fit to be shown: on one line, without what steers a terminal, and without our key."""

from __future__ import annotations

MOST_SHOWN = 200
# What is shorter is no secret but a word ("none", "EMPTY"), for a server that wants just anything.
SHORTEST_SECRET = 8


def one_line(text: str) -> str:
    """The text as it may stand in a log: escape sequences would be obeyed by the terminal that shows it."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MOST_SHOWN]


class Mask:
    """Hides a key in bytes that come in pieces. What it puts there is as long, so that lengths stay true."""

    def __init__(self, secret: str | None) -> None:
        """None, and what is too short to be a secret: hides nothing."""
        self._secret = secret.encode() if secret is not None and len(secret) >= SHORTEST_SECRET else b""
        self._kept = b""

    def whole(self, data: bytes) -> bytes:
        """All of a text."""
        return data.replace(self._secret, b"*" * len(self._secret)) if self._secret else data

    def piece(self, data: bytes) -> bytes:
        """What can be told of a text as far as it has come: its end is kept back while the key may begin there."""
        text = self.whole(self._kept + data)
        at = len(text) - self._begun(text)
        self._kept = text[at:]
        return text[:at]

    def rest(self) -> bytes:
        """What was kept back, at the end of the text."""
        kept, self._kept = self._kept, b""
        return kept

    def _begun(self, text: bytes) -> int:
        """How many bytes of the key the text ends with."""
        longest = min(len(self._secret) - 1, len(text))
        return next((n for n in range(longest, 0, -1) if text.endswith(self._secret[:n])), 0)
