"""The daemon's routes, asked with the standard library: aiohttp would take longer to import than to answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from arena_server.console.cards import Card, Cards
from arena_server.console.key import VARIABLE, ApiKey
from arena_server.console.picture import Acted, Decision, Decisions, Model, Picture, Reloaded
from arena_server.console.shape import WrongShape, read
from arena_server.console.words import clean
from arena_server.errors import ArenaError, ConfigError

TIMEOUT_S = 10.0

T = TypeVar("T")


class NoAnswer(ArenaError):
    """Nothing answers at the URL."""


class BadAnswer(ArenaError):
    """What answers is not a daemon of this version."""


class Refused(ArenaError):
    """The daemon's own error: its message, with its HTTP status and OpenAI's code."""

    def __init__(self, message: str, http_status: int, error_code: str | None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.error_code = error_code


def checked_url(text: str) -> str:
    """The URL in full, without a slash at its end; raises ValueError where it is none that can be asked."""
    url = text if "://" in text else f"http://{text}"
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError where it is no number
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not a URL such as http://127.0.0.1:8000")
    parts.hostname.encode("idna")  # as the resolver will
    if "@" in parts.netloc or parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("it may hold a host, a port and a path, nothing else")
    return url.rstrip("/")


class Api:
    """A daemon at a URL (as `checked_url` gives it), asked with a key. One connection per request."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, *, key: ApiKey | None = None) -> None:
        self.url = url
        self._key = key
        self._timeout_s = timeout_s
        self._parts = urlsplit(url)

    def pool(self) -> Picture:
        """The whole pool now."""
        return self._read(Picture, "GET", "/admin/pool")

    def pool_json(self) -> str:
        """The same as the daemon wrote it."""
        body, _ = self._ask("GET", "/admin/pool")
        return body

    def decisions(self) -> tuple[Decision, ...]:
        """The pool's last decisions, oldest first."""
        return self._read(Decisions, "GET", "/admin/decisions").decisions

    def act(self, name: str, action: str) -> Model:
        """Have something done with a model; returns at once, with the model as it is now."""
        return self._read(Acted, "POST", f"/admin/models/{quote(name, safe='')}/{action}").model

    def reload(self) -> Reloaded:
        """Have the configuration read again; raises ConfigError where it cannot be used."""
        try:
            return self._read(Reloaded, "POST", "/admin/reload")
        except Refused as e:
            if e.http_status == 400:
                raise ConfigError(e.message.splitlines()) from e
            raise

    def cards(self) -> tuple[Card, ...]:
        """The names that models answer to."""
        return self._read(Cards, "GET", "/v1/models").data

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[str, Any]:
        """Ask for what is answered at once; the answer as the daemon wrote it and as JSON."""
        return self._ask(method, path, body, patient=False)

    def whole(self, path: str, body: Mapping[str, Any]) -> tuple[str, Any]:
        """Ask with a JSON body; the answer as the daemon wrote it and as JSON, however long a model takes for it."""
        return self._ask("POST", path, body)

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[str]]:
        """The lines of the stream of events, for as long as it lasts."""
        with self._stream("GET", "/admin/events") as lines:
            yield lines

    @contextlib.contextmanager
    def streamed(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """Ask with a JSON body; the lines of the stream that answers. At the end of the block the daemon is left."""
        with self._stream("POST", path, body) as lines:
            yield lines

    @contextlib.contextmanager
    def _stream(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Iterator[Iterator[str]]:
        # What the caller does meanwhile is none of `_reported`'s business: its own pipe may break.
        with self._connection() as connection, contextlib.ExitStack() as stack:
            with self._reported():
                connection.connect()
                sock = connection.sock
                if body is not None:
                    _wait_for_ever(sock)
                response = stack.enter_context(self._send(connection, method, path, "text/event-stream", body))
                if response.status != 200:
                    raise self._refusal(path, response.status, response.read())
                if "text/event-stream" not in response.headers.get("Content-Type", ""):
                    raise BadAnswer(f"{self.url}{path} does not answer with a stream of events")
                _wait_for_ever(sock)
            yield self._lines(response)

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[str]:
        with self._reported():
            while line := response.readline():
                yield line.decode(errors="replace").rstrip("\r\n")

    def _read(self, kind: type[T], method: str, path: str) -> T:
        _, value = self._ask(method, path)
        try:
            return read(kind, value)
        except WrongShape as e:
            raise BadAnswer(f"cannot use what {self.url}{path} answers: {e} (another version of arena-server?)") from e

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, patient: bool = True
    ) -> tuple[str, Any]:
        """The body of the answer, as text and as JSON; if `patient`, what has a body is answered whenever it is."""
        with self._connection() as connection, self._reported():
            if body is not None and patient:
                connection.connect()
                _wait_for_ever(connection.sock)
            response = self._send(connection, method, path, "application/json", body)
            status, answer = response.status, response.read()
        if not 200 <= status < 300:
            raise self._refusal(path, status, answer)
        try:
            text = answer.decode()
            return text, json.loads(text)
        except (ValueError, RecursionError) as e:
            raise BadAnswer(f"{self.url}{path} does not answer with JSON (is this an arena-server?)") from e

    def _refusal(self, path: str, status: int, body: bytes) -> ArenaError:
        try:
            error = json.loads(body)["error"]
            lines = [line for part in error["message"].splitlines() if (line := clean(part))]
            code = error.get("code")
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            reason = http.client.responses.get(status, "")
            return BadAnswer(f"{self.url}{path} answers {status} {reason}".rstrip() + ", without a daemon's reason")
        message = "\n".join([*(lines or [f"status {status}"]), *self._advice(status)])
        return Refused(message, status, code if isinstance(code, str) else None)

    def _advice(self, status: int) -> list[str]:
        """What to do about a key that is missing, unknown or not for this."""
        if status not in (401, 403):
            return []
        if self._key is not None:
            return [f"The key came from {self._key.source}."]
        return [] if status == 403 else [f"Put your key into {VARIABLE}, or into a file: --key-file FILE."]

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        accept: str,
        body: Mapping[str, Any] | None = None,
    ) -> http.client.HTTPResponse:
        headers, data = {"Accept": accept}, None
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.text}"
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        elif method == "POST":
            headers["Content-Length"] = "0"  # without it some proxies refuse a POST
        connection.request(method, self._parts.path + path, data, headers)
        return connection.getresponse()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)
        try:
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """The errors of the network as ours."""
        try:
            yield
        except ConnectionRefusedError as e:
            hint = "is the daemon running? --url or ARENA_URL"
            raise NoAnswer(f"nothing answers at {self.url} ({hint})") from e
        except TimeoutError as e:
            raise NoAnswer(f"{self.url} did not answer within {self._timeout_s:g} s") from e
        except ssl.SSLError as e:
            raise NoAnswer(f"no secure connection to {self.url}: {e.reason or e}") from e
        except (http.client.RemoteDisconnected, http.client.IncompleteRead, ConnectionError) as e:
            raise NoAnswer(f"{self.url} hung up before it had answered") from e
        except http.client.HTTPException as e:
            raise BadAnswer(f"what answers at {self.url} does not speak HTTP") from e
        except OSError as e:
            raise NoAnswer(f"cannot reach {self.url}: {e.strerror or e}") from e


def _wait_for_ever(sock: socket.socket) -> None:
    """No limit on silence: a model may have to be loaded first. But a host that has gone is noticed."""
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
