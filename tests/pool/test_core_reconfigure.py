"""The configuration changes while the daemon runs: what stays, what goes, and what becomes of those who wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arena_server.pool.events import Away, Grant, Limits, Load, Refusal, Removed, Replaced, Stop, Wake
from arena_server.pool.residency import Residency

from .scenes import (
    asleep,
    fail_to_load,
    finish_transitions,
    hold,
    model,
    orders,
    reasons,
    reconfigure,
    scene,
    sleeper,
    wake,
)
from .world import ASLEEP, AWAKE, COLD, FALLING_ASLEEP, LOADING, STOPPING, WAKING, World

GIB = 2**30

# What stays


def test_a_model_that_is_the_same_goes_on_untouched_even_under_lease() -> None:
    world = scene("a", "b", room=9)
    (running,) = hold(world, "a")
    waiting = world.request("a", "b")
    reconfigure(world, "a", "b", "c")
    assert world.effects == []
    world.loaded("b")
    assert world.granted(waiting)
    assert world.live.keys() == {running, waiting}


def test_others_go_on_untouched_while_one_changes() -> None:
    world = scene("a", "b", sleeper("c"), room=30)
    hold(world, "a")
    asleep(world, "c")
    wake(world, "b")
    reconfigure(world, "a", model("b", {0: 2}), sleeper("c"), changed="b")
    assert orders(world) == [Stop("b")]
    assert (world.at(AWAKE), world.at(ASLEEP)) == (["a"], ["c"])


def test_what_needs_no_new_engine_counts_from_now_on() -> None:
    world = scene("a", "b", room=9)
    wake(world, "a", "b")
    reconfigure(world, model("a", ttl_s=60.0), model("b", pinned=True))
    assert orders(world) == []
    world.tick(60.0)
    assert orders(world) == [Stop("a")]
    assert not world.core.models["b"].idle


def test_what_was_measured_and_counted_of_it_stays_too() -> None:
    world = scene("a", room=9)
    fail_to_load(world, "a")
    fail_to_load(world, "a", "no such file")
    reconfigure(world, "a", "b")
    assert world.refused[world.request("a")].detail == "no such file"


# What comes


def test_a_new_model_may_be_asked_for_at_once() -> None:
    world = scene("a", room=9)
    reconfigure(world, "a", "b")
    world.request("b")
    assert orders(world) == [Load("b")]


def test_a_new_pinned_model_refuses_those_that_never_fit_beside_it() -> None:
    world = scene(model("a", {0: 3 * GIB}), "c", room=4 * GIB)
    hold(world, "c")
    world.outside({0: 4 * GIB})
    ticket = world.request("a")
    reconfigure(world, model("a", {0: 3 * GIB}), "c", model("b", {0: 2 * GIB}, pinned=True))
    refused = world.refused[ticket]
    assert refused.refusal is Refusal.NEVER_FITS
    assert refused.detail == "On device 0: a 3.0 GiB, b 2.0 GiB (pinned); the budget is 4.0 GiB."


# What goes


def test_a_cold_model_that_goes_has_gone_at_once() -> None:
    world = scene("a", "b")
    reconfigure(world, "b")
    assert orders(world) == [Removed("a")]


def test_one_that_failed_too_often_has_gone_at_once() -> None:
    world = scene("a", "b")
    fail_to_load(world, "a")
    fail_to_load(world, "a")
    reconfigure(world, "b")
    assert orders(world) == [Removed("a")]


def test_an_idle_model_that_goes_is_stopped_and_has_gone_then() -> None:
    world = scene("a", "b")
    wake(world, "a")
    reconfigure(world, "b")
    assert orders(world) == [Stop("a")]
    assert reasons(world) == {"a": "its configuration changed"}
    world.stopped("a")
    assert orders(world) == [Removed("a")]


def test_running_requests_of_one_that_goes_finish_first_and_it_takes_no_new_ones() -> None:
    world = scene("a", "b")
    (running,) = hold(world, "a")
    reconfigure(world, "b")
    assert orders(world) == []
    refused = world.refused[world.request("a")]
    assert (refused.refusal, refused.detail) == (Refusal.UNAVAILABLE, "a is no longer in the configuration.")
    assert refused.retry_after_s is None
    world.release(running)
    assert orders(world) == [Stop("a")]
    world.stopped("a")
    assert orders(world) == [Removed("a")]


def test_those_who_wait_for_one_that_goes_are_refused_and_others_are_not() -> None:
    world = scene("a", "b", "c", room=1)
    hold(world, "c")
    refused, waiting = world.request("a"), world.request("b")
    reconfigure(world, "b", "c")
    assert world.refused[refused].detail == "a is no longer in the configuration."
    assert waiting in world.waiting


# FAILS, a suspected defect of the core: it says that a retry makes sense after a second.
def test_who_waited_for_one_that_goes_is_not_told_to_come_back() -> None:
    world = scene("a", "b", room=1)
    hold(world, "b")
    ticket = world.request("a")
    reconfigure(world, "b")
    assert world.refused[ticket].retry_after_s is None


def test_a_load_of_one_that_goes_is_called_off() -> None:
    world = scene("a", "b")
    ticket = world.request("a")
    reconfigure(world, "b")
    assert world.refused[ticket].refusal is Refusal.UNAVAILABLE
    assert world.at(STOPPING) == ["a"]
    world.stopped("a")
    assert orders(world) == [Removed("a")]


def test_one_that_goes_and_crashes_under_its_last_request_has_gone_then() -> None:
    world = scene("a", "b")
    (running,) = hold(world, "a")
    reconfigure(world, "b")
    world.crashed("a")
    world.stopped("a")
    assert orders(world) == [Removed("a")]
    world.release(running)
    assert orders(world) == []


def test_the_lease_of_one_that_went_is_none_on_one_that_has_its_name_later() -> None:
    world = scene("a", "b")
    (orphan,) = hold(world, "a")
    reconfigure(world, "b")
    world.crashed("a")
    world.stopped("a")
    reconfigure(world, "a", "b")
    (running,) = hold(world, "a")
    world.release(orphan)
    assert world.core.models["a"].leases == {running}


def test_one_that_goes_and_comes_back_while_it_is_being_stopped_is_a_new_one_then() -> None:
    world = scene("a", "b")
    wake(world, "a")
    reconfigure(world, "b")
    assert world.at(STOPPING) == ["a"]
    reconfigure(world, "a", "b")
    ticket = world.request("a")
    assert orders(world) == []
    world.stopped("a")
    assert orders(world) == [Replaced("a"), Load("a")]
    world.loaded("a")
    assert world.granted(ticket)


def test_one_that_goes_and_comes_back_under_lease_is_a_new_one_after_that() -> None:
    world = scene("a", "b")
    (running,) = hold(world, "a")
    reconfigure(world, "b")
    reconfigure(world, "a", "b")
    ticket = world.request("a")
    assert not world.granted(ticket)
    world.release(running)
    world.stopped("a")
    assert orders(world) == [Replaced("a"), Load("a")]
    assert world.refused == {}


# What changes


def test_a_cold_model_that_changes_is_another_one_at_once() -> None:
    world = scene("a", room=3)
    reconfigure(world, model("a", {0: 3}), changed="a")
    assert orders(world) == [Replaced("a")]
    world.request("a")
    assert world.core.ledger.reserved(0) == 3


def test_one_that_failed_and_changes_may_be_tried_at_once() -> None:
    world = scene("a", room=3)
    fail_to_load(world, "a")
    fail_to_load(world, "a")
    reconfigure(world, model("a", {0: 3}), changed="a")
    world.request("a")
    assert orders(world) == [Load("a")]


def test_one_that_failed_too_often_and_changes_while_it_is_being_stopped_is_tried_at_once() -> None:
    world = scene("a", room=3)
    fail_to_load(world, "a")
    world.request("a")
    world.load_failed("a")
    reconfigure(world, model("a", {0: 3}), changed="a")
    ticket = world.request("a")
    world.stopped("a")
    assert orders(world) == [Replaced("a"), Load("a")]
    world.loaded("a")
    assert world.granted(ticket)


def test_one_that_changes_serves_whom_it_has_and_then_its_new_engine_serves_those_who_wait() -> None:
    world = scene("a", room=3)
    (running,) = hold(world, "a")
    reconfigure(world, model("a", {0: 3}), changed="a")
    waiting = world.request("a")
    assert not world.granted(waiting)
    world.release(running)
    assert orders(world) == [Stop("a")]
    world.stopped("a")
    assert orders(world) == [Replaced("a"), Load("a")]
    assert world.core.ledger.reserved(0) == 3
    world.loaded("a")
    assert orders(world) == [Grant(waiting)]


def loading(world: World) -> None:
    world.release(world.request("a"))


def falling_asleep(world: World) -> None:
    wake(world, "a")
    world.put_away("a", Away.ASLEEP)


def waking(world: World) -> None:
    asleep(world, "a")
    world.release(world.request("a"))


def stopping(world: World) -> None:
    wake(world, "a")
    world.put_away("a", Away.STOPPED)


BEGINNINGS = {
    LOADING: loading,
    AWAKE: lambda world: wake(world, "a"),
    FALLING_ASLEEP: falling_asleep,
    ASLEEP: lambda world: asleep(world, "a"),
    WAKING: waking,
    STOPPING: stopping,
}


@pytest.mark.parametrize(("residency", "begin"), BEGINNINGS.items())
def test_wherever_it_is_one_that_changes_becomes_the_new_one_for_those_who_wait(
    residency: Residency, begin: Callable[[World], None]
) -> None:
    world = scene(sleeper("a"), room=30)
    begin(world)
    assert world.at(residency) == ["a"]
    reconfigure(world, sleeper("a", {0: 30}), changed="a")
    waiting = world.request("a")
    while not world.at(COLD, LOADING):
        world.ends("a")
    assert [effect for effect in orders(world) if isinstance(effect, (Replaced, Load))] == [Replaced("a"), Load("a")]
    world.loaded("a")
    assert world.core.ledger.reserved(0) == 30
    assert world.granted(waiting)


@pytest.mark.parametrize(("residency", "begin"), BEGINNINGS.items())
def test_wherever_it_is_one_that_goes_has_gone_in_the_end(residency: Residency, begin: Callable[[World], None]) -> None:
    world = scene(sleeper("a"), "b", room=30)
    begin(world)
    assert world.at(residency) == ["a"]
    reconfigure(world, "b")
    finish_transitions(world)
    assert orders(world) == [Removed("a")]
    assert world.core.ledger.held == {}


def test_those_who_wait_for_a_load_are_served_by_the_new_one_if_it_changes() -> None:
    world = scene("a", room=3)
    waiting = world.request("a")
    reconfigure(world, model("a", {0: 3}), changed="a")
    assert orders(world) == [Stop("a")]
    world.stopped("a")
    assert orders(world) == [Replaced("a"), Load("a")]
    world.loaded("a")
    assert world.granted(waiting)
    assert not world.refused


def test_one_that_changes_twice_becomes_what_was_said_last() -> None:
    world = scene("a", room=9)
    (running,) = hold(world, "a")
    reconfigure(world, model("a", {0: 3}), changed="a")
    reconfigure(world, model("a", {0: 5}), changed="a")
    world.release(running)
    world.stopped("a")
    assert orders(world) == [Replaced("a")]
    world.request("a")
    assert world.core.ledger.reserved(0) == 5


def test_one_that_changes_and_then_goes_is_gone() -> None:
    world = scene("a", "b", room=9)
    wake(world, "a")
    reconfigure(world, model("a", {0: 3}), "b", changed="a")
    reconfigure(world, "b")
    world.stopped("a")
    assert orders(world) == [Removed("a")]


def test_one_that_changes_forgets_that_it_failed_to_wake() -> None:
    world = scene(sleeper("a"), room=15)
    for _ in range(2):
        asleep(world, "a")
        world.release(world.request("a"))
        world.wake_failed("a")
        world.stopped("a")
    reconfigure(world, sleeper("a", ram=2), changed="a")
    wake(world, "a")
    world.put_away("a", Away.ASLEEP)
    assert world.at(FALLING_ASLEEP) == ["a"]


# FAILS, a suspected defect of the core: the old engine sleeps, the order being carried out, and is woken for requests.
def test_one_that_changes_is_replaced_even_if_an_operator_meanwhile_wants_it_asleep() -> None:
    world = scene(sleeper("a"), room=30)
    (running,) = hold(world, "a")
    reconfigure(world, sleeper("a", {0: 30}), changed="a")
    world.put_away("a", Away.ASLEEP)
    world.release(running)
    finish_transitions(world)
    world.request("a")
    finish_transitions(world)
    assert world.core.ledger.reserved(0) == 30


# FAILS, a suspected defect of the core: the same. It sleeps for ever, with its memory, and is never removed.
def test_one_that_goes_is_gone_in_the_end_even_if_an_operator_meanwhile_wants_it_asleep() -> None:
    world = scene(sleeper("a"), "b", room=30)
    (running,) = hold(world, "a")
    reconfigure(world, "b")
    world.put_away("a", Away.ASLEEP)
    world.release(running)
    finish_transitions(world)
    assert "a" not in world.core.models


# FAILS, a suspected defect of the core: they wait for the wait limit instead, and nobody else may evict until then.
def test_those_who_never_fit_once_a_model_has_changed_are_refused() -> None:
    world = scene(model("a", {0: GIB}), room=4 * GIB)
    waiting = world.request("a")
    reconfigure(world, model("a", {0: 5 * GIB}), changed="a")
    world.stopped("a")
    assert world.refused[waiting].refusal is Refusal.NEVER_FITS
    assert world.refused[waiting].detail == "On device 0: a 5.0 GiB; the budget is 4.0 GiB."


# FAILS, a suspected defect of the core: it looks at what the model was, not at what it will be.
def test_those_who_fit_once_a_model_has_changed_are_not_refused() -> None:
    world = scene(model("a", {0: 4 * GIB}), room=4 * GIB)
    waiting = world.request("a")
    reconfigure(world, model("a", {0: GIB}), changed="a", room=2 * GIB)
    finish_transitions(world)
    assert not world.refused
    assert world.granted(waiting)


# FAILS, a suspected defect of the core: `p` counts as pinned until it has left. It will leave, and `b` fits then.
def test_those_who_fit_once_a_pinned_model_has_gone_wait_for_that() -> None:
    world = scene(model("p", pinned=True), "b", room=1)
    (running,) = hold(world, "p")
    reconfigure(world, "b")
    waiting = world.request("b")
    world.release(running)
    finish_transitions(world)
    assert not world.refused
    assert world.granted(waiting)


# FAILS, a suspected defect of the core: OverBudget is raised. A wake is tried without asking for all that it reserves.
def test_a_sleeper_that_is_said_to_take_more_ram_than_there_is_wakes_with_what_it_has() -> None:
    world = scene(sleeper("a", ram=1), room=15, ram=1)
    asleep(world, "a")
    reconfigure(world, sleeper("a", ram=3))
    world.request("a")
    assert orders(world) == [Wake("a")]


# Budgets and limits


def test_a_larger_budget_lets_in_who_had_to_wait() -> None:
    world = scene("a", "b", room=1)
    hold(world, "a")
    world.request("b")
    assert orders(world) == []
    reconfigure(world, "a", "b", room=2)
    assert orders(world) == [Load("b")]


def test_a_smaller_budget_refuses_those_that_fit_no_more_and_touches_nobody() -> None:
    world = scene("a", "b", "c", room=2)
    hold(world, "a", "b")
    pair = world.request("b", "c")
    reconfigure(world, "a", "b", "c", room=1)
    assert [type(effect) for effect in orders(world)] == [type(world.refused[pair])]
    assert world.refused[pair].refusal is Refusal.NEVER_FITS
    assert world.at(AWAKE) == ["a", "b"]


def test_after_a_smaller_budget_as_many_leave_as_the_next_load_needs() -> None:
    world = scene("a", "b", "c", room=2)
    wake(world, "a", "b")
    reconfigure(world, "a", "b", "c", room=1)
    world.request("c")
    finish_transitions(world)
    assert world.at(AWAKE) == ["c"]


def test_fewer_may_be_awake_from_now_on() -> None:
    world = scene("a", "b", "c", room=9, max_awake=3)
    wake(world, "a", "b")
    reconfigure(world, "a", "b", "c", max_awake=2)
    world.request("c")
    assert orders(world) == [Stop("a")]


def test_a_shorter_wait_limit_counts_for_those_who_wait_already() -> None:
    world = scene("a", "b", room=1)
    hold(world, "a")
    ticket = world.request("b")
    world.tick(20.0)
    reconfigure(world, "a", "b", limits=Limits(max_wait_s=10.0))
    assert world.refused[ticket].refusal is Refusal.WAIT_LIMIT


def test_a_longer_wait_limit_counts_for_those_who_wait_already() -> None:
    world = scene("a", "b", room=1, max_wait_s=10.0)
    hold(world, "a")
    ticket = world.request("b")
    reconfigure(world, "a", "b", limits=Limits(max_wait_s=30.0, patience_s=5.0))
    world.tick(20.0)
    assert ticket in world.waiting
    world.tick(10.0)
    assert world.refused[ticket].refusal is Refusal.WAIT_LIMIT


def test_a_shorter_queue_refuses_those_who_come_and_keeps_those_who_wait() -> None:
    world = scene("a", "b", room=1)
    hold(world, "a")
    first = world.request("b")
    reconfigure(world, "a", "b", limits=Limits(max_queue=1, patience_s=5.0))
    assert world.refused[world.request("b")].refusal is Refusal.QUEUE_FULL
    assert first in world.waiting


def test_another_patience_counts_for_the_next_evictor() -> None:
    world = scene("a", "b", room=1, patience_s=100.0)
    hold(world, "a")
    reconfigure(world, "a", "b", limits=Limits(patience_s=3.0))
    world.request("b")
    assert world.deadline() == world.now + 3.0
