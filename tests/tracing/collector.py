"""A collector of traces: takes OTLP over HTTP, and keeps what it gets."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(slots=True)
class Collector:
    """`url` is its base; `raw` is what came, `paths` where to."""

    url: str
    raw: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    answering: threading.Event = field(default_factory=threading.Event)

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        """What came."""
        return [ExportTraceServiceRequest.FromString(body) for body in self.raw]

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order of their beginnings."""
        found = [s for r in self.requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    @property
    def roots(self) -> list[Span]:
        """Those of whole requests."""
        return [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]

    def steps(self, root: Span) -> dict[str, Span]:
        """The children of a span, by name."""
        return {span.name: span for span in self.spans if span.parent_span_id == root.span_id}

    @property
    def resource(self) -> dict[str, Any]:
        """What made the spans."""
        return attributes(self.requests[0].resource_spans[0].resource)


def attributes(thing: Any) -> dict[str, Any]:
    """Of a span, or a resource."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in thing.attributes}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """One behind a port, which answers unless the test clears `answering`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.raw.append(self.rfile.read(int(self.headers["Content-Length"])))
            kept.paths.append(self.path)
            kept.answering.wait()
            with contextlib.suppress(ConnectionError):
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    kept.answering.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield kept
    finally:
        kept.answering.set()
        server.shutdown()
        thread.join()
        server.server_close()
