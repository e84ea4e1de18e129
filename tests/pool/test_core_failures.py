"""What becomes of tickets and models when something fails, is too much, or takes too long."""

from __future__ import annotations

import math

import pytest

from arena_server.pool.events import Grant, Load, Refusal, Stop

from .scenes import fail_to_load, finish_transitions, hold, model, orders, scene, wake
from .world import AWAKE, COLD, STOPPING

GIB = 2**30


def test_a_failed_load_refuses_its_waiters_with_the_reason() -> None:
    world = scene("a", "b")
    tickets = [world.request("a"), world.request("a", "b")]
    world.load_failed("a", "out of memory")
    for ticket in tickets:
        assert world.refused[ticket].refusal is Refusal.UNAVAILABLE
        assert world.refused[ticket].detail == "out of memory"


def test_a_failed_load_holds_its_memory_until_it_is_stopped() -> None:
    world = scene("a", "b", room=1)
    world.request("a")
    world.load_failed("a")
    assert Stop("a") in orders(world)
    world.request("b")
    assert world.core.ledger.reserved(0) == 1
    world.stopped("a")
    assert orders(world) == [Load("b")]


def test_after_one_failure_the_next_request_loads_again() -> None:
    world = scene("a")
    fail_to_load(world, "a")
    world.request("a")
    assert orders(world) == [Load("a")]


def test_after_two_failures_in_a_row_a_model_is_left_alone_for_a_while() -> None:
    world = scene("a")
    fail_to_load(world, "a")
    fail_to_load(world, "a", "no such file")
    refused = world.refused[world.request("a")]
    assert (refused.refusal, refused.detail, refused.retry_after_s) == (Refusal.UNAVAILABLE, "no such file", 1.0)
    assert world.deadline() == world.now + 1.0
    world.tick(1.0)
    world.request("a")
    assert orders(world) == [Load("a")]


def test_the_time_to_leave_it_alone_doubles_up_to_a_minute() -> None:
    world = scene("a")
    fail_to_load(world, "a")
    waits = []
    for _ in range(8):
        fail_to_load(world, "a")
        waits.append(world.deadline() - world.now)
        world.tick(until=world.deadline())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_request_is_told_to_come_back_when_all_its_models_may_be_tried_again() -> None:
    world = scene("a", "b")
    for name in "abb":
        fail_to_load(world, name)
    world.tick(1.0)
    fail_to_load(world, "b")
    fail_to_load(world, "a")
    retries = [world.refused[world.request(*names)].retry_after_s for names in ("a", "b", "ab")]
    assert retries == [1.0, 2.0, 2.0]


def test_a_model_that_served_starts_to_count_its_failures_anew() -> None:
    world = scene("a")
    fail_to_load(world, "a")
    (ticket,) = hold(world, "a")
    world.tick(3600.0)
    world.release(ticket)
    world.crashed("a")
    world.stopped("a")
    world.request("a")
    assert orders(world) == [Load("a")]


def test_an_engine_that_dies_of_each_request_fails_even_if_the_request_ends_first() -> None:
    world = scene("a")
    for _ in range(2):
        (ticket,) = hold(world, "a")
        world.release(ticket)
        world.crashed("a")
        world.stopped("a")
    assert world.refused[world.request("a")].refusal is Refusal.UNAVAILABLE


def test_a_crash_orphans_the_leases_on_it_and_no_others() -> None:
    world = scene("a", "b")
    wake(world, "a", "b")
    pair = world.request("a", "b")
    world.crashed("a")
    assert orders(world) == [Stop("a")]
    assert not world.core.models["a"].leases
    assert world.core.models["b"].leases == {pair}


def test_the_release_of_an_orphaned_lease_leaves_the_next_engine_alone() -> None:
    world = scene("a", "b", room=1)
    (orphan,) = hold(world, "a")
    world.crashed("a")
    world.stopped("a")
    (running,) = hold(world, "a")
    world.release(orphan)
    assert world.core.models["a"].leases == {running}
    world.request("b")
    assert world.at(AWAKE) == ["a"]


def test_those_who_wait_for_a_model_that_crashes_are_served_by_its_next_engine() -> None:
    world = scene("a", "b")
    wake(world, "a")
    pair = world.request("a", "b")
    world.crashed("a")
    finish_transitions(world)
    assert world.granted(pair)


def test_those_who_wait_for_a_model_that_crashed_twice_in_a_row_are_refused() -> None:
    world = scene("a")
    fail_to_load(world, "a")
    hold(world, "a")
    world.crashed("a", "segmentation fault")
    ticket = world.request("a")
    world.stopped("a")
    assert world.refused[ticket].detail == "segmentation fault"


def test_the_crash_of_a_model_that_is_being_stopped_is_nothing_new() -> None:
    world = scene("a", "b", room=1)
    wake(world, "a")
    world.request("b")
    assert world.at(STOPPING) == ["a"]
    world.crashed("a")
    assert orders(world) == []
    world.stopped("a")
    assert orders(world) == [Load("b")]


def test_a_full_queue_refuses_with_the_time_that_a_load_takes() -> None:
    world = scene("a", "b", max_queue=1, patience_s=None)
    world.request("a")
    refused = world.refused[world.request("a", "b")]
    assert (refused.refusal, refused.retry_after_s) == (Refusal.QUEUE_FULL, 20.0)


def test_a_full_queue_never_says_that_a_draining_model_is_ready_now() -> None:
    world = scene("a", "b", room=1, max_queue=1)
    hold(world, "a")
    world.request("b")
    world.tick(5.0)
    assert world.refused[world.request("a")].retry_after_s == 10.0


def test_a_full_queue_does_not_keep_anybody_from_an_awake_model() -> None:
    world = scene("a", "b", max_queue=1)
    wake(world, "a")
    world.request("b")
    assert world.granted(world.request("a"))


# Of these pairs, the sum is rounded so that (since + limit) - since < limit.
@pytest.mark.parametrize(("since", "limit"), [(0.0, 30.0), (0.7, 0.1), (4.3, 0.2)])
def test_nobody_waits_longer_than_the_wait_limit(since: float, limit: float) -> None:
    world = scene("a", "b", room=1, max_wait_s=limit)
    world.now = since
    ticket = world.request("a")
    assert world.deadline() == since + limit
    world.tick(until=since + limit)
    assert world.refused[ticket].refusal is Refusal.WAIT_LIMIT
    assert world.refused[ticket].retry_after_s == 10.0


def test_a_model_that_comes_up_in_the_last_moment_is_granted_not_refused() -> None:
    world = scene("a", max_wait_s=30.0)
    ticket = world.request("a")
    world.now = 30.0
    world.loaded("a")
    assert orders(world) == [Grant(ticket)]


def test_models_that_never_fit_together_are_refused_at_once_with_their_sizes() -> None:
    world = scene(model("a", {0: 3 * GIB}), model("b", {0: 2 * GIB}), room=4 * GIB)
    refused = world.refused[world.request("a", "b")]
    assert refused.refusal is Refusal.NEVER_FITS
    assert refused.detail == "On device 0: a 3.0 GiB, b 2.0 GiB; the budget is 4.0 GiB."
    assert refused.retry_after_s is None


def test_models_that_never_fit_beside_pinned_ones_are_refused_at_once() -> None:
    world = scene(model("a", {0: 3 * GIB}), model("p", {0: 2 * GIB}, pinned=True), room=4 * GIB)
    refused = world.refused[world.request("a")]
    assert refused.detail == "On device 0: a 3.0 GiB, p 2.0 GiB (pinned); the budget is 4.0 GiB."


def test_more_models_than_may_be_awake_are_refused_at_once() -> None:
    world = scene("a", "b", room=10, max_awake=1)
    refused = world.refused[world.request("a", "b")]
    assert refused.refusal is Refusal.NEVER_FITS
    assert refused.detail == "2 models beside 0 pinned; at most 1 can be awake."


def test_closing_refuses_those_who_wait_and_those_who_come() -> None:
    world = scene("a", "b", "c")
    (running,) = hold(world, "a")
    waiting = world.request("b")
    world.close()
    late = world.request("a")
    assert {world.refused[ticket].refusal for ticket in (waiting, late)} == {Refusal.CLOSING}
    world.loaded("b")
    world.release(running)
    assert orders(world) == []


def test_an_idle_model_is_stopped_after_its_time_to_live() -> None:
    world = scene(model("a", ttl_s=60.0))
    (ticket,) = hold(world, "a")
    world.tick(100.0)
    assert world.at(AWAKE) == ["a"]
    world.release(ticket)
    assert world.deadline() == world.now + 60.0
    world.tick(60.0)
    assert orders(world) == [Stop("a")]


def test_a_pinned_model_has_no_time_to_live() -> None:
    world = scene(model("a", pinned=True, ttl_s=60.0))
    wake(world, "a")
    assert world.deadline() == math.inf


def test_an_idle_model_that_somebody_waits_for_outlives_its_time() -> None:
    world = scene(model("a", ttl_s=60.0), model("b", {1: 1}), room=(1, 1))
    wake(world, "a")
    pair = world.request("a", "b")
    world.tick(100.0)
    assert orders(world) == []
    world.loaded("b")
    assert world.granted(pair)


def test_an_expired_model_is_stopped_once_its_device_is_at_rest() -> None:
    world = scene(model("a", ttl_s=60.0), "b")
    wake(world, "a")
    world.request("b")
    world.tick(100.0)
    assert orders(world) == []
    world.loaded("b")
    assert world.at(STOPPING) == ["a"]
    world.stopped("a")
    assert world.at(COLD) == ["a"]


def test_nothing_is_due_while_nothing_happens() -> None:
    world = scene("a", max_wait_s=30.0)
    assert world.deadline() == math.inf
    world.request("a")
    assert world.deadline() == 30.0
    world.loaded("a")
    assert world.deadline() == math.inf
