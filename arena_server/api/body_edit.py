"""Sets fields of a request body in place: every other byte stays as the client wrote it.

(Read and written anew, a body of 8 MB would hold up the event loop for half a second.)
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping

from pydantic import JsonValue

from arena_server.api.form import field_spans, is_form
from arena_server.errors import BadRequest

# From here on in a thread.
LARGE_BYTES = 256 << 10

# JSON's tokens (RFC 8259), in text that is known to be JSON. A match keeps all threads waiting for as long as it lasts,
# so what one may take is bounded; what is longer is gone over in Python. Possessive throughout: nothing is tried twice.
_LONGEST_GAP = 4096
_GAP = re.compile(rb"[ \t\n\r,:]{0,%d}+" % _LONGEST_GAP)
_STRING = rb'"[^"\\]{0,512}+(?:\\.[^"\\]{0,512}+){0,16}+"'
_FLAT = rb'[{\[](?:[^"{}\[\]]{1,512}+|' + _STRING + rb"){0,12}+[}\]]"  # an object or array with no other in it
_INSIDES = re.compile(rb'(?:[^"{}\[\]]{1,512}+|' + _STRING + rb"|" + _FLAT + rb"){0,16}+", re.DOTALL)
_SIMPLE = re.compile(_STRING + rb'|[^"{}\[\], \t\n\r]++', re.DOTALL)
_QUOTE, _BACKSLASH, _CLOSING_BRACE = b'"\\}'
_WHITESPACE = b" \t\n\r"

Place = tuple[str, int, int]
"""A name, and where its value begins and ends."""


def edited(body: bytes, content_type: str, fields: Mapping[str, JsonValue | bytes]) -> bytes:
    """The body with these fields, at the top level of its JSON object: in place of those of the same name, else at the
    end. A name that is there several times is set each time, as servers differ in which they take. Values in bytes are
    JSON as they are.

    In form data those that are there are set. `body` is one that `ask_of` has read; raises BadRequest for some that are
    none.
    """
    if not fields:
        return body
    if is_form(content_type):
        found = [(name, *span) for name in fields for span in field_spans(body, content_type, name) if any(span)]
        texts = {name: value.encode() if isinstance(value, str) else _in_json(value) for name, value in fields.items()}
        return _with_values(body, found, texts, b"", len(body))
    try:
        return _json_edited(body, {name: _in_json(value) for name, value in fields.items()})
    except (IndexError, ValueError):
        raise BadRequest("We could not parse the JSON body of your request.") from None


async def edited_async(body: bytes, content_type: str, fields: Mapping[str, JsonValue | bytes]) -> bytes:
    """As `edited`; large bodies in a thread."""
    if len(body) < LARGE_BYTES:
        return edited(body, content_type, fields)
    return await asyncio.to_thread(edited, body, content_type, fields)


def _in_json(value: JsonValue | bytes) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def _json_edited(body: bytes, values: Mapping[str, bytes]) -> bytes:
    """Raises IndexError and ValueError where the body is no JSON object."""
    pairs = {name: (b'"%b"' % name.encode(), value) for name, value in values.items()}
    # Without an escape a name is there letter by letter, or not at all.
    if b"\\u" not in body and not any(key in body for key, _ in pairs.values()):
        end = body.rindex(b"}")
        return b"".join((body[:end], _more(body, end, pairs.values()), body[end:]))
    found, end = _places(body, values)
    for name, _, _ in found:
        pairs.pop(name, None)
    return _with_values(body, found, values, _more(body, end, pairs.values()), end)


def _more(body: bytes, end: int, pairs: Collection[tuple[bytes, bytes]]) -> bytes:
    """What is to come before the closing brace, which is at `end`."""
    if not pairs:
        return b""
    more = b", ".join([b"%b: %b" % pair for pair in pairs])
    is_first = body[:end].rstrip(_WHITESPACE).endswith(b"{")
    return more if is_first else b", " + more


def _with_values(body: bytes, found: Collection[Place], values: Mapping[str, bytes], more: bytes, end: int) -> bytes:
    """The body with `values` at the places, and `more` at `end`."""
    pieces: list[bytes] = []
    at = 0
    for name, first, last in sorted(found, key=lambda place: place[1]):
        pieces += (body[at:first], values[name])
        at = last
    return b"".join((*pieces, body[at:end], more, body[end:]))


def _places(body: bytes, names: Collection[str]) -> tuple[list[Place], int]:
    """Where these names' values are in an object, and where its closing brace is."""
    found: list[Place] = []
    at = _after_gap(body, body.index(b"{") + 1)
    while body[at] != _CLOSING_BRACE:
        key_end = _value_end(body, at)
        start = _after_gap(body, key_end)
        end = _value_end(body, start)
        key = body[at:key_end]
        name = str(json.loads(key)) if b"\\" in key else key[1:-1].decode()
        if name in names:
            found.append((name, start, end))
        at = _after_gap(body, end)
    return found, at


def _after_gap(body: bytes, at: int) -> int:
    """Where the next token begins; commas and colons are none."""
    while True:
        start, at = at, _end(_GAP, body, at)
        if at - start < _LONGEST_GAP:
            return at


def _value_end(body: bytes, at: int) -> int:
    """Where the value that begins at `at` ends."""
    if simple := _SIMPLE.match(body, at):
        return simple.end()
    if body[at] == _QUOTE:
        return _string_end(body, at)
    if body[at] in b"{[":
        return _container_end(body, at)
    raise ValueError


def _string_end(body: bytes, at: int) -> int:
    while True:
        at = body.index(b'"', at + 1)
        first = at
        while body[first - 1] == _BACKSLASH:
            first -= 1
        if (at - first) % 2 == 0:  # else the quote is escaped
            return at + 1


def _container_end(body: bytes, at: int) -> int:
    depth = 1
    at += 1
    while True:
        at = _end(_INSIDES, body, at)
        if body[at] == _QUOTE:
            at = _string_end(body, at)
        elif body[at] in b"{[":
            depth += 1
            at += 1
        elif body[at] in b"}]":
            depth -= 1
            at += 1
            if depth == 0:
                return at


def _end(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    """Where a match ends that may be empty."""
    match = pattern.match(body, at)
    return at if match is None else match.end()
