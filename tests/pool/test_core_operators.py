"""What operators order, and what comes of it for those who use or want the model."""

from __future__ import annotations

import pytest

from arena_server.pool.events import Away, Drains, Grant, Load, Refusal, Sleep, Stop, Wake

from .scenes import asleep, fail_to_load, finish_transitions, hold, model, orders, reasons, scene, sleeper, wake
from .world import ASLEEP, AWAKE, COLD, FALLING_ASLEEP, LOADING, STOPPING

GIB = 2**30
HOW = {Away.ASLEEP: Sleep("a"), Away.STOPPED: Stop("a")}

# Putting away


@pytest.mark.parametrize("how", Away)
def test_an_idle_model_leaves_at_once(how: Away) -> None:
    world = scene(sleeper("a"), room=15)
    wake(world, "a")
    world.put_away("a", how)
    assert orders(world) == [HOW[how]]
    assert reasons(world) == {"a": "an operator's order"}


@pytest.mark.parametrize("how", Away)
def test_running_requests_finish_first_and_no_new_ones_are_taken(how: Away) -> None:
    world = scene(sleeper("a"), room=15)
    (running,) = hold(world, "a")
    world.put_away("a", how)
    assert orders(world) == []
    late = world.request("a")
    assert not world.granted(late)
    world.release(running)
    assert orders(world) == [HOW[how]]
    finish_transitions(world)
    assert world.granted(late)


@pytest.mark.parametrize("how", Away)
def test_a_pinned_model_leaves_as_well(how: Away) -> None:
    world = scene(sleeper("a", pinned=True), room=15)
    wake(world, "a")
    world.put_away("a", how)
    assert orders(world) == [HOW[how]]


# FAILS, a suspected defect of the core: the reason is "evicted for a"; or none, where somebody else waited meanwhile.
def test_the_reason_is_an_operators_order_even_if_that_took_time() -> None:
    world = scene(sleeper("a"), room=15)
    (running,) = hold(world, "a")
    world.put_away("a", Away.STOPPED)
    world.request("a")
    world.release(running)
    assert reasons(world) == {"a": "an operator's order"}


# FAILS, a suspected defect of the core: `Drains` is told of those that leave for a waiter alone.
def test_it_is_told_that_a_model_takes_no_new_requests_until_it_has_left() -> None:
    world = scene(sleeper("a"), room=15)
    hold(world, "a")
    world.put_away("a", Away.STOPPED)
    assert world.effects == [Drains("a", "an operator's order")]


# FAILS, a suspected defect of the core: the same. It says that `a` takes requests again, and it does not.
def test_it_is_not_told_that_one_that_drained_takes_new_requests_when_an_operator_has_it_leave() -> None:
    world = scene("a", "b", room=1)
    hold(world, "a")
    world.request("b")
    world.tick(5.0)
    world.put_away("a", Away.STOPPED)
    assert Drains("a", None) not in world.effects


def test_one_that_cannot_sleep_is_stopped_instead() -> None:
    world = scene("a")
    wake(world, "a")
    world.put_away("a", Away.ASLEEP)
    assert orders(world) == [Stop("a")]


def test_a_sleeper_that_is_to_be_stopped_is() -> None:
    world = scene(sleeper("a"), room=15)
    asleep(world, "a")
    world.put_away("a", Away.STOPPED)
    assert orders(world) == [Stop("a")]


def test_a_sleeper_that_is_to_sleep_goes_on_sleeping_and_may_be_woken() -> None:
    world = scene(sleeper("a"), room=15)
    asleep(world, "a")
    world.put_away("a", Away.ASLEEP)
    assert orders(world) == []
    world.request("a")
    assert orders(world) == [Wake("a")]


def test_one_that_falls_asleep_and_is_to_be_stopped_is_when_it_sleeps() -> None:
    world = scene(sleeper("a"), room=15)
    wake(world, "a")
    world.put_away("a", Away.ASLEEP)
    world.put_away("a", Away.STOPPED)
    ticket = world.request("a")
    assert orders(world) == []
    world.slept("a")
    assert orders(world) == [Stop("a")]
    world.stopped("a")
    assert orders(world) == [Load("a")]
    world.loaded("a")
    assert world.granted(ticket)


def test_a_load_that_is_to_be_stopped_is_called_off_and_its_waiters_are_refused() -> None:
    world = scene("a", "b")
    waiting = [world.request("a"), world.request("a", "b")]
    world.put_away("a", Away.STOPPED)
    assert [world.refused[ticket].refusal for ticket in waiting] == [Refusal.UNAVAILABLE] * 2
    assert world.refused[waiting[0]].detail == "a was stopped: an operator's order."
    assert world.at(STOPPING) == ["a"]
    world.stopped("a")
    world.request("a")
    assert orders(world) == [Load("a")]


def test_a_wake_that_is_to_be_stopped_is_called_off_and_its_waiters_are_refused() -> None:
    world = scene(sleeper("a"), room=15)
    asleep(world, "a")
    ticket = world.request("a")
    world.put_away("a", Away.STOPPED)
    assert world.refused[ticket].refusal is Refusal.UNAVAILABLE
    assert world.at(STOPPING) == ["a"]


def test_a_cold_model_that_is_to_be_stopped_may_be_loaded_nevertheless() -> None:
    world = scene("a")
    world.put_away("a", Away.STOPPED)
    world.request("a")
    assert orders(world) == [Load("a")]


def test_one_that_drains_for_a_waiter_leaves_as_the_operator_says() -> None:
    world = scene(sleeper("a"), sleeper("b"), room=15)
    (running,) = hold(world, "a")
    evictor = world.request("b")
    world.tick(5.0)
    world.put_away("a", Away.STOPPED)
    world.release(evictor)
    world.release(running)
    assert orders(world) == [Stop("a")]


def test_what_leaves_on_an_order_makes_room_and_nobody_else_has_to_leave_for_it() -> None:
    world = scene(sleeper("a"), sleeper("b"), model("c", {0: 5}), room=25)
    wake(world, "a")
    (running,) = hold(world, "b")
    world.put_away("b", Away.ASLEEP)
    world.release(running)
    world.request("c")
    assert (world.at(AWAKE), world.at(FALLING_ASLEEP)) == (["a"], ["b"])


def test_what_one_that_is_to_sleep_will_still_hold_is_not_counted_on() -> None:
    world = scene(sleeper("a", asleep=3), "b", model("c", {0: 12}), model("d", {0: 1}), room=15)
    wake(world, "a", "b")
    world.request("d")
    world.put_away("a", Away.ASLEEP)  # once d has loaded
    world.request("c")
    world.loaded("d")
    assert world.at(FALLING_ASLEEP) == ["a"]
    world.slept("a")
    assert orders(world) == [Stop("a")]
    assert world.at(AWAKE) == ["b", "d"]


def test_one_that_is_told_to_leave_crashes_and_is_then_as_free_as_any() -> None:
    world = scene("a")
    hold(world, "a")
    world.put_away("a", Away.STOPPED)
    ticket = world.request("a")
    world.crashed("a")
    world.stopped("a")
    assert orders(world) == [Load("a")]
    world.loaded("a")
    assert world.granted(ticket)


def test_an_order_waits_until_the_device_is_at_rest() -> None:
    world = scene("a", "b")
    wake(world, "a")
    world.request("b")
    world.put_away("a", Away.STOPPED)
    assert orders(world) == []
    world.loaded("b")
    assert Stop("a") in orders(world)


# Pinning


def test_one_that_was_pinned_is_not_evicted_and_one_that_was_unpinned_is() -> None:
    world = scene("a", "b", "c")
    wake(world, "a", "b")
    world.pin("a", True)
    world.request("c")
    assert orders(world) == [Stop("b")]
    world = scene(model("a", pinned=True), "b", "c")
    wake(world, "a", "b")
    world.pin("a", False)
    world.request("c")
    assert orders(world) == [Stop("a")]


def test_one_that_is_pinned_while_it_drains_is_spared_and_granted_at_once() -> None:
    world = scene("a", "b", "c")
    hold(world, "a", "b")
    world.request("c")
    world.tick(5.0)
    waiting = world.request("a")
    assert not world.granted(waiting)
    world.pin("a", True)
    assert orders(world) == [Grant(waiting)]


def test_a_pinned_sleeper_is_not_stopped_for_another() -> None:
    world = scene(sleeper("a"), sleeper("b"), model("c", {0: 5}), room=15)
    asleep(world, "a")
    wake(world, "b")
    world.pin("a", True)
    world.request("c")
    assert orders(world) == [Sleep("b")]


def test_a_pin_refuses_those_that_never_fit_beside_it_and_names_the_sizes() -> None:
    world = scene(model("a", {0: 3 * GIB}), model("b", {0: 2 * GIB}), "c", room=4 * GIB)
    hold(world, "a")
    impossible, possible = world.request("b"), world.request("c")
    world.pin("a", True)
    refused = world.refused[impossible]
    assert refused.refusal is Refusal.NEVER_FITS
    assert refused.detail == "On device 0: b 2.0 GiB, a 3.0 GiB (pinned); the budget is 4.0 GiB."
    finish_transitions(world)
    assert world.granted(possible)


def test_unpinning_lets_those_in_who_never_fitted_beside_it() -> None:
    world = scene(model("a", pinned=True), "b", room=1)
    assert world.refused[world.request("b")].refusal is Refusal.NEVER_FITS
    world.pin("a", False)
    world.request("b")
    assert orders(world) == [Load("b")]


# Resetting


def test_a_reset_lets_a_failed_model_be_tried_at_once() -> None:
    world = scene("a")
    fail_to_load(world, "a")
    fail_to_load(world, "a")
    assert world.refused[world.request("a")].refusal is Refusal.UNAVAILABLE
    world.reset("a")
    world.request("a")
    assert orders(world) == [Load("a")]


def test_after_a_reset_one_failure_is_a_first_one() -> None:
    world = scene("a")
    fail_to_load(world, "a")
    fail_to_load(world, "a")
    world.reset("a")
    fail_to_load(world, "a")
    world.request("a")
    assert orders(world) == [Load("a")]


def test_a_reset_while_a_failed_engine_is_being_stopped_counts_too() -> None:
    world = scene("a")
    fail_to_load(world, "a")
    world.request("a")
    world.load_failed("a")
    world.reset("a")
    world.stopped("a")
    assert world.at(COLD) == ["a"]
    world.request("a")
    assert orders(world) == [Load("a")]


def test_a_reset_of_a_model_that_is_well_changes_nothing() -> None:
    world = scene("a", sleeper("b"), "c", room=30)
    (running,) = hold(world, "a")
    asleep(world, "b")
    world.request("c")
    for name in "abc":
        world.reset(name)
        assert world.effects == []
    assert (world.at(AWAKE), world.at(ASLEEP), world.at(LOADING)) == (["a"], ["b"], ["c"])
    assert running in world.live
