"""Whatever hangs: nobody waits longer than the wait limit, of 30 s here, for an answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from arena_server.pool.events import Away, Refusal

from .scenes import asleep, finish_transitions, hold, model, reconfigure, scene, sleeper, wake
from .world import ASLEEP, AWAKE, FALLING_ASLEEP, LOADING, STOPPING, WAKING, World


def two_sleepers() -> World:
    return scene(sleeper("a"), sleeper("b"), room=15, max_wait_s=30.0)


def a_load_hangs() -> World:
    world = two_sleepers()
    world.request("a")
    assert world.at(LOADING) == ["a"]
    return world


def a_victim_hangs_while_it_falls_asleep() -> World:
    world = two_sleepers()
    wake(world, "a")
    world.request("b")
    assert world.at(FALLING_ASLEEP) == ["a"]
    return world


def a_victim_hangs_while_it_stops() -> World:
    world = scene("a", "b", room=1, max_wait_s=30.0)
    wake(world, "a")
    world.request("b")
    assert world.at(STOPPING) == ["a"]
    return world


def a_sleeper_hangs_while_it_stops_for_its_ram() -> World:
    world = scene(sleeper("a"), sleeper("b", {1: 10}), sleeper("c"), room=(15, 15), ram=1, max_wait_s=30.0)
    asleep(world, "b")
    wake(world, "a")
    world.request("c")
    assert world.at(STOPPING) == ["b"]
    return world


def a_wake_hangs() -> World:
    world = two_sleepers()
    asleep(world, "a")
    world.request("a")
    assert world.at(WAKING) == ["a"]
    return world


def a_failed_wake_hangs_while_it_stops() -> World:
    world = a_wake_hangs()
    world.wake_failed("a")
    assert world.at(STOPPING) == ["a"]
    return world


def a_failed_wake_hangs_while_it_loads_again() -> World:
    world = a_failed_wake_hangs_while_it_stops()
    world.tick(20.0)
    world.stopped("a")
    assert world.at(LOADING) == ["a"]
    return world


def a_failed_sleep_hangs_while_it_stops() -> World:
    world = a_victim_hangs_while_it_falls_asleep()
    world.sleep_failed("a")
    assert world.at(STOPPING) == ["a"]
    return world


def one_that_died_in_its_sleep_hangs_while_it_stops() -> World:
    world = two_sleepers()
    asleep(world, "a")
    world.crashed("a")
    world.request("a")
    assert world.at(STOPPING) == ["a"]
    return world


def one_that_crashed_hangs_while_it_stops() -> World:
    world = two_sleepers()
    wake(world, "a")
    world.crashed("a")
    world.request("a")
    assert world.at(STOPPING) == ["a"]
    return world


def the_second_try_after_out_of_memory_hangs() -> World:
    world = two_sleepers()
    world.request("a")
    world.load_failed("a", out_of_memory=True)
    world.tick(20.0)
    world.stopped("a")
    assert world.at(LOADING) == ["a"]
    return world


def one_that_leaves_for_who_ran_out_of_memory_hangs() -> World:
    world = scene("a", "b", room=9, max_wait_s=30.0)
    wake(world, "b")
    world.request("a")
    world.load_failed("a", out_of_memory=True)
    world.stopped("a")
    assert world.at(STOPPING) == ["b"]
    return world


def others_hold_the_memory() -> World:
    world = two_sleepers()
    world.outside({0: 15})
    world.request("a")
    return world


def others_took_the_memory_of_a_sleeper() -> World:
    world = two_sleepers()
    asleep(world, "a")
    world.outside({0: 15})
    world.request("a")
    assert world.at(ASLEEP) == ["a"]
    return world


def an_evictor_bears_with_a_busy_model_for_longer_than_it_may_wait() -> World:
    world = scene("a", "b", room=1, patience_s=1000.0, max_wait_s=30.0)
    hold(world, "a")
    world.request("b")
    return world


def a_draining_model_never_finishes() -> World:
    world = two_sleepers()
    hold(world, "a")
    world.request("b")
    world.tick(5.0)
    world.request("a")
    return world


def all_room_is_pinned_and_in_use_on_an_operators_order() -> World:
    world = scene("a", "b", "c", max_wait_s=30.0)
    hold(world, "a", "b")
    world.pin("a", True)
    world.request("c")
    return world


def one_that_is_told_to_leave_never_finishes() -> World:
    world = two_sleepers()
    hold(world, "a")
    world.put_away("a", Away.STOPPED)
    world.request("a")
    world.request("b")
    return world


def one_that_changes_never_finishes() -> World:
    world = two_sleepers()
    hold(world, "a")
    reconfigure(world, sleeper("a", {0: 12}), sleeper("b"), changed="a")
    world.request("a")
    world.request("b")
    return world


def one_that_changes_hangs_while_its_load_is_called_off() -> World:
    world = two_sleepers()
    world.request("a")
    reconfigure(world, sleeper("a", {0: 12}), sleeper("b"), changed="a")
    assert world.at(STOPPING) == ["a"]
    return world


def one_that_goes_never_finishes_and_another_wants_its_room() -> World:
    world = two_sleepers()
    hold(world, "a")
    reconfigure(world, sleeper("b"))
    world.request("b")
    return world


def a_model_came_up_for_a_pair_whose_other_half_hangs() -> World:
    world = scene("a", "b", "c", max_wait_s=30.0)
    world.request("a", "b")
    world.loaded("a")
    world.request("a", "c")
    assert (world.at(AWAKE), world.at(LOADING)) == (["a"], ["b"])
    return world


SITUATIONS = [
    a_load_hangs,
    a_victim_hangs_while_it_falls_asleep,
    a_victim_hangs_while_it_stops,
    a_sleeper_hangs_while_it_stops_for_its_ram,
    a_wake_hangs,
    a_failed_wake_hangs_while_it_stops,
    a_failed_wake_hangs_while_it_loads_again,
    a_failed_sleep_hangs_while_it_stops,
    one_that_died_in_its_sleep_hangs_while_it_stops,
    one_that_crashed_hangs_while_it_stops,
    the_second_try_after_out_of_memory_hangs,
    one_that_leaves_for_who_ran_out_of_memory_hangs,
    others_hold_the_memory,
    others_took_the_memory_of_a_sleeper,
    an_evictor_bears_with_a_busy_model_for_longer_than_it_may_wait,
    a_draining_model_never_finishes,
    all_room_is_pinned_and_in_use_on_an_operators_order,
    one_that_is_told_to_leave_never_finishes,
    one_that_changes_never_finishes,
    one_that_changes_hangs_while_its_load_is_called_off,
    one_that_goes_never_finishes_and_another_wants_its_room,
    a_model_came_up_for_a_pair_whose_other_half_hangs,
]
hanging = pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)


@hanging
def test_whoever_waits_is_answered_within_the_wait_limit(situation: Callable[[], World]) -> None:
    world = situation()
    assert world.waiting
    while waiting := set(world.waiting):
        first = min(world.tickets[ticket].asked_at for ticket in waiting)
        assert world.deadline() <= first + 30.0  # somebody looks, although nothing happens
        world.tick(until=world.deadline())
        for ticket in waiting - world.waiting.keys():
            assert world.now <= world.tickets[ticket].asked_at + 30.0
            assert world.granted(ticket) or world.refused[ticket].refusal is Refusal.WAIT_LIMIT


@hanging
def test_whoever_comes_afterwards_is_served_when_it_hangs_no_longer(situation: Callable[[], World]) -> None:
    world = situation()
    while world.waiting:
        world.tick(until=world.deadline())
    world.outside({})
    for ticket in list(world.live):
        world.release(ticket)
    finish_transitions(world)
    for name in world.models:
        ticket = world.request(name)
        finish_transitions(world)
        assert world.granted(ticket)
        world.release(ticket)


@hanging
def test_when_nobody_waits_any_more_nothing_is_due(situation: Callable[[], World]) -> None:
    world = situation()
    for ticket in list(world.waiting):
        world.release(ticket)
    assert world.deadline() == math.inf


def test_nobody_waits_behind_one_that_cannot_be_served_because_of_others() -> None:
    world = scene("a", model("b", {1: 1}), model("c", {1: 1}), room=(1, 1), max_wait_s=30.0)
    wake(world, "b")
    world.outside({0: 1})
    first = world.request("a")
    world.tick(1.0)
    second = world.request("c")
    assert world.at(STOPPING) == ["b"]
    finish_transitions(world)
    assert world.granted(second)
    world.outside({})
    assert world.at(LOADING) == ["a"], "it kept its place"
    finish_transitions(world)
    assert world.granted(first)


def test_room_that_is_free_is_not_kept_for_one_that_cannot_be_served_because_of_others() -> None:
    world = scene(model("big", {0: 10}), model("small", {0: 2}), room=10)
    world.outside({0: 1})
    world.request("big")
    small = world.request("small")
    finish_transitions(world)
    assert world.granted(small)
