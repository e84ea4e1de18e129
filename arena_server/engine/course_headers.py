"""What an engine is told of the request that it gets."""

from __future__ import annotations

from arena_server.course import Course
from arena_server.engine.client import Header

# To be left out of what a client sent.
NAMES = frozenset({b"x-request-id", b"traceparent"})


def course_headers(course: Course) -> list[Header]:
    """The headers from which vLLM takes its own request id, and the parent of its spans."""
    headers = [(b"x-request-id", course.request_id.encode("latin-1"))]
    if course.traceparent is not None:
        headers.append((b"traceparent", course.traceparent.encode("latin-1")))
    return headers
