"""A listener that keeps what it hears of requests."""

from __future__ import annotations

from collections import Counter

from arena_server.course import Course
from tests.support.gate import until


class Heard:
    """Courses in the order in which they began, and in which they ended."""

    def __init__(self) -> None:
        self.begun: list[Course] = []
        self.done: list[Course] = []

    def began(self, course: Course) -> None:
        """See `Listener`."""
        self.begun.append(course)

    def ended(self, course: Course) -> None:
        """See `Listener`."""
        self.done.append(course)

    async def whole(self, count: int = 1) -> list[Course]:
        """The courses in the order of their beginnings, as soon as `count` have ended; no other may have begun."""
        await until(lambda: len(self.done) >= count, f"{count} courses to end")
        self.check()
        assert len(self.done) == count
        return self.begun

    def check(self) -> None:
        """Every course has ended, once."""
        assert Counter(map(id, self.begun)) == Counter(map(id, self.done))
