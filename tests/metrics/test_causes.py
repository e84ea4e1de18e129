"""Whatever the pool decides, its cause has a name: else a metric would speak of `other`."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from arena_server.pool.core import PoolCore
from arena_server.pool.events import Effect, Event, Load, Sleep, Stop, Wake
from arena_server.pool.why import Cause, cause_of
from tests.pool.machine import PoolMachine
from tests.pool.scenes import asleep, scene, sleeper, wake
from tests.pool.test_properties import SETTINGS


def causes(effects: list[Effect]) -> set[Cause]:
    return {cause_of(e.why) for e in effects if isinstance(e, Load | Sleep | Wake | Stop)}


def test_every_transition_has_a_cause_whatever_happens() -> None:
    seen: set[Cause] = set()

    class Observed(PoolCore):
        def handle(self, event: Event, now: float) -> list[Effect]:
            effects = super().handle(event, now)
            seen.update(causes(effects))
            return effects

    machine = type("CausesMachine", (PoolMachine,), {"core": Observed})
    run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=30, stateful_step_count=40))
    assert Cause.OTHER not in seen
    assert len(seen) > 5


def test_a_sleeper_that_gives_its_ram_to_another_says_so() -> None:
    world = scene(sleeper("a", ttl_s=60.0), sleeper("b", {1: 10}), room=(15, 15), ram=1)
    asleep(world, "b")
    wake(world, "a")
    world.tick(until=world.deadline())
    assert causes(world.effects) == {Cause.SLEEP_ROOM}
    world.stopped("b")
    assert causes(world.effects) == {Cause.IDLE}
