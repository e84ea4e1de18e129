"""What is counted of a request, when, and that none of it is lost or written twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from arena_server.caller import Caller
from arena_server.course import Course, Courses
from arena_server.request_id import Origin
from arena_server.store.errors import StoreUnavailable
from arena_server.store.store import Store
from arena_server.store.usage_record import ANONYMOUS, Place, Used
from arena_server.usage import meter as meter_module
from arena_server.usage.ledger import Ledger
from arena_server.usage.meter import UsageMeter
from arena_server.usage.price import Prices
from tests.support.daemon_app import Hands
from tests.support.gate import until

DAY = date(2026, 11, 21)
ALICE = Caller(key="k1", address="10.0.0.1")
PICO = 10**6  # of a token at a price of 1 for a million


class Wall:
    """The time of day, which the test moves."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 21, 23, 59, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


class Book(Ledger):
    """A ledger that fails as the test says: before it has written, or after."""

    def __init__(self) -> None:
        super().__init__(Store("sqlite://"))
        self.fails = ""
        self.tries = 0
        self.held: asyncio.Event | None = None
        self.written: dict[Place, Used] = {}
        self.numbers: list[int] = []

    async def add(self, number: int, now: datetime, batch: Mapping[Place, Used]) -> None:
        self.tries += 1
        if self.fails == "oddly":
            raise LookupError("no error of ours")
        if self.fails == "before":
            raise StoreUnavailable("gone")
        if number not in self.numbers:
            self.numbers.append(number)
            for place, used in batch.items():
                self.written[place] = self.written.get(place, Used()) + used
        if self.held is not None:
            await self.held.wait()
        if self.fails == "after":
            raise StoreUnavailable("gone, after the commit")

    def of(self, model: str = "alpha", key: str = "k1", day: date = DAY) -> Used:
        return self.written.get(Place(day, key, model), Used())


class Bench:
    """A meter, and what is around it."""

    def __init__(self) -> None:
        self.book, self.clock, self.wall = Book(), Hands(), Wall()
        self.taken: list[tuple[str | None, int]] = []
        self.takes_fail, self.tries = "", 0
        self.prices: dict[str, Prices] = {
            "alpha": Prices(Decimal(1), Decimal(2)),
            "beta": Prices(Decimal(10), Decimal(20)),
        }
        self.meter = UsageMeter(self.book, self.clock, self.wall, self.prices.get, self.take)
        self.courses = Courses(self.clock, [self.meter])

    def take(self, caller: Caller, tokens: int) -> None:
        self.tries += 1
        if self.takes_fail:
            raise LookupError("no error of ours")
        self.taken.append((caller.key, tokens))

    def begin(self, model: str = "alpha", caller: Caller = ALICE, granted: bool = True) -> Course:
        course = self.courses.begin(Origin("id", caller=caller), "/v1/chat/completions", model, stream=True)
        if granted:
            course.is_granted()
        return course


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_an_answer_is_counted_while_it_comes(bench: Bench) -> None:
    course = bench.begin()
    course.counts(100, 3)
    bench.clock.time += 2
    await bench.meter.flush()
    assert bench.book.of() == Used(1, 100, 3, 2.0, 106 * PICO)
    course.counts(100, 10)
    bench.clock.time += 1
    await bench.meter.flush()
    assert bench.book.of() == Used(1, 100, 10, 3.0, 120 * PICO)
    course.counts(100, 11)
    bench.clock.time += 0.5
    course.end(200)
    assert bench.taken == [("k1", 103), ("k1", 7), ("k1", 1)], "at once when it ends"
    await bench.meter.flush()
    assert bench.book.of() == Used(1, 100, 11, 3.5, 122 * PICO)


async def test_nothing_new_is_not_written(bench: Bench) -> None:
    bench.begin().end(200)
    bench.begin(granted=False)
    for _ in range(3):
        await bench.meter.flush()
    assert bench.book.numbers == [1]


async def test_what_reached_no_model_is_no_request(bench: Bench) -> None:
    bench.begin(granted=False).end(503)
    await bench.meter.flush()
    assert not bench.book.written
    bench.begin().end(400)
    bench.begin().end(499)
    await bench.meter.flush()
    assert bench.book.of().requests == 2


async def test_an_answer_from_the_cache_is_a_request_without_tokens(bench: Bench) -> None:
    course = bench.begin(granted=False)
    course.cached = True
    course.counts(100, 10)
    bench.clock.time += 1
    course.end(200)
    await bench.meter.flush()
    assert bench.book.of() == Used(requests=1)
    assert bench.taken == []


async def test_an_answer_in_anothers_place_is_counted_and_paid_as_that_ones(bench: Bench) -> None:
    """Over midnight; neither the time with the first model nor the wait for the second is seconds of answering."""
    course = bench.begin()
    bench.clock.time += 30
    await bench.meter.flush()
    bench.wall.time += timedelta(minutes=2)
    course.is_served_by("beta")
    bench.clock.time += 100
    await bench.meter.flush()
    course.is_granted()
    bench.clock.time += 1
    course.counts(5, 1)
    course.end(200)
    await bench.meter.flush()
    tomorrow = DAY + timedelta(days=1)
    assert bench.book.written == {Place(tomorrow, "k1", "beta"): Used(1, 5, 1, 1.0, 70 * PICO)}


async def test_what_no_model_took_in_the_end_is_no_request(bench: Bench) -> None:
    course = bench.begin()
    course.is_served_by("beta")
    course.is_granted()
    course.is_served_by("alpha")
    bench.clock.time += 5
    course.end(429)
    await bench.meter.flush()
    assert not bench.book.written


async def test_an_answer_of_a_model_that_is_removed_meanwhile_has_its_price(bench: Bench) -> None:
    """Before anything of it was counted; and of a model in its place, while that is waited for."""
    second = bench.begin()
    second.is_served_by("beta")
    await bench.meter.flush()
    second.is_granted()
    first = bench.begin()
    bench.prices.clear()
    for course in (first, second):
        course.counts(5, 1)
        course.end(200)
    await bench.meter.flush()
    assert (bench.book.of("alpha").cost_pico, bench.book.of("beta").cost_pico) == (7 * PICO, 70 * PICO)


async def test_a_server_that_corrects_its_counts(bench: Bench) -> None:
    """Pieces of text count as tokens until it tells."""
    course = bench.begin()
    course.counts(0, 12)
    await bench.meter.flush()
    course.counts(7, 4)
    course.end(200)
    await bench.meter.flush()
    assert bench.book.of() == Used(1, 7, 4, 0.0, 15 * PICO)
    assert bench.taken == [("k1", 12), ("k1", -1)]


async def test_the_price_is_that_of_the_moment_and_the_last_one_of_a_model_that_is_gone(bench: Bench) -> None:
    course = bench.begin()
    course.counts(10, 0)
    await bench.meter.flush()
    bench.prices["alpha"] = Prices(Decimal(5), Decimal(5))
    course.counts(10, 1)
    await bench.meter.flush()
    assert bench.book.of().cost_pico == 15 * PICO
    del bench.prices["alpha"]
    course.counts(10, 2)
    course.end(200)
    await bench.meter.flush()
    assert bench.book.of().cost_pico == 20 * PICO


async def test_a_day_ends_at_midnight_utc_in_the_middle_of_an_answer(bench: Bench) -> None:
    course = bench.begin(caller=Caller(address="10.0.0.1"))
    course.counts(10, 1)
    await bench.meter.flush()
    bench.wall.time += timedelta(minutes=2)
    course.counts(10, 5)
    course.end(200)
    await bench.meter.flush()
    assert bench.book.of(key=ANONYMOUS) == Used(1, 10, 1, 0.0, 12 * PICO)
    assert bench.book.of(key=ANONYMOUS, day=DAY + timedelta(days=1)) == Used(0, 0, 4, 0.0, 8 * PICO)


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_a_store_that_fails_loses_nothing_and_doubles_nothing(bench: Bench, fails: str) -> None:
    course = bench.begin()
    course.counts(10, 1)
    bench.book.fails = fails
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await bench.meter.flush()
        course.counts(10, course.tokens.completion_tokens + 1)
    bench.book.fails = ""
    await bench.meter.flush()
    assert bench.book.of() == Used(1, 10, 4, 0.0, 18 * PICO)
    assert bench.book.numbers == [1, 2]


async def test_a_flush_that_is_cancelled_loses_nothing_and_doubles_nothing(bench: Bench) -> None:
    bench.begin().end(200)
    bench.book.held = asyncio.Event()
    flush = asyncio.ensure_future(bench.meter.flush())
    await asyncio.sleep(0)
    flush.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flush
    bench.book.held = None
    bench.begin().end(200)
    await bench.meter.flush()
    assert bench.book.of().requests == 2


async def test_flushes_at_the_same_time(bench: Bench) -> None:
    for _ in range(10):
        bench.begin().end(200)
        bench.begin().has_token()
    await asyncio.gather(*(bench.meter.flush() for _ in range(5)))
    assert bench.book.of().requests == 20


async def test_limits_hold_while_the_store_fails(bench: Bench) -> None:
    bench.begin().end(200)
    course = bench.begin()
    bench.book.fails = "before"
    for number in (1, 2, 3):
        course.counts(1000, 1000 * number)
        with pytest.raises(StoreUnavailable):
            await bench.meter.flush()
    assert bench.taken == [("k1", 2000), ("k1", 1000), ("k1", 1000)]


async def test_limits_hold_while_the_store_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "FLUSH_EVERY_S", 0.001)
    bench.book.held = asyncio.Event()
    bench.begin().end(200)
    task = asyncio.create_task(bench.meter.run())
    await until(lambda: bool(bench.book.numbers), "the store to be asked")
    bench.begin().counts(10, 1)
    await until(lambda: bench.taken == [("k1", 11)], "the tokens to be taken")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_defect_is_the_end_of_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver's own error, and one while counting: said once with where it was; then all goes on."""
    monkeypatch.setattr(meter_module, "FLUSH_EVERY_S", 0.001)
    bench.book.fails = bench.takes_fail = "oddly"
    course = bench.begin()
    task = asyncio.create_task(bench.meter.run())
    bench.begin().end(200)
    await until(lambda: bench.book.tries > 2, "the store to be asked again and again")
    course.counts(10, 1)
    await until(lambda: bench.tries, "the tokens to be taken")
    bench.book.fails = bench.takes_fail = ""
    course.counts(10, 2)
    await until(lambda: bench.book.of().completion_tokens == 2, "the tokens to be written")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    said = [record for record in caplog.records if record.exc_info is not None]
    assert sorted({record.getMessage() for record in said}) == [
        "Usage cannot be counted",
        "Usage is kept in memory until it can be written",
    ]
    assert len(said) == 2


async def test_trouble_is_said_once_and_the_end_says_what_is_lost(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench.book.fails = "before"
    bench.begin().end(200)
    for _ in range(3):
        await bench.meter._try()
    bench.book.fails = ""
    await bench.meter._try()
    bench.book.fails = "before"
    bench.begin().end(200)
    await bench.meter.close()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "Usage is kept in memory until it can be written: gone",
        "Usage is written again",
        "Usage is kept in memory until it can be written: gone",
        "Usage that could not be written is lost: "
        "Used(requests=1, prompt_tokens=0, completion_tokens=0, seconds=0.0, cost_pico=0)",
    ]


@pytest.mark.parametrize("seed", range(5))
async def test_any_course_of_things(bench: Bench, seed: int) -> None:
    """Sums are those of the courses, whatever fails in between."""
    chance = random.Random(seed)
    courses: list[Course] = []
    for _ in range(300):
        what, running = chance.random(), [course for course in courses if course.ended is None]
        if what < 0.3:
            courses.append(bench.begin(chance.choice(["alpha", "beta"]), Caller(key=chance.choice(["k1", "k2"]))))
        elif what < 0.6 and running:
            course = chance.choice(running)
            course.counts(7, course.tokens.completion_tokens + chance.randrange(4))
        elif what < 0.75 and running:
            chance.choice(running).end(200)
        else:
            bench.book.fails = chance.choice(["", "", "before", "after"])
            with contextlib.suppress(StoreUnavailable):
                await bench.meter.flush()
    for course in courses:
        course.end(200)
    bench.book.fails = ""
    await bench.meter.close()
    for model, key in itertools.product(("alpha", "beta"), ("k1", "k2")):
        of = [course for course in courses if (course.model, course.caller.key) == (model, key)]
        prompt, completion = sum(c.tokens.prompt_tokens for c in of), sum(c.tokens.completion_tokens for c in of)
        cost = bench.prices[model].cost_pico(prompt, completion)
        assert bench.book.of(model, key) == Used(len(of), prompt, completion, 0.0, cost)
    told = [course.tokens for course in courses]
    assert sum(n for _, n in bench.taken) == sum(t.prompt_tokens + t.completion_tokens for t in told)
