"""Audio uploads: the model is found in the form, wherever it stands and whatever the file holds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import aiohttp
import openai
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_server.api.body import ask_of
from arena_server.errors import BadRequest
from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.raw_client import once

PATH = "/v1/audio/transcriptions"
BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"

Part = tuple[str, bytes]

shares_daemon = pytest.mark.asyncio(loop_scope="module")

MODEL: Part = ('form-data; name="model"', b"alpha")
LANGUAGE: Part = ('form-data; name="language"', b"en")
FILE: Part = ('form-data; name="file"; filename="a.wav"', b"RIFF\x00\xff\r\n--b0undar\r\n\r\n")
# What looks like the model's own part, and is only part of a file.
TRAP: Part = (
    'form-data; name="file"; filename="a.wav"',
    b'Content-Disposition: form-data; name="model"\r\n\r\nbeta\r\n--other\r\nname="model"\r\n\r\nbeta',
)


def form(parts: Sequence[Part]) -> bytes:
    pieces = (
        f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"
        for disposition, value in parts
    )
    return b"".join([*pieces, f"--{BOUNDARY}--\r\n".encode()])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def daemon(shared: FakeDaemon) -> FakeDaemon:
    """Its model alpha has not been asked anything."""
    shared.engines["alpha"].requests.clear()
    return shared


@shares_daemon
@pytest.mark.parametrize(
    "parts",
    [
        [MODEL, FILE],
        [FILE, MODEL],
        [LANGUAGE, MODEL, FILE],
        [TRAP, MODEL],
        [("form-data; name=\"file\"; filename*=UTF-8''%E6%96%87.wav", b"beta"), MODEL],
        [('form-data; name="file"; filename="\u6587.wav"', b"beta"), MODEL],
        [MODEL, TRAP],
        [('form-data; name="file"; filename="model"', b"beta"), MODEL],
        [('form-data; name="file"; filename="a; name=\\"model\\""', b"beta"), MODEL],
        [('form-data; name="my-model"', b"beta"), MODEL, ('form-data; name="models"', b"beta")],
        [("form-data; name=model", b"alpha"), FILE],
        [('FORM-DATA; NAME="model"', b"alpha")],
    ],
)
async def test_the_model_is_found_and_the_form_travels_as_it_is(daemon: FakeDaemon, parts: list[Part]) -> None:
    body = form(parts)
    answer = await once(daemon.port, "POST", PATH, body, [("Content-Type", FORM)])
    assert answer.status == 200
    request = daemon.engines["alpha"].inference[0]
    assert request.body == body
    assert request.header("content-type") == FORM


@shares_daemon
async def test_the_engine_gets_its_own_name_and_the_rest_as_it_is(daemon: FakeDaemon) -> None:
    body = form([TRAP, ('form-data; name="model"', b"gpt-4o"), FILE])
    assert (await once(daemon.port, "POST", PATH, body, [("Content-Type", FORM)])).status == 200
    assert daemon.engines["alpha"].inference[0].body == form([TRAP, MODEL, FILE])


def test_other_headers_of_the_part_do_not_matter() -> None:
    body = (
        f'--{BOUNDARY}\r\nContent-Type: text/plain\r\ncontent-DISPOSITION: form-data; name="model"\r\n'
        f'X-Name: name="file"\r\n\r\nalpha\r\n--{BOUNDARY}--\r\n'
    )
    assert ask_of(body.encode(), FORM).model == "alpha"


@pytest.mark.parametrize("content_type", [FORM.upper().replace(BOUNDARY.upper(), BOUNDARY), FORM + "; charset=utf-8"])
def test_the_content_type_may_be_written_differently(content_type: str) -> None:
    assert ask_of(form([FILE, MODEL]), content_type).model == "alpha"


def test_the_last_of_several_models_counts_as_it_does_for_the_engine() -> None:
    assert ask_of(form([('form-data; name="model"', b"beta"), MODEL]), FORM).model == "alpha"


@shares_daemon
async def test_a_form_of_a_common_client_is_understood(daemon: FakeDaemon) -> None:
    data = aiohttp.FormData()
    data.add_field("file", b"RIFF" * 100_000, filename="a.wav", content_type="audio/wav")
    data.add_field("model", "alpha")
    async with aiohttp.ClientSession(daemon.url) as session, session.post(PATH, data=data) as response:
        assert response.status == 200
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        transcription = await client.audio.transcriptions.create(model="alpha", file=("a.wav", b"RIFF"))
    assert transcription.text.endswith(" bytes for alpha")


@shares_daemon
@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("multipart/form-data", form([MODEL]), "The multipart/form-data content type has no boundary."),
        ("multipart/form-data; boundary=", form([MODEL]), "The multipart/form-data content type has no boundary."),
        (FORM, b"", "You must provide a model parameter."),
        (FORM, form([]), "You must provide a model parameter."),
        (FORM, form([FILE, LANGUAGE]), "You must provide a model parameter."),
        (FORM, form([('form-data; name="model"', b"")]), "You must provide a model parameter."),
        (FORM, form([("form-data", b"alpha")]), "You must provide a model parameter."),
        (FORM, b"nonsense", "We could not parse the form data of your request: "),
        (FORM, b"--b0undary\r\nno header\r\n\r\nx", "We could not parse the form data of your request: "),
        (f"multipart/form-data; boundary={'b' * 1000}", b"x", "We could not parse the form data of your request: "),
        (FORM, b"--b0undary\r\n" + b"a: b\r\n" * 1000, "We could not parse the form data of your request: "),
        (FORM, b"--b0undary\r\nA: " + b"b" * 100_000, "We could not parse the form data of your request: "),
    ],
)
async def test_a_form_without_a_model_is_refused_in_openais_form(
    daemon: FakeDaemon, content_type: str, body: bytes, message: str
) -> None:
    answer = await once(daemon.port, "POST", PATH, body, [("Content-Type", content_type)])
    assert answer.status == 400
    error = answer.error()
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"
    assert daemon.engines["alpha"].requests == []


@shares_daemon
async def test_a_form_that_names_no_such_model_is_a_404(daemon: FakeDaemon) -> None:
    body = form([('form-data; name="model"', b"\xff\xfe")])
    answer = await once(daemon.port, "POST", PATH, body, [("Content-Type", FORM)])
    assert answer.status == 404
    assert answer.error()["code"] == "model_not_found"


LATIN = st.text(st.characters(max_codepoint=255))  # as header values are read


@settings(deadline=None)
@given(
    body=st.one_of(st.binary(), st.lists(st.sampled_from(form([FILE, MODEL]).split(b"\r\n"))).map(b"\r\n".join)),
    content_type=st.one_of(LATIN, st.just(FORM), LATIN.map(FORM.__add__)),
)
def test_whatever_comes_has_a_model_or_is_a_bad_request(body: bytes, content_type: str) -> None:
    with contextlib.suppress(BadRequest):
        assert ask_of(body, content_type)
