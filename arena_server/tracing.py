"""Requests as OpenTelemetry traces. Imports the SDK: to be imported only where tracing is switched on.

One server span for each course, named and described by the semantic conventions of generative AI where they have a
word for it (https://opentelemetry.io/docs/specs/semconv/gen-ai/), with up to three children: `queue` until its model is
leased to it, `prefill` until the first bytes of the answer, `generate` until its end. A client's trace is continued
(https://www.w3.org/TR/trace-context/), and the engine is told of it. No span holds anything of prompts or answers.

What is not decided here the SDK takes from its usual variables (OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_BSP_SCHEDULE_DELAY, ...).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from arena_server import __version__
from arena_server.clock import Clock
from arena_server.course import Course

logger = logging.getLogger(__name__)

FLUSH_S = 3.0  # at the end of the daemon
WARN_EVERY_S = 300.0
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/arena/compare": "chat",
    "/arena/battle": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v2/embed": "embeddings",
}


class Tracing:
    """A `Listener` whose spans go to a collector, in batches, from a thread of the SDK's."""

    def __init__(self, endpoint: str, sample_ratio: float, clock: Clock) -> None:
        """`endpoint` takes OTLP over HTTP; without a path it is a collector's base URL.

        `sample_ratio` of the traces that begin here are kept, and of a client's those that it keeps. At 1 the SDK's own
        variables may say otherwise (OTEL_TRACES_SAMPLER).
        """
        # Those of the exporter come for each batch and each of its attempts, and urllib3's for each request.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        logging.getLogger("urllib3").setLevel(logging.WARNING)
        sampler = ParentBased(TraceIdRatioBased(sample_ratio)) if sample_ratio < 1 else None
        self._provider = TracerProvider(sampler, Resource.create(_about()), shutdown_on_exit=False)
        url = traces_url(endpoint)
        exporter = PatientExporter(OTLPSpanExporter(endpoint=url), url, clock)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("arena_server", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._running: dict[int, tuple[Span, float]] = {}  # by the course's identity; when its clock was at 0, in ns

    def began(self, course: Course) -> None:
        """See `Listener`."""
        parent = None
        if course.traceparent is not None:
            parent = self._propagator.extract({"traceparent": course.traceparent})
        zero_ns = time.time_ns() - course.received * 1e9
        operation = OPERATIONS.get(course.route, course.route.strip("/"))
        span = self._tracer.start_span(
            f"{operation} {course.model}",
            parent if parent is not None else Context(),
            SpanKind.SERVER,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "vllm",
                "gen_ai.request.model": course.model,
                "gen_ai.request.id": course.request_id,  # vLLM's word for it
                "http.request.method": "POST",
                "http.route": course.route,
                "arena.stream": course.stream,
            },
            start_time=int(zero_ns + course.received * 1e9),
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span, Context()))
        course.traceparent = carrier.get("traceparent", course.traceparent)
        self._running[id(course)] = (span, zero_ns)

    def ended(self, course: Course) -> None:
        """See `Listener`."""
        span, zero_ns = self._running.pop(id(course))
        assert course.ended is not None
        if span.is_recording():
            self._add_steps(course, course.ended, span, zero_ns)
            span.set_attributes(_outcome(course))
            if course.status >= 500:
                span.set_status(Status(StatusCode.ERROR, course.error))
        span.end(int(zero_ns + course.ended * 1e9))

    def close(self) -> None:
        """Send what is left; waits FLUSH_S at most."""
        # A collector that takes connections and does not answer would keep the SDK waiting for longer.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_S)

    def _add_steps(self, course: Course, ended: float, root: Span, zero_ns: float) -> None:
        context = set_span_in_context(root, Context())
        moments = [course.received, course.granted, course.first_token, ended]
        for name, (begin, end) in zip(("queue", "prefill", "generate"), pairwise(moments), strict=True):
            if begin is not None:  # one that did not come to its end lasted until the course's
                upto = ended if end is None else end
                child = self._tracer.start_span(name, context, start_time=int(zero_ns + begin * 1e9))
                child.end(int(zero_ns + upto * 1e9))


class Sends(Protocol):
    """What sends spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them; waits for the answer."""
        ...

    def shutdown(self) -> None:
        """No more."""
        ...


class PatientExporter(SpanExporter):
    """Sends spans by another exporter, and says now and again that it could not, however often that was."""

    def __init__(self, exporter: Sends, url: str, clock: Clock) -> None:
        self._exporter = exporter
        self._url = url
        self._clock = clock
        self._lost = 0
        self._warned: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                logger.info("Traces reach %s again; %d spans were lost", self._url, self._lost)
            self._lost, self._warned = 0, None
            return result
        self._lost += len(spans)
        now = self._clock.now()
        if self._warned is None or now - self._warned >= WARN_EVERY_S:
            self._warned = now
            logger.warning("Traces do not reach %s (tracing.endpoint); %d spans are lost", self._url, self._lost)
        return result

    def shutdown(self) -> None:
        """See `SpanExporter`."""
        self._exporter.shutdown()


def traces_url(endpoint: str) -> str:
    """Where traces are sent: a base URL gets the path of OTLP's specification."""
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + "/v1/traces"


def _about() -> Mapping[str, str]:
    """Attributes of the daemon, without those that the environment has: given here, they would win."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {"service.version": __version__} | ({} if named else {"service.name": "arena-server"})


def _outcome(course: Course) -> Mapping[str, str | int]:
    about: dict[str, str | int] = {"http.response.status_code": course.status}
    if course.status >= 400:
        about["error.type"] = course.error or str(course.status)
    return about
