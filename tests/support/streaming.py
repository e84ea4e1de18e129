"""A daemon whose streams the test writes, event by event, while a console reads them."""

from __future__ import annotations

import contextlib
import json
import queue
import select
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.gate import LIMIT_S

LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that is no stream."""

    value: Any
    status: int = 200


def refusal(status: int, message: str, code: str | None = None) -> Whole:
    """An error in OpenAI's form."""
    return Whole({"error": {"message": message, "type": "x", "param": None, "code": code}}, status)


@dataclass(slots=True)
class Streaming:
    """Each request takes what is to be answered, in order: a whole answer, or pieces of a stream up to its end."""

    port: int
    models: list[dict[str, Any]] = field(default_factory=list)  # what /v1/models lists
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a client has hung up in mid-stream
    to_say: queue.SimpleQueue[str | Whole | None] = field(default_factory=queue.SimpleQueue)
    came: threading.Condition = field(default_factory=threading.Condition)  # for each request

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def serves(self, *names: str, **aliases: str) -> None:
        """What it lists: models, and aliases with the model each stands for."""
        self.models = [{"id": name, "parent": None} for name in names]
        self.models += [{"id": alias, "parent": name} for alias, name in aliases.items()]

    def say(self, *pieces: str | Whole) -> None:
        """Answer with that next."""
        for piece in pieces:
            self.to_say.put(piece)

    def event(self, kind: str, **data: Any) -> None:
        """Send an event with a name, as the arena does."""
        self.say(f"event: {kind}\ndata: {json.dumps(data)}\n\n")

    def request(self, number: int) -> dict[str, Any]:
        """The body of the request of that number, as soon as it is here."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.asked) > number, LIMIT_S), f"no request {number}"
        return self.asked[number][1]

    def end(self) -> None:
        """End the stream."""
        self.to_say.put(None)


@contextlib.contextmanager
def streaming_daemon() -> Iterator[Streaming]:
    """One behind a port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._whole(Whole({"object": "list", "data": said.models}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with said.came:
                said.asked.append((self.path, body))
                said.came.notify_all()
            first = self._next()
            if isinstance(first, Whole):
                self._whole(first)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while isinstance(first, str):
                self._chunk(first.encode())
                first = self._next()
            self._chunk(b"")

        def _next(self) -> str | Whole | None:
            while True:
                with contextlib.suppress(queue.Empty):
                    return said.to_say.get(timeout=LOOK_S)
                ready, _, _ = select.select([self.connection], [], [], 0)
                if ready and self._hung_up():
                    said.left.set()
                    self.close_connection = True
                    return None

        def _hung_up(self) -> bool:
            connection: socket.socket = self.connection
            try:
                return not connection.recv(1, socket.MSG_PEEK)
            except ConnectionResetError:
                return True

        def _chunk(self, data: bytes) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

        def _whole(self, answer: Whole) -> None:
            data = json.dumps(answer.value).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A console that was killed has hung up."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    said = Streaming(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield said
    finally:
        said.end()  # a stream that the test has left open
        server.shutdown()
        thread.join()
        server.server_close()
