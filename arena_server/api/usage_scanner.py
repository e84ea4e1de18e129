"""Finds the counts of tokens in an answer that goes by, however its bytes are split, in bounded memory.

What is looked for is the object `usage`: of the answer itself (OpenAI's routes, Anthropic's Messages), or, in events of
a stream, of their `response` (Responses) or `message` (Messages); and Cohere's `meta.billed_units`. Nothing deeper
counts: a tool's schema, which Responses repeats to the client, may have a property `usage` of the client's making.
"""

from __future__ import annotations

import re

from pydantic_core import from_json

from arena_server.engine.token_counts import Usage, usage_of

# By the key of the object around it; none: the answer's own.
PLACES = frozenset({(b"", b"usage"), (b"response", b"usage"), (b"message", b"usage"), (b"meta", b"billed_units")})
OUTER = frozenset(outer for outer, _ in PLACES) - {b""}
LONGEST_KEY_BYTES = max(len(key) for place in PLACES for key in place)
LONGEST_USAGE_BYTES = 4096

MARK = re.compile(rb'["{}\[\]]')
# Up to the string's end or a backslash that ends the piece. Possessive: no way back is kept for each escape.
STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


def plain(levels: int) -> bytes:
    """A pattern (bytes) for whole strings, for what has no mark, and for whole objects and arrays of so many levels."""
    nested = rb"|[{\[]" + plain(levels - 1) + rb"[}\]]" if levels else b""
    return rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"' + nested + rb")*+"


# Where nothing is looked for, many of a model's log-probabilities are passed at once: one by one they took 0.2 s a MB.
PLAIN = re.compile(plain(4), re.DOTALL)


class UsageScanner:
    """Reads one answer: a JSON document, or a stream of server-sent events with one in each."""

    def __init__(self) -> None:
        self.found: Usage | None = None  # the last
        self._depth = 0
        self._outer = b""  # the key of the object at depth 2
        self._in_string = False
        self._escaped = False  # the last piece ended with a backslash within a string
        self._text = bytearray()  # the last string at depth 1 or 2; before `{` it is that object's key
        self._usage: bytearray | None = None  # what has come of the object that is looked for
        self._usage_depth = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        at, size = 0, len(data)
        while at < size:
            start, mark = at, b""
            if self._in_string:
                at = self._string(data, at)
            elif self._boring and (plain := PLAIN.match(data, at)) is not None and plain.end() > at:
                at = plain.end()
            elif (found := MARK.search(data, at)) is not None:
                at, mark = found.end(), found[0]
            else:
                at = size
            if self._usage is not None:
                self._keep(data[start:at])
            if mark:
                self._mark(mark)

    @property
    def _boring(self) -> bool:
        """Whether nothing that is here, or deeper, can be looked for."""
        return self._depth > 2 or (self._depth == 2 and self._outer not in OUTER and self._usage is None)

    def _string(self, data: bytes, start: int) -> int:
        """Go on in a string; returns where it ends, or the piece does."""
        at = start
        if self._escaped:
            self._escaped = False
            at += 1
        rest = STRING.match(data, at)
        assert rest is not None  # it matches nothing, too
        end = rest.end()
        if self._depth <= 2 and len(self._text) <= LONGEST_KEY_BYTES:
            self._text += data[start : min(end, start + LONGEST_KEY_BYTES + 1)]
        if end < len(data):
            self._in_string = data[end] != ord('"')
            self._escaped = self._in_string
            end += 1
        return end

    def _mark(self, mark: bytes) -> None:
        if mark == b'"':
            self._in_string = True
            if self._depth <= 2:
                self._text.clear()
        elif mark == b"{":
            self._open()
        elif mark == b"[":
            self._depth += 1
            if self._depth == 2:
                self._outer = b"["  # no key: what is in it is nobody's
            self._text.clear()
        else:
            self._close()

    def _open(self) -> None:
        key = bytes(self._text)
        if self._depth == 1:
            self._outer = key
        place = {1: (b"", key), 2: (self._outer, key)}.get(self._depth)
        self._depth += 1
        self._text.clear()
        if place in PLACES and self._usage is None:
            self._usage, self._usage_depth = bytearray(b"{"), self._depth

    def _close(self) -> None:
        if self._usage is not None and self._depth == self._usage_depth:
            found, self._usage = bytes(self._usage), None
            self._read(found)
        self._depth = max(self._depth - 1, 0)

    def _keep(self, some: bytes) -> None:
        assert self._usage is not None
        self._usage += some
        if len(self._usage) > LONGEST_USAGE_BYTES:
            self._usage = None

    def _read(self, text: bytes) -> None:
        try:
            usage = usage_of(from_json(text))
        except ValueError:
            return
        if usage != Usage(None, None):
            self.found = usage
