"""How much a key, and an address, may ask in a time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_server.access import limits as limits_module
from arena_server.access.account import duration
from arena_server.access.limits import Limits, Ticket
from arena_server.access.refusals import OverLimit, OverQuota
from arena_server.caller import Caller
from arena_server.config_access import AccessConfig, LimitsConfig
from tests.support.daemon_app import Hands

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOON.date()
ANNE, BOB = Caller("anne", "1.1.1.1"), Caller("bob", "2.2.2.2")
NOBODY = Caller(None, "1.1.1.1")


class World:
    """Limits, with their time in the test's hands."""

    def __init__(self, key: LimitsConfig | None = None, address: LimitsConfig | None = None) -> None:
        self.clock = Hands()
        self.began = self.clock.time
        self.limits = Limits(self.access(key, address), self.clock, self.wall)

    @staticmethod
    def access(key: LimitsConfig | None = None, address: LimitsConfig | None = None) -> AccessConfig:
        return AccessConfig(key_limits=key or LimitsConfig(), address_limits=address or LimitsConfig())

    def wall(self) -> datetime:
        return NOON + timedelta(seconds=self.clock.time - self.began)

    def enter(self, caller: Caller = ANNE, own: LimitsConfig | None = None) -> Ticket:
        return self.limits.enter(caller, own)

    def come_and_go(self, caller: Caller = ANNE, own: LimitsConfig | None = None) -> None:
        with self.enter(caller, own):
            pass

    def refused(self, caller: Caller = ANNE, own: LimitsConfig | None = None) -> OverLimit:
        with pytest.raises(OverLimit) as raised:
            self.enter(caller, own)
        return raised.value


def headers(of: Ticket | OverLimit) -> dict[str, str]:
    found = of.headers() if isinstance(of, Ticket) else of.left
    assert len(dict(found)) == len(found)
    return {name.decode(): value.decode() for name, value in found}


def test_without_limits_one_may_ask_as_much_as_one_likes() -> None:
    world = World()
    for _ in range(10_000):
        ticket = world.enter()
    world.limits.take(ANNE, 1 << 40)
    assert not ticket.limited
    assert headers(world.enter()) == {}


# Requests


def test_so_many_requests_a_minute() -> None:
    world = World(LimitsConfig(requests_per_minute=3))
    for _ in range(3):
        world.come_and_go()
    refusal = world.refused()
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "rate_limit_exceeded", 20.0)
    assert "3 requests a minute" in refusal.message
    world.clock.time += 20
    world.come_and_go()
    world.refused()
    world.clock.time += 3600
    for _ in range(3):
        world.come_and_go()
    world.refused()


def test_a_refusal_costs_nothing() -> None:
    world = World(LimitsConfig(requests_per_minute=1), LimitsConfig(requests_per_minute=1000))
    world.come_and_go()
    for _ in range(50):
        world.refused()
    world.clock.time += 60
    assert headers(world.enter())["x-ratelimit-remaining-requests"] == "0"
    assert headers(world.enter(NOBODY))["x-ratelimit-remaining-requests"] == "998"


def test_keys_do_not_count_for_each_other() -> None:
    world = World(LimitsConfig(requests_per_minute=1))
    world.come_and_go(ANNE)
    world.come_and_go(BOB)
    world.refused(ANNE)


def test_a_key_s_own_limits_stand_in_place_of_those_of_all() -> None:
    world = World(LimitsConfig(requests_per_minute=1, tokens_per_day=1))
    own = LimitsConfig(requests_per_minute=2)
    world.limits.take(ANNE, 10)
    world.come_and_go(ANNE, own)
    world.come_and_go(ANNE, own)
    world.refused(ANNE, own)


@given(
    limit=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=300),
)
@settings(max_examples=100, deadline=None)
def test_in_no_minute_more_than_twice_as_many_come_in_and_whoever_waits_as_told_does(
    limit: int, pauses: list[float]
) -> None:
    world = World(LimitsConfig(requests_per_minute=limit))
    came: list[float] = []
    for pause in pauses:
        world.clock.time += pause
        try:
            world.come_and_go()
        except OverLimit as e:
            world.clock.time += (e.retry_after_s or 0.0) + 1e-6
            world.come_and_go()
        came.append(world.clock.time)
    for i, at in enumerate(came):
        # A full bucket, and what came back meanwhile: never more.
        assert sum(at <= other < at + 60 for other in came[i:]) <= 2 * limit


# Tokens


def test_tokens_are_taken_as_they_are_counted_and_debts_are_paid_back_first() -> None:
    world = World(LimitsConfig(tokens_per_minute=60))
    with world.enter():
        world.limits.take(ANNE, 59)
        world.come_and_go()
        world.limits.take(ANNE, 121)  # what an answer takes is known only then
    refusal = world.refused()
    assert refusal.retry_after_s == 121.0
    assert headers(refusal) == {
        "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "3m0s",
    }
    world.clock.time += 120.9
    world.refused()
    world.clock.time += 0.2
    world.come_and_go()


def test_so_many_tokens_a_day_until_midnight_in_utc() -> None:
    world = World(LimitsConfig(tokens_per_day=100))
    world.limits.take(ANNE, 99)
    world.come_and_go()
    world.limits.take(ANNE, 1)
    refusal = world.refused()
    assert isinstance(refusal, OverQuota)
    assert (refusal.status, refusal.code, refusal.kind) == (429, "insufficient_quota", "insufficient_quota")
    assert refusal.retry_after_s == 12 * 3600
    world.clock.time += 12 * 3600 - 1
    world.refused()
    world.clock.time += 1
    world.come_and_go()
    world.limits.take(ANNE, 99)
    world.come_and_go()


def test_a_new_day_begins_with_nothing_also_where_the_last_answer_goes_on() -> None:
    world = World(LimitsConfig(tokens_per_day=100))
    world.limits.take(ANNE, 99)
    world.clock.time += 12 * 3600
    world.limits.take(ANNE, 99)
    world.come_and_go()


def test_what_was_used_before_a_restart_counts() -> None:
    world = World(LimitsConfig(tokens_per_day=100))
    world.limits.restore(TODAY, {"anne": 60, "bob": 100})
    world.come_and_go(ANNE)
    world.refused(BOB)
    world.limits.take(ANNE, 40)
    world.refused(ANNE)


def test_what_was_used_on_another_day_does_not() -> None:
    world = World(LimitsConfig(tokens_per_day=100))
    world.limits.restore(date(2026, 11, 20), {"anne": 1000})
    world.come_and_go(ANNE)


# At the same time


def test_so_many_at_the_same_time() -> None:
    world = World(LimitsConfig(concurrent_requests=2))
    first, _second = world.enter(), world.enter()
    refusal = world.refused()
    assert (refusal.code, refusal.retry_after_s) == ("rate_limit_exceeded", 1.0)
    assert "2 requests at the same time" in refusal.message
    with first:
        world.refused()
    world.enter()
    world.refused()


def test_a_place_is_free_again_whatever_happens() -> None:
    world = World(LimitsConfig(concurrent_requests=1), LimitsConfig(concurrent_requests=1))
    for error in (RuntimeError, GeneratorExit, KeyboardInterrupt):
        with pytest.raises(error), world.enter():
            raise error
    world.come_and_go()


# Addresses


def test_addresses_have_limits_of_their_own_with_and_without_a_key() -> None:
    world = World(address=LimitsConfig(requests_per_minute=2))
    world.come_and_go(ANNE)
    world.come_and_go(NOBODY)
    assert "this address" in world.refused(ANNE).message
    world.refused(NOBODY)
    world.come_and_go(BOB)


def test_both_a_key_s_and_its_address_s_limits_hold_and_the_tighter_one_is_told() -> None:
    world = World(LimitsConfig(requests_per_minute=10), LimitsConfig(requests_per_minute=4, tokens_per_minute=600))
    for _ in range(3):
        world.come_and_go(Caller("carl", "1.1.1.1"))
    world.limits.take(ANNE, 60)
    assert headers(world.enter(ANNE)) == {
        "x-ratelimit-limit-requests": "4",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "540",
        "x-ratelimit-reset-tokens": "6s",
    }
    assert "this address" in world.refused(ANNE).message


def test_the_memory_for_addresses_is_bounded_and_who_is_there_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MOST_ADDRESSES", 100)
    world = World(address=LimitsConfig(concurrent_requests=1))
    with world.enter(NOBODY):
        for i in range(1000):
            world.come_and_go(Caller(None, f"10.0.{i // 256}.{i % 256}"))
            world.limits.take(Caller(None, f"11.0.{i // 256}.{i % 256}"), 1)
        world.refused(NOBODY)
        assert len(world.limits._past) == 100
        assert len(world.limits._present) == 1
    assert len(world.limits._present) == 0
    world.come_and_go(NOBODY)


def test_a_refused_address_is_not_remembered() -> None:
    world = World(LimitsConfig(concurrent_requests=1), LimitsConfig(requests_per_minute=5))
    with world.enter(ANNE):
        for i in range(10):
            world.refused(Caller("anne", f"10.0.0.{i}"))
    assert len(world.limits._past) == 1


# Changes


def test_other_limits_are_in_force_at_once_and_what_was_asked_still_counts() -> None:
    world = World(LimitsConfig(requests_per_minute=10))
    for _ in range(5):
        world.come_and_go()
    world.limits.configure(world.access(LimitsConfig(requests_per_minute=5)))
    world.refused()
    world.limits.configure(world.access(LimitsConfig(requests_per_minute=6)))
    world.come_and_go()
    world.refused()
    world.limits.configure(world.access())
    world.come_and_go()


def test_limits_of_addresses_may_come_and_go_while_requests_run() -> None:
    world = World()
    with world.enter(NOBODY):
        world.limits.configure(world.access(address=LimitsConfig(concurrent_requests=1)))
        with world.enter(NOBODY):
            world.refused(NOBODY)
            world.limits.configure(world.access())
            world.come_and_go(NOBODY)
        world.limits.configure(world.access(address=LimitsConfig(concurrent_requests=1)))
        world.come_and_go(NOBODY)
    world.come_and_go(NOBODY)
    assert len(world.limits._present) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (90.25, "1m30.25s"),
        (86400, "24h0m0s"),
        (3661.007, "1h1m1.007s"),
    ],
)
def test_durations_have_openai_s_form(seconds: float, text: str) -> None:
    assert duration(seconds) == text
