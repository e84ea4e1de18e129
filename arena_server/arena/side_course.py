"""The course of one side of a comparison or battle: begun before its model is asked for, ended whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from arena_server.course import CLIENT_LEFT, Course
from arena_server.errors import ArenaError, ShuttingDown
from arena_server.pool.pool import Pool


@contextlib.contextmanager
def ends_with(course: Course, pool: Pool) -> Iterator[Course]:
    """End the course as the block ends, unless it has ended.

    A block that is cancelled was left by its client, or given up because the other side failed, which is the same to
    this one's model; or the daemon is stopping.
    """
    try:
        yield course
    except ArenaError as e:
        course.end(e.status, e.code)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        if pool.closing:
            course.end(ShuttingDown.status, ShuttingDown.code)
        course.end(CLIENT_LEFT)
        raise
    except BaseException:
        course.end(500)
        raise
    course.end(200)
