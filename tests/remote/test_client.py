"""The client of a remote server: what it asks, how often, and what it makes of each way to fail."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from arena_server.clock import SystemClock
from arena_server.engine.client import EngineLost, EngineUnreachable
from arena_server.engine.remote_client import RemoteAnswer, RemoteClient, RemoteLimits
from arena_server.engine.remote_failures import RemoteRefuses, pause_s, retry_after_s
from arena_server.engine.remote_url import BackendUrl
from tests.support.gate import until
from tests.support.remote_server import RemoteServer, remote_server
from tests.support.replies import Received, Reply, stream, whole

CHAT = "/v1/chat/completions"
JSON = (b"content-type", b"application/json")
BODY = json.dumps({"model": "org/there", "messages": [{"role": "user", "content": "one two"}]}).encode()
KEY = "sk-of-this-daemon"
BUSY = {"error": {"message": "too many at once", "type": "overloaded", "param": None, "code": "busy"}}


class Watcher:
    """Notes what the client tells of its server."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def gone(self, reason: str) -> None:
        self.told.append(f"gone: {reason}")

    def doubted(self) -> None:
        self.told.append("doubted")


class Asker:
    """A client, and what becomes of it."""

    def __init__(self, url: str, key: str | None, limits: RemoteLimits) -> None:
        self.watcher = Watcher()
        self.pauses: list[float] = []
        self.client = RemoteClient(
            "far", BackendUrl.of(url), key, limits, self.watcher, SystemClock(), pause=self._pause
        )

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def chat(self, headers: Sequence[tuple[bytes, bytes]] = (JSON,), body: bytes = BODY) -> tuple[int, bytes]:
        """Status and body."""
        async with self.client.post(CHAT, headers, body) as answer:
            return answer.status, await answer.read()


@contextlib.asynccontextmanager
async def asking(
    url: str, *, retries: int = 2, key: str | None = None, timeout_s: float = 30, connect_timeout_s: float = 30
) -> AsyncIterator[Asker]:
    asker = Asker(url, key, RemoteLimits(connect_timeout_s, timeout_s, retries))
    try:
        yield asker
    finally:
        await asker.client.close()


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    async with remote_server() as server:
        yield server


def replying(server: RemoteServer, *replies: Reply) -> None:
    """Answer with these, the last one for ever."""
    left = list(replies)
    server.reply = lambda _: left.pop(0) if len(left) > 1 else left[0]


def header(answer: RemoteAnswer, name: bytes) -> list[bytes]:
    return [value for n, value in answer.headers if n.lower() == name]


# What goes there, and what comes back


async def test_the_server_gets_the_question_and_the_daemons_own_key_and_nothing_else_of_the_client(
    server: RemoteServer,
) -> None:
    clients = [
        (b"authorization", b"Bearer sk-arena-of-the-client"),
        (b"x-api-key", b"sk-arena-of-the-client"),
        (b"cookie", b"session=1"),
        (b"x-forwarded-for", b"10.1.2.3"),
        (b"x-arena-session", b"abc"),
        (b"accept-encoding", b"gzip"),
        (b"user-agent", b"curl/8"),
        (b"openai-organization", b"org-of-the-client"),
        (b"x-request-id", b"r-1"),
        (b"traceparent", b"00-1-2-01"),
        (b"accept", b"text/event-stream"),
        (b"anthropic-version", b"2023-06-01"),
        JSON,
    ]
    async with asking(server.url, key=KEY) as asker:
        await asker.chat(clients)
    (got,) = server.asked
    assert got.path == CHAT
    assert got.body == BODY
    headers = dict(got.headers)
    assert headers.pop("host") == f"127.0.0.1:{server.port}"
    assert headers.pop("user-agent").startswith("arena-server/")
    assert headers.pop("content-length") == str(len(BODY))
    assert headers == {
        "authorization": f"Bearer {KEY}",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "accept": "text/event-stream",
        "x-request-id": "r-1",
        "traceparent": "00-1-2-01",
        "anthropic-version": "2023-06-01",
    }


async def test_without_a_key_none_is_sent(server: RemoteServer) -> None:
    async with asking(server.url) as asker:
        await asker.chat([(b"authorization", b"Bearer sk-arena-of-the-client")])
    assert server.asked[0].header("authorization") is None


async def test_of_the_servers_headers_only_those_of_the_answer_come_back(server: RemoteServer) -> None:
    headers = [
        ("content-type", "application/json"),
        ("set-cookie", "a=1"),
        ("openai-organization", "org-of-the-operator"),
        ("x-ratelimit-remaining-requests", "1"),
        ("access-control-allow-origin", "*"),
        ("retry-after", "3"),
        ("x-request-id", "theirs"),
    ]
    server.reply = lambda _: Reply([b"{}"], "400 Bad Request", headers, 2)
    async with asking(server.url) as asker, asker.client.post(CHAT, [JSON], BODY) as answer:
        assert answer.status == 400
        assert sorted(n.lower() for n, _ in answer.headers) == [b"content-length", b"content-type", b"retry-after"]
        assert await answer.read() == b"{}"


async def test_what_is_compressed_stays_so_and_says_so(server: RemoteServer) -> None:
    packed = gzip.compress(b'{"a": 1}')
    headers = [("content-type", "application/json"), ("content-encoding", "gzip")]
    server.reply = lambda _: Reply([packed], headers=headers, length=len(packed))
    async with asking(server.url) as asker, asker.client.post(CHAT, [JSON], BODY) as answer:
        assert header(answer, b"content-encoding") == [b"gzip"]
        assert header(answer, b"content-length") == [str(len(packed)).encode()]
        assert await answer.read() == packed


async def test_a_large_body_goes_there_as_it_is(server: RemoteServer) -> None:
    body = b"x" * (3 << 20)
    server.reply = lambda _: whole({})
    async with asking(server.url) as asker:
        await asker.chat(body=body)
    assert server.asked[0].body == body


async def test_a_connection_is_used_again(server: RemoteServer) -> None:
    async with asking(server.url) as asker:
        for _ in range(3):
            assert (await asker.chat())[0] == 200
    assert server.connections == 1


async def test_a_long_header_is_borne_and_an_endless_one_is_not(server: RemoteServer) -> None:
    server.reply = lambda _: Reply([b"{}"], headers=[("content-security-policy", "x" * 20_000)], length=2)
    async with asking(server.url) as asker:
        assert await asker.chat() == (200, b"{}")
        server.reply = lambda _: Reply([b"{}"], headers=[("content-security-policy", "x" * 200_000)], length=2)
        with pytest.raises(EngineLost, match="sent no proper HTTP"):
            await asker.chat()


async def test_the_stream_comes_as_it_is_sent(server: RemoteServer) -> None:
    server.reply = lambda _: stream([b"data: 1\n\n", b"data: 2\n\n"])
    server.chunks.hold()
    server.chunks.release(1)
    async with asking(server.url) as asker, asker.client.post(CHAT, [JSON], BODY) as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        server.chunks.release()
        assert b"".join([c async for c in chunks]) == b"data: 2\n\n"
        assert asker.client.heard_within(30)


async def test_leaving_ends_the_request_there(server: RemoteServer) -> None:
    server.reply = lambda _: stream([b"data: 1\n\n"] * 1000)
    server.chunks.hold()
    server.chunks.release(2)
    async with asking(server.url) as asker:
        async with asker.client.post(CHAT, [JSON], BODY) as answer:
            await anext(answer.chunks())
        await until(lambda: server.asked[0].aborted, "the server to see it")
        assert asker.watcher.told == []


async def test_who_gives_up_while_it_waits_for_an_answer_ends_the_request_there(server: RemoteServer) -> None:
    server.chunks.hold()
    async with asking(server.url) as asker:
        chat = asyncio.create_task(asker.chat())
        await until(lambda: server.asked, "the request to be there")
        chat.cancel()
        with pytest.raises(asyncio.CancelledError):
            await chat
        await until(lambda: server.asked[0].aborted, "the server to see it")


async def test_no_more_is_read_than_is_taken(server: RemoteServer) -> None:
    server.reply = lambda _: stream([b"x" * 65536] * 2000)
    async with asking(server.url) as asker, asker.client.post(CHAT, [JSON], BODY) as answer:
        await anext(answer.chunks())
        sent = -1
        while sent != server.asked[0].sent:  # until nothing more goes
            sent = server.asked[0].sent
            await asyncio.sleep(0.05)
        assert sent < 500, "the rest waits there"


# Ways to fail


async def test_one_that_is_busy_is_asked_again(server: RemoteServer) -> None:
    replying(server, whole(BUSY, "503 Service Unavailable"), whole(BUSY, "429 Too Many Requests"), whole({"ok": 1}))
    async with asking(server.url) as asker:
        assert await asker.chat() == (200, b'{"ok": 1}')
        assert asker.pauses == [0.25, 0.5]
        assert asker.watcher.told == []
    assert len(server.asked) == 3


async def test_retry_after_is_kept_to(server: RemoteServer) -> None:
    busy = whole(BUSY, "429 Too Many Requests")
    replying(server, Reply(busy.chunks, busy.status, [*busy.headers, ("retry-after", "7")], busy.length), whole({}))
    async with asking(server.url) as asker:
        assert (await asker.chat())[0] == 200
        assert asker.pauses == [7]


async def test_who_wants_to_be_left_alone_for_long_is(server: RemoteServer) -> None:
    busy = whole(BUSY, "503 Service Unavailable")
    replying(server, Reply(busy.chunks, busy.status, [*busy.headers, ("retry-after", "60")], busy.length))
    async with asking(server.url) as asker:
        with pytest.raises(RemoteRefuses) as refused:
            await asker.chat()
        assert asker.pauses == []
    assert (refused.value.status, refused.value.retry_after_s) == (503, 60)
    assert refused.value.body() == BUSY


@pytest.mark.parametrize("status", ["429 Too Many Requests", "502 Bad Gateway", "503 Busy", "504 Gateway Timeout"])
async def test_one_that_stays_busy_is_told_of_in_its_own_words(server: RemoteServer, status: str) -> None:
    replying(server, whole(BUSY, status))
    async with asking(server.url, retries=1) as asker:
        with pytest.raises(RemoteRefuses) as refused:
            await asker.chat()
    assert len(server.asked) == 2
    assert refused.value.status == int(status[:3])
    assert refused.value.body() == BUSY


async def test_one_that_is_busy_without_words_is_told_of_in_ours(server: RemoteServer) -> None:
    replying(server, Reply([b"<html>"], "502 Bad Gateway", length=6))
    async with asking(server.url, retries=0) as asker:
        with pytest.raises(RemoteRefuses) as refused:
            await asker.chat()
    assert refused.value.body()["error"] == {
        "message": "The server that runs the model `far` answers with status 502.",
        "type": "service_unavailable_error",
        "param": None,
        "code": "model_unavailable",
    }


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "500 Internal Server Error"])
async def test_any_other_error_is_the_answer(server: RemoteServer, status: str) -> None:
    replying(server, whole(BUSY, status))
    async with asking(server.url) as asker:
        assert await asker.chat() == (int(status[:3]), json.dumps(BUSY).encode())
    assert len(server.asked) == 1


async def test_a_refused_key_is_told_of_without_the_servers_words(server: RemoteServer) -> None:
    replying(server, whole({"error": {"message": f"Incorrect API key provided: {KEY}"}}, "401 Unauthorized"))
    async with asking(server.url, key=KEY) as asker:
        with pytest.raises(RemoteRefuses, match="does not let this server in") as refused:
            await asker.chat()
        assert asker.watcher.told == ["doubted"]
    assert refused.value.status == 503
    assert KEY not in str(refused.value.body())
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "429 Too Many Requests", "500 Oh"])
@pytest.mark.parametrize("cut", [0, 45, 50])
async def test_the_daemons_key_is_taken_out_of_the_servers_words(server: RemoteServer, status: str, cut: int) -> None:
    body = json.dumps({"error": {"message": f"Rate limit for key {KEY} in org X, sk-of"}}).encode()
    server.reply = lambda _: Reply([body[:cut], body[cut:]] if cut else [body], status, length=len(body))
    async with asking(server.url, key=KEY, retries=0) as asker:
        try:
            async with asker.client.post(CHAT, [JSON], BODY) as answer:
                words = json.loads(await answer.read())
        except RemoteRefuses as e:
            words = e.body()
    assert words == {"error": {"message": f"Rate limit for key {'*' * len(KEY)} in org X, sk-of"}}


async def test_a_word_in_place_of_a_key_is_no_secret(server: RemoteServer) -> None:
    replying(server, whole({"error": {"message": "none of that"}}, "400 Bad Request"))
    async with asking(server.url, key="none") as asker:
        assert b"none of that" in (await asker.chat())[1]


@pytest.mark.parametrize("status", ["700 Odd", "600 Odd"])
async def test_a_number_that_is_no_status_is_a_refusal(server: RemoteServer, status: str) -> None:
    replying(server, whole({}, status))
    async with asking(server.url) as asker:
        with pytest.raises(RemoteRefuses, match=f"answers with status {status[:3]}, which is none"):
            await asker.chat()
        assert asker.watcher.told == ["doubted"]


async def test_a_redirect_is_not_followed(server: RemoteServer) -> None:
    async with remote_server() as other:
        elsewhere = [("location", f"{other.url}/chat/completions")]
        server.reply = lambda _: Reply([], "307 Temporary Redirect", elsewhere, 0)
        async with asking(server.url, key=KEY) as asker:
            with pytest.raises(RemoteRefuses, match=r"is elsewhere \(status 307\)") as refused:
                await asker.chat()
            assert asker.watcher.told == ["doubted"]
        assert refused.value.status == 503
        assert other.requests == []


async def test_one_that_cannot_be_reached_is_tried_again_and_then_gone(server: RemoteServer) -> None:
    await server.kill()
    async with asking(server.url) as asker:
        with pytest.raises(EngineUnreachable) as gone:
            await asker.chat()
        assert str(gone.value) == f"http://127.0.0.1:{server.port} cannot be reached: connection refused"
        assert asker.pauses == [0.25, 0.5]
        assert asker.watcher.told == [f"gone: {gone.value}"]


async def test_one_that_is_back_in_time_is_none_the_worse(server: RemoteServer) -> None:
    await server.kill()
    async with asking(server.url) as asker:

        async def pause(_: float) -> None:
            await server.start()

        asker.client._pause = pause
        assert (await asker.chat())[0] == 200
        assert asker.watcher.told == []


async def test_no_connection_within_the_time() -> None:
    with contextlib.ExitStack() as sockets:
        taken = sockets.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        taken.listen(0)
        for _ in range(3):  # nobody takes these, and then the queue is full
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(taken.getsockname())
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with asking(url, retries=0, connect_timeout_s=0.2) as asker:
            with pytest.raises(EngineUnreachable, match=r"no connection after 0.2 s \(connect_timeout_s\)$"):
                await asker.chat()


async def test_a_host_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(*_: object, **__: object) -> object:
        raise OSError(None, "Name or service not known")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", nowhere)
    async with asking("http://nothing.invalid/v1", retries=0) as asker:
        with pytest.raises(EngineUnreachable) as gone:
            await asker.chat()
    words = "http://nothing.invalid cannot be reached: there is no host of that name (DNS: Name or service not known)"
    assert str(gone.value) == words


async def test_a_connection_that_ends_without_an_answer_is_tried_again(server: RemoteServer) -> None:
    async def once(request: Received, writer: asyncio.StreamWriter) -> bool:
        server.by_hand = None
        return False

    server.by_hand = once
    async with asking(server.url) as asker:
        assert (await asker.chat())[0] == 200
    assert len(server.asked) == 2


async def test_one_that_was_asked_and_said_nothing_is_lost_without_more_tries(server: RemoteServer) -> None:
    async def hang_up(request: Received, writer: asyncio.StreamWriter) -> bool:
        return False

    server.by_hand = hang_up
    async with asking(server.url, retries=0) as asker:
        with pytest.raises(EngineLost, match="closed the connection without an answer"):
            await asker.chat()
        assert asker.watcher.told == ["doubted"]


async def test_one_that_is_silent_is_given_up_and_not_asked_again(server: RemoteServer) -> None:
    server.chunks.hold()
    async with asking(server.url, timeout_s=0.1) as asker:
        with pytest.raises(EngineLost, match=r"said nothing for 0.1 s \(timeout_s\)$"):
            await asker.chat()
        assert asker.watcher.told == ["doubted"]
    assert len(server.asked) == 1


async def test_one_that_falls_silent_in_the_middle_is_given_up(server: RemoteServer) -> None:
    server.reply = lambda _: stream([b"data: 1\n\n"] * 3)
    server.chunks.hold()
    server.chunks.release(2)
    async with asking(server.url, timeout_s=0.1) as asker, asker.client.post(CHAT, [JSON], BODY) as answer:
        with pytest.raises(EngineLost, match=r"said nothing more for 0.1 s \(timeout_s\)$"):
            await answer.read()


async def test_a_reader_that_takes_its_time_is_not_the_servers_silence(server: RemoteServer) -> None:
    server.reply = lambda _: stream([b"x" * 65536] * 100)
    async with asking(server.url, timeout_s=0.1) as asker, asker.client.post(CHAT, [JSON], BODY) as answer:
        chunks = answer.chunks()
        read = len(await anext(chunks))
        await asyncio.sleep(0.3)
        read += len(b"".join([c async for c in chunks]))
        assert read == 6553600


async def test_one_that_dies_in_the_middle_is_never_asked_again(server: RemoteServer) -> None:
    server.reply = lambda _: stream([b"data: 1\n\n"] * 3)
    server.chunks.hold()
    server.chunks.release(1)
    async with asking(server.url) as asker, asker.client.post(CHAT, [JSON], BODY) as answer:
        chunks = answer.chunks()
        assert await anext(chunks) == b"data: 1\n\n"
        await server.kill()
        await server.start()
        with pytest.raises(EngineLost, match="ended its answer before it was whole"):
            assert b"".join([c async for c in chunks]) in (b"", b"data: 1\n\n")
        assert asker.watcher.told == ["doubted"]
        assert asker.pauses == []
    assert len(server.asked) == 1


async def test_what_is_no_http_is_told_of(server: RemoteServer) -> None:
    async def nonsense(request: Received, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"SSH-2.0-\x1b[31mOpenSSH_9.2\r\n")
        await writer.drain()
        return True

    server.by_hand = nonsense
    async with asking(server.url) as asker:
        with pytest.raises(EngineLost, match="sent no proper HTTP") as lost:
            await asker.chat()
    assert str(lost.value).isprintable()


async def test_a_certificate_of_its_own_making_is_refused(tmp_path: Path) -> None:
    async with remote_server(_self_signed(tmp_path)) as server:
        async with asking(server.url, key=KEY) as asker:
            with pytest.raises(
                EngineUnreachable, match=r"the TLS certificate of https://127.0.0.1:\d+ is not accepted"
            ):
                await asker.chat()
            assert asker.pauses == [], "it will not be another one the next time"
        assert server.requests == []


async def test_who_waits_for_the_next_try_as_the_client_is_closed_is_told(server: RemoteServer) -> None:
    await server.kill()
    async with asking(server.url) as asker:

        async def pause(_: float) -> None:
            await asker.client.close()

        asker.client._pause = pause
        with pytest.raises(EngineUnreachable, match="is closed"):
            await asker.chat()


@pytest.mark.parametrize(
    ("tries", "retry_after", "seconds"),
    [
        (1, None, 0.25),
        (2, None, 0.5),
        (10, None, 10),
        (1, "0", 0),
        (1, "10", 10),
        (1, "11", None),
        (1, "-1", 0.25),
        (1, "soon", 0.25),
        (1, "Sat, 21 Nov 2026 22:00:04 GMT", 4),
        (1, "Sat, 21 Nov 2026 21:00:00 GMT", 0),
        (1, "Sat, 21 Nov 2026 23:00:00 GMT", None),
        (1, "9" * 400, 0.25),
    ],
)
def test_pauses(tries: int, retry_after: str | None, seconds: float | None) -> None:
    assert pause_s(tries, retry_after, datetime(2026, 11, 21, 22, tzinfo=UTC)) == seconds


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("120") == 120
    assert retry_after_s("Sat, 21 Nov 2026 22:00:04 GMT", datetime(2026, 11, 21, 22, tzinfo=UTC)) == 4
    assert retry_after_s("never") is None
    assert retry_after_s("Mon, 01 Jan 99999999999999999999 00:00:00 GMT") is None
    assert retry_after_s("Mon, 01 Jan 2024 00:00:00 +99999999999") is None
    assert retry_after_s(None) is None


def _self_signed(directory: Path) -> ssl.SSLContext:
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    )
    certificate = builder.sign(key, hashes.SHA256())
    file = directory / "server.pem"
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
