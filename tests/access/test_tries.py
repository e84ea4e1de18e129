"""Who shows wrong keys is not listened to for a while, and nobody else suffers for it."""

from __future__ import annotations

import contextlib

import pytest

from arena_server.access import tries as tries_module
from arena_server.access.tries import TooManyTries, Tries
from tests.support.daemon_app import Hands

HERE, THERE = "1.1.1.1", "2.2.2.2"


class World:
    """Tries of which 3 a minute may fail, with their time in the test's hands."""

    def __init__(self) -> None:
        self.clock = Hands()
        self.tries = Tries(self.clock, 3)

    def fail(self, key: str, address: str = HERE) -> bool:
        self.tries.check(address, key)
        return self.tries.failed(address, key)

    def succeed(self, key: str, address: str = HERE) -> None:
        self.tries.check(address, key)
        self.tries.accepted(address, key)

    def shut(self, key: str, address: str = HERE) -> float | None:
        with pytest.raises(TooManyTries) as raised:
            self.tries.check(address, key)
        assert (raised.value.status, raised.value.code) == (429, "too_many_failed_tries")
        return raised.value.retry_after_s


def test_so_many_wrong_keys_shut_an_address_for_keys_that_are_new_there() -> None:
    world = World()
    assert [world.fail(f"wrong {i}") for i in range(3)] == [False, False, True]
    assert world.shut("wrong 4") == 20
    assert world.shut("right") == 20
    world.succeed("right", THERE)
    world.clock.time += 20
    world.succeed("right")
    assert world.fail("wrong 5")
    world.shut("wrong 6")


def test_a_key_that_was_good_there_stays_so() -> None:
    world = World()
    world.succeed("right")
    for i in range(3):
        world.fail(f"wrong {i}")
    world.succeed("right")
    world.shut("another")


def test_a_program_with_a_wrong_key_shuts_itself_out_and_nobody_else() -> None:
    world = World()
    assert [world.fail("wrong") for _ in range(3)] == [False, False, True]
    assert world.shut("wrong") == 20
    world.succeed("right")
    world.clock.time += 20
    world.fail("wrong")
    world.shut("wrong")


def test_a_program_that_never_gives_up_shuts_nobody_out_in_an_hour() -> None:
    world = World()
    for second in range(3600):
        world.clock.time += 1
        with contextlib.suppress(TooManyTries):
            world.fail("wrong")
        world.succeed(f"right {second}")


def test_a_good_key_that_was_revoked_is_wrong_like_others() -> None:
    world = World()
    world.succeed("once good")
    for _ in range(3):
        world.fail("once good")
    world.shut("once good")


def test_who_stops_is_forgiven() -> None:
    world = World()
    for i in range(3):
        world.fail(f"wrong {i}")
    world.clock.time += 60
    assert [world.fail(f"wrong {i}") for i in range(3)] == [False, False, True]


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries_module, "MOST_KEPT", 100)
    world = World()
    for i in range(1000):
        world.fail(f"wrong {i}", f"10.0.0.{i}")
        world.succeed(f"right {i}", f"10.0.0.{i}")
    assert [len(kept) for kept in (world.tries._addresses, world.tries._wrong, world.tries._accepted)] == [100] * 3
