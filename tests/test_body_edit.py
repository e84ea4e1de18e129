"""Fields of a body are set in place: read again it has them, and every other byte is the client's."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.api import body_edit
from arena_server.api.body import Ask, ask_of
from arena_server.api.body_edit import LARGE_BYTES, edited, edited_async
from arena_server.errors import BadRequest
from tests.support.forms import FORM, form

JSON = "application/json"
NAMES = ("model", "stream_options", "stream")

texts = st.text() | st.sampled_from((*NAMES, '"', "\\", '\\"model"', '{"model": 1', "}", "é\n", "x" * 600, '"' * 40))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
gaps = st.text(" \t\r\n", max_size=3) | st.just(" " * 5000)


@st.composite
def written(draw: st.DrawFn, value: object) -> str:
    """The value as JSON, with whitespace and escapes as somebody might write them."""
    if isinstance(value, dict):
        members = [f"{draw(written(k))}{draw(gaps)}:{draw(gaps)}{draw(written(v))}" for k, v in value.items()]
        inside = f"{draw(gaps)},{draw(gaps)}".join(members)
        return f"{{{draw(gaps)}{inside}{draw(gaps)}}}"
    if isinstance(value, list):
        inside = f"{draw(gaps)},{draw(gaps)}".join(draw(written(item)) for item in value)
        return f"[{draw(gaps)}{inside}{draw(gaps)}]"
    if isinstance(value, str) and value and draw(st.booleans()):
        return '"' + "".join(f"\\u{unit:04x}" for unit in _utf16(value)) + '"'
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


def _utf16(text: str) -> list[int]:
    raw = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    members: list[str] = []
    for name in draw(st.lists(st.sampled_from(NAMES) | texts, max_size=6)):  # some of them several times
        key, value = draw(written(name)), draw(written(draw(values)))
        members.append(f"{draw(gaps)}{key}{draw(gaps)}:{draw(gaps)}{value}{draw(gaps)}")
    return f"{draw(gaps)}{{{','.join(members) or draw(gaps)}}}{draw(gaps)}".encode(errors="surrogatepass")


def pairs(body: bytes) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = json.loads(body.decode(errors="surrogatepass"), object_pairs_hook=list)
    return found


def dictionary(body: bytes) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(body.decode(errors="surrogatepass"))
    return read


@given(bodies(), st.dictionaries(st.sampled_from(NAMES), values, max_size=3))
def test_read_again_it_has_the_fields_and_all_else(body: bytes, fields: Mapping[str, Any]) -> None:
    if "\ud800" <= max(body.decode(errors="surrogatepass"), default="") <= "\udfff":
        return
    result = edited(body, JSON, fields)
    assert dictionary(result) == {**dictionary(body), **fields}
    before, after = pairs(body), pairs(result)
    # Each member where it was, and of those that were not there one each.
    assert [k for k, _ in after] == [*(k for k, _ in before), *(k for k in fields if k not in dict(before))]
    for (key, old), (_, new) in zip(before, after, strict=False):
        assert new == (json.loads(json.dumps(fields[key]), object_pairs_hook=list) if key in fields else old)


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"model":"a"}', b'{"model":"NEW"}'),
        (b' {\n "model" : "a",\t"x": 1.50, "y": 1e400}\r\n', b' {\n "model" : "NEW",\t"x": 1.50, "y": 1e400}\r\n'),
        (b"{}", b'{"model": "NEW"}'),
        (b"{ \n}", b'{ \n"model": "NEW"}'),
        (b'{"a": {}}\n', b'{"a": {}, "model": "NEW"}\n'),
        (b'{"a": {"model": "b"}}', b'{"a": {"model": "b"}, "model": "NEW"}'),
        (b'{"model": {"model": ["}"]}, "z": 1}', b'{"model": "NEW", "z": 1}'),
        (b'{"model": 1, "b": 2, "model": null}', b'{"model": "NEW", "b": 2, "model": "NEW"}'),
        (b'{"mod\\u0065l": "a"}', b'{"mod\\u0065l": "NEW"}'),
        (b'{"user": "\\"model\\"", "model": "a"}', b'{"user": "\\"model\\"", "model": "NEW"}'),
        (b'{"user": "' + b'\\"' * 40 + b'", "model": "a"}', b'{"user": "' + b'\\"' * 40 + b'", "model": "NEW"}'),
        (b'{"user": "\\\\", "model": "a"}', b'{"user": "\\\\", "model": "NEW"}'),
        ('{"u": "\u00e9\U0001f600", "model": "é"}'.encode(), '{"u": "\u00e9\U0001f600", "model": "NEW"}'.encode()),
    ],
)
def test_every_other_byte_stays(body: bytes, result: bytes) -> None:
    assert edited(body, JSON, {"model": "NEW"}) == result


def test_nothing_to_set_is_nothing_done() -> None:
    assert edited(b"not even JSON", JSON, {}) == b"not even JSON"


BAD = (b"", b"{", b'{"model', b'{"model": ', b'{"model": "a', b'{"model": [', b'{"model"}', b"[]", b'{"model": }', b"1")


@pytest.mark.parametrize("body", BAD)
def test_what_is_no_object_is_at_worst_refused(body: bytes) -> None:
    try:
        result = edited(body, JSON, {"model": "b", "x": 1})
    except BadRequest:
        return
    with pytest.raises(ValueError, match=r"."):
        json.loads(result)


@given(st.binary(max_size=30) | st.text('{}[]":,\\m1 ', max_size=12).map(str.encode))
def test_nothing_else_is_raised_and_it_ends(body: bytes) -> None:
    for around in (body, b'{"model": "a", "x": ' + body):
        try:
            edited(around, JSON, {"model": "b"})
        except BadRequest:
            continue


LARGE = {
    "an image": b'"' + b"A" * (8 << 20) + b'"',
    "escapes": b'"' + b"\\n" * (4 << 20) + b'"',
    "backslashes": b'"' + b"\\\\" * (1 << 20) + b'"',
    "many messages": b"[" + b'{"role": "user", "content": "hello"},' * 100_000 + b"0]",
    "deep": b"[" + b"[[[[]]]]," * 100_000 + b"0]",
    "numbers": b"[" + b"1," * (1 << 20) + b"0]",
    "nothing": b" " * (1 << 20) + b"0",
}


@pytest.mark.parametrize("what", LARGE)
def test_large_bodies(what: str) -> None:
    value = LARGE[what]
    result = edited(b'{"x": ' + value + b', "model": "a"}', JSON, {"model": "b", "y": 1})
    assert result == b'{"x": ' + value + b', "model": "b", "y": 1}'


async def test_the_event_loop_goes_on_beside_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    real = body_edit.edited

    def noting(body: bytes, content_type: str, fields: Mapping[str, Any]) -> bytes:
        threads.append(threading.current_thread())
        return real(body, content_type, fields)

    monkeypatch.setattr(body_edit, "edited", noting)
    small = b'{"model": "a"}'
    large = b'{"model": "a", "x": [' + b"[[]]," * LARGE_BYTES + b"0]}"
    assert await edited_async(small, JSON, {"model": "b"}) == b'{"model": "b"}'
    task = asyncio.create_task(edited_async(large, JSON, {"model": "b"}))
    turns = 0
    while not task.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert (await task)[:20] == b'{"model": "b", "x": '
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()
    assert turns > 10, "one match took all of it"


# Forms


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ([("model", b"a"), ("file", b"\x00\r\n--b\xff")], [("model", b"NEW"), ("file", b"\x00\r\n--b\xff")]),
        ([("file", b"x" * 100_000), ("model", b"a" * 300)], [("file", b"x" * 100_000), ("model", b"NEW")]),
        ([("model", b"a"), ("x", b"model"), ("model", b"b")], [("model", b"NEW"), ("x", b"model"), ("model", b"NEW")]),
        ([("model", b"\r\n--bo"), ("x", b"")], [("model", b"NEW"), ("x", b"")]),
    ],
)  # fmt: skip
def test_a_forms_field_is_set_and_nothing_else(
    fields: list[tuple[str, bytes]], changed: list[tuple[str, bytes]]
) -> None:
    assert edited(form(fields), FORM, {"model": "NEW", "stream_options": {}}) == form(changed)


def test_the_last_of_two_dispositions_counts_as_for_starlette() -> None:
    body = form([("model", b"a")]).replace(
        b"Content-Disposition: ", b'Content-Disposition: form-data; name="other"\r\nContent-Disposition: ', 1
    )
    assert ask_of(body, FORM) == Ask("a", False)
    assert b"\r\n\r\nNEW\r\n" in edited(body, FORM, {"model": "NEW"})


@given(st.binary(max_size=80), st.binary(min_size=1, max_size=40))
def test_whatever_a_form_holds(file: bytes, model: bytes) -> None:
    if b"\r\n--bound" in file or b"\r\n--bound" in model:
        return
    for fields in ([("model", model), ("file", file)], [("file", file), ("model", model)]):
        expected = [(name, b"NEW" if name == "model" else data) for name, data in fields]
        assert edited(form(fields), FORM, {"model": "NEW"}) == form(expected)
