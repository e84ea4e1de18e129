"""Whatever bytes go in at one end of the relay come out at the other, however they are cut up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.daemon_app import FakeDaemon, running_daemon
from tests.support.raw_client import once
from tests.support.replies import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

PIECE = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"\n", b"\r\n\r\n", b"data: [DONE]\n\n", b"0\r\n\r\n", b"\x00" * 70_000, b"x" * 300_000]),
)
CONTENT_TYPE = st.sampled_from(["application/json", "text/event-stream; charset=utf-8", "audio/wav", ""])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def daemon() -> AsyncIterator[FakeDaemon]:
    async with running_daemon() as running:
        yield running


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(PIECE, max_size=8),
    declared=st.booleans(),
    content_type=CONTENT_TYPE,
    status=st.sampled_from(["200 OK", "201 Created", "400 Bad Request", "503 Busy"]),
    extra=st.text(max_size=50),
)
async def test_both_bodies_arrive_byte_for_byte(
    daemon: FakeDaemon, pieces: list[bytes], declared: bool, content_type: str, status: str, extra: str
) -> None:
    alpha = daemon.engines["alpha"]
    answer = b"".join(pieces)
    headers = [("content-type", content_type)] if content_type else []
    alpha.reply = lambda _: Reply(pieces, status, headers, length=len(answer) if declared else None)
    alpha.requests.clear()
    body = json.dumps({"model": "alpha", "extra": extra}, ensure_ascii=False).encode()
    received = await once(daemon.port, "POST", "/v1/completions", body)
    assert received.body == answer
    assert received.status == int(status.split(" ")[0])
    assert received.header("content-type") == (content_type or None)
    # Not of a stream: what the daemon takes out of one is missing from what the engine has declared.
    assert (received.header("content-length") is not None) == (declared and "event-stream" not in content_type)
    assert alpha.requests[0].body == body
    assert daemon.view("alpha").running == 0
