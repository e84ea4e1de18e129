"""Bodies that are hard to read: refused or relayed, within a second of the event loop's time and some memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from tests.fuzz.health import check_well, watched
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.raw_client import once
from tests.support.replies import whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
# What a body may cost beside what it has itself, which is there up to four times (both ends of it are this process).
MOST_BYTES = 100 * MIB
JSON = [("Content-Type", "application/json")]
FORM = [("Content-Type", "multipart/form-data; boundary=b")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        await check_well(running)
        yield running
        await running.come_to_rest()


async def ask(daemon: FakeDaemon, path: str, body: bytes, headers: list[tuple[str, str]], statuses: set[int]) -> None:
    """One request; an engine that gets it answers with 200."""
    engine = daemon.engines["alpha"]
    own_reply, engine.reply = engine.reply, lambda _: whole({"object": "any"})
    before = psutil.Process().memory_info().rss
    try:
        async with watched():
            answer = await once(daemon.port, "POST", path, body, headers)
    finally:
        engine.reply = own_reply
        for made in daemon.made:
            made.requests.clear()
    grown = psutil.Process().memory_info().rss - before
    assert answer.status in statuses, answer.body[:300]
    assert answer.status == 200 or answer.error()["message"]
    assert grown < MOST_BYTES + 4 * len(body)
    await check_well(daemon)


def model(*fields: bytes) -> bytes:
    return b'{"model": "alpha", ' + b", ".join(fields) + b"}"


DEEP = 100_000
BODIES: dict[str, tuple[bytes, set[int]]] = {
    "nothing": (b"", {400}),
    "lists in lists": (model(b'"x": ' + b"[" * DEEP + b"]" * DEEP), {400}),
    "objects in objects": (model(b'"x": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP), {400}),
    "lists without end": (b"[" * DEEP, {400}),
    "a number of 400 digits": (model(b'"seed": ' + b"9" * 400), {200}),
    "a number of a million digits": (model(b'"seed": ' + b"9" * 1_000_000), {200, 400}),
    "a power of ten": (model(b'"temperature": 1e400, "max_tokens": -1e400'), {200, 400}),
    "NaN": (model(b'"temperature": NaN, "top_p": -Infinity'), {200, 400}),
    "half a surrogate": (model(b'"prompt": "\\ud800"'), {200, 400}),
    "half a surrogate for a model": (b'{"model": "\\udfff"}', {400, 404}),
    "a NUL for a model": (b'{"model": "\\u0000"}', {404}),
    "no UTF-8": (model(b'"prompt": "\xff\xfe\xc0\x80"'), {400}),
    "UTF-16": ('{"model": "alpha"}'.encode("utf-16"), {400}),
    "UTF-32": ('{"model": "alpha"}'.encode("utf-32"), {400}),
    "a byte order mark": (b"\xef\xbb\xbf" + model(b'"x": 1'), {200, 400}),
    "keys twice": (model(b'"model": "alpha", "prompt": 1, "prompt": 2'), {200}),
    "another model last": (model(b'"model": "nobody"'), {404}),
    "more after the end": (model(b'"x": 1') + b"{}", {400}),
    "single quotes": (b"{'model': 'alpha'}", {400}),
    "a comma too many": (model(b'"x": 1,'), {400}),
    "a comment": (model(b'"x": 1 /* none */'), {400}),
    "a key of a megabyte": (model(b'"' + b"k" * MIB + b'": 1'), {200}),
    "a model of a megabyte": (b'{"model": "' + b"m" * MIB + b'"}', {404}),
    "stream that is none": (model(b'"stream": [[[]]], "stream_options": "x"'), {200}),
    "a million lists": (model(b'"x": [' + b"[]," * (2 * MIB) + b"0]"), {400}),
    "a million objects": (model(b'"x": [' + b'{"a":0},' * (2 * MIB) + b"0]"), {400}),
    "a million keys": (model(b",".join(b'"k%d":0' % i for i in range(1_200_000))), {400}),
    "ten million numbers": (model(b'"x": [' + b"0," * (10 * MIB) + b"0]"), {400}),
    "a text of escapes": (model(b'"prompt": "' + b"\\n" * (2 * MIB) + b'"'), {200}),
    "a text of quotes": (model(b'"prompt": "' + b'\\"' * (2 * MIB) + b'"'), {200}),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
async def test_json(what: str, daemon: FakeDaemon) -> None:
    body, statuses = BODIES[what]
    await ask(daemon, "/v1/completions", body, JSON, statuses)


def arena(content: bytes, *more: bytes) -> bytes:
    fields = [b'"models": ["alpha", "nobody"]', b'"messages": [{"role": "user", "content": [{"x": %b}]}]' % content]
    return b"{" + b", ".join([*fields, *more]) + b"}"


ARENA: dict[str, tuple[bytes, set[int]]] = {
    "lists in lists": (arena(b"[" * DEEP + b"]" * DEEP), {400}),
    "a number of 400 digits": (arena(b"9" * 400), {404}),
    "a power of ten": (arena(b"1e400"), {400, 404}),
    "NaN": (arena(b"NaN"), {400}),
    "half a surrogate": (arena(b'"\\ud800"'), {400, 404}),
    "a million lists": (arena(b"[" + b"[]," * MIB + b"0]"), {400}),
    "a million objects": (arena(b"[" + b'{"a":0},' * MIB + b"0]"), {400}),
    "a million keys": (arena(b"{" + b",".join(b'"k%d":0' % i for i in range(MIB)) + b"}"), {400}),
    "a million unknown keys": (arena(b"0", *(b'"k%d":0' % i for i in range(MIB))), {400}),
    "ninety thousand unknown keys": (arena(b"0", *(b'"k%d":0' % i for i in range(90_000))), {400}),
    "UTF-16": ('{"models": []}'.encode("utf-16"), {400}),
}


@pytest.mark.parametrize("what", ARENA)
async def test_the_arenas(what: str, daemon: FakeDaemon) -> None:
    body, statuses = ARENA[what]
    await ask(daemon, "/v1/arena/compare", body, JSON, statuses)


def part(name: bytes, value: bytes, headers: bytes = b"") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%b"\r\n%b\r\n%b\r\n' % (name, headers, value)


MODEL = part(b"model", b"alpha")
END = b"--b--\r\n"
FORMS: dict[str, tuple[bytes, set[int]]] = {
    "nothing": (b"", {400}),
    "no end": (MODEL + part(b"file", b"x" * 100_000), {200, 400}),
    "half a header": (b"--b\r\nContent-Dispo", {400}),
    "no boundary": (b"model=alpha", {400}),
    "another boundary": (b"--c\r\n\r\nx\r\n--c--\r\n", {400}),
    "no name": (b"--b\r\nContent-Disposition: form-data\r\n\r\nalpha\r\n" + END, {400}),
    "no disposition": (b"--b\r\nX: y\r\n\r\nalpha\r\n" + END, {400}),
    "forms in forms": (part(b"file", (MODEL + END).replace(b"--b", b"--c")) + MODEL + END, {200}),
    "the model twice": (part(b"model", b"nobody") + MODEL + END, {200}),
    "the model twice, a wrong one last": (MODEL + part(b"model", b"nobody") + END, {404}),
    "a model of no UTF-8": (part(b"model", b"\xff\xfe") + END, {404}),
    "a name of no UTF-8": (part(b"\xff\xfe", b"x") + MODEL + END, {200}),
    "a hundred thousand parts": (part(b"x", b"1") * 100_000 + MODEL + END, {400}),
    "a million boundaries that are none": (part(b"file", b"\r\n--bx" * MIB) + MODEL + END, {400}),
    "line ends for a file": (part(b"file", b"\r\n" * (4 * MIB)) + MODEL + END, {200}),
    "a header without end": (part(b"x", b"1", b"X: " + b"a" * (4 * MIB) + b"\r\n") + MODEL + END, {400}),
    "a million headers": (part(b"x", b"1", b"X: a\r\n" * MIB) + MODEL + END, {400}),
    "parameters without end": (part(b"x" * 100 + b'"; a="b' * (500_000), b"1") + MODEL + END, {400}),
}


@pytest.mark.parametrize("what", FORMS)
async def test_forms(what: str, daemon: FakeDaemon) -> None:
    body, statuses = FORMS[what]
    await ask(daemon, "/v1/audio/transcriptions", body, FORM, statuses)


@pytest.mark.parametrize("boundary", ["", "b" * 60_000, '"', "\x01", "b\x00"])
async def test_boundaries_of_nobodys(boundary: str, daemon: FakeDaemon) -> None:
    headers = [("Content-Type", f"multipart/form-data; boundary={boundary}")]
    await ask(daemon, "/v1/audio/transcriptions", MODEL + END, headers, {400})
