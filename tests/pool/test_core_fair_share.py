"""Whose turn it is: askers share the queue, however much one of them asks for."""

from __future__ import annotations

import math

import pytest

from arena_server.pool.events import Drains, Limits, Refusal
from arena_server.pool.ledger import Budget

from .scenes import finish_transitions, hold, model, reconfigure, scene
from .simulation import Durations, play
from .world import STOPPING, World

COLD_MODELS = "abcdefgh"


def queue(world: World) -> list[int]:
    return [w.ticket for w in world.core.queue]


def flood(world: World, times: int = 4, asker: str = "many") -> list[int]:
    """As many requests of one asker, for one cold model after the other."""
    return [world.request(COLD_MODELS[i % len(COLD_MODELS)], asker=asker) for i in range(times)]


def cold_scene(max_queue: int = 1000, room: int = 1) -> World:
    return scene(*COLD_MODELS, room=room, max_queue=max_queue)


def test_one_asker_is_served_in_the_order_of_arrival() -> None:
    world = cold_scene()
    tickets = flood(world, 40)
    assert queue(world) == tickets


def test_another_askers_first_request_comes_right_after_the_head() -> None:
    world = cold_scene()
    first, *others = flood(world)
    single = world.request("h", asker="one")
    assert queue(world) == [first, single, *others]


def test_two_that_flood_take_turns() -> None:
    world = cold_scene()
    mine = flood(world, 3, "many")
    theirs = flood(world, 3, "more")
    assert queue(world) == [mine[0], theirs[0], mine[1], theirs[1], mine[2], theirs[2]]


def test_the_head_is_not_displaced() -> None:
    world = cold_scene()
    head = world.request("a", asker="many")
    for i in range(10):
        world.request("b", asker=f"k{i}")
        assert queue(world)[0] == head


def test_who_asks_again_once_it_was_served_passes_a_waiter_once() -> None:
    """Two that ask one after the other, for ever, would else never let another one's second request come."""
    world = scene("a", "b", "c", "d", room=1, patience_s=0.0)
    held = hold(world, "d")
    world.request("a", asker="many")
    second = world.request("b", asker="many")
    world.release(held[0])
    went = 0
    while not world.granted(second):
        for ticket in list(world.live):
            world.release(ticket)
        for asker in ("one", "two"):
            if asker not in {world.tickets[t].asker for t in world.waiting}:
                world.request("c" if asker == "one" else "d", asker=asker)
                went += 1
        finish_transitions(world)
        assert went < 10, "its turn never comes"


def test_those_who_went_together_had_one_turn() -> None:
    """A hundred requests for one swap are no reason to wait behind a hundred swaps of others."""
    world = cold_scene()
    for _ in range(50):
        world.request("a", asker="many")
    others = flood(world, 6, "more")
    world.loaded("a")
    assert len(world.live) == 51  # with the other's for the same model
    again = world.request("h", asker="many")
    assert queue(world) == [others[1], again, *others[2:]]


def test_who_gives_up_before_its_turn_has_not_had_it() -> None:
    world = cold_scene()
    head = world.request("h", asker="more")
    second, third = world.request("g", asker="more"), world.request("f", asker="more")
    given_up = [world.request(name, asker="many") for name in "abcd"]
    for ticket in given_up[1:]:
        world.release(ticket)
    again = world.request("e", asker="many")
    assert queue(world) == [head, given_up[0], second, again, third]


def test_who_gives_up_its_turn_has_had_it() -> None:
    """Two could else keep the head's turn from ever ending, by giving up and asking again in alternation."""
    world = cold_scene()
    head, second = world.request("h", asker="many"), world.request("g", asker="many")
    other, single = world.request("e", asker="other"), world.request("f", asker="one")
    assert queue(world) == [head, other, single, second]
    world.release(single)
    again = world.request("f", asker="one")
    assert queue(world) == [head, other, second, again]


def test_an_evictor_that_gives_up_has_had_its_turn() -> None:
    """It could else upset all plans again and again, while the head's load takes its time."""
    world = scene(model("h"), *(model(name, {1: 1}) for name in "fedg"), room=(1, 1))
    head = world.request("h", asker="many")
    more = [world.request(name, asker="more") for name in "fed"]
    evictor = world.request("g", asker="many")
    assert queue(world) == [head, more[0], more[1], evictor, more[2]]
    world.release(more[1])
    assert world.evictor == evictor
    world.release(evictor)
    again = world.request("g", asker="many")
    assert queue(world) == [head, more[0], more[2], again]


def test_a_newcomer_does_not_undo_a_drain() -> None:
    """The evictor bore with a busy model until it drained; were it displaced, it would have done so in vain."""
    world = scene(model("a"), model("b", {1: 1}), model("c", {1: 1}), model("d", {1: 1}), room=(1, 1), patience_s=5.0)
    (held,) = hold(world, "b")
    head = world.request("a", asker="many")
    evictor = world.request("c", asker="many")
    last = world.request("d", asker="many")
    world.tick(5.0)
    assert Drains("b", "evicted for c") in world.effects
    single = world.request("d", asker="one")
    assert queue(world) == [head, evictor, single, last]
    assert not world.effects
    world.release(held)
    assert world.at(STOPPING) == ["b"]


def test_an_evictor_for_which_nothing_drains_yet_can_be_passed() -> None:
    world = scene(model("a"), model("b", {1: 1}), model("c", {1: 1}), model("d", {1: 1}), room=(1, 1), patience_s=5.0)
    (held,) = hold(world, "b")
    head, second = world.request("a", asker="many"), world.request("c", asker="many")
    world.tick(3.0)
    single = world.request("d", asker="one")
    assert queue(world) == [head, single, second]
    world.tick(5.0)
    assert Drains("b", "evicted for d") in world.effects
    world.release(held)
    finish_transitions(world)
    assert world.granted(single)


def test_all_who_wait_for_a_model_that_came_up_go_together() -> None:
    world = cold_scene()
    for asker in ("many", "many", "one", "many"):
        world.request("a", asker=asker)
    late = world.request("b", asker="one")
    world.loaded("a")
    assert len(world.live) == 4
    assert queue(world) == [late]


def test_a_cancelled_head_leaves_the_order_of_the_others() -> None:
    world = cold_scene()
    first, second, third = flood(world, 3)
    single = world.request("h", asker="one")
    world.release(first)
    assert queue(world) == [single, second, third]


def test_the_order_outlives_a_new_configuration() -> None:
    world = cold_scene()
    first, second, third = flood(world, 3)
    single = world.request("h", asker="one")
    reconfigure(world, *COLD_MODELS, changed="b")
    assert queue(world) == [first, single, second, third]
    reconfigure(world, *"abcdefg")
    assert queue(world) == [first, second, third]
    assert world.refused[single].refusal is Refusal.UNAVAILABLE


def test_closing_refuses_everybody() -> None:
    world = cold_scene()
    tickets = [*flood(world), world.request("h", asker="one")]
    world.close()
    assert {world.refused[t].refusal for t in tickets} == {Refusal.CLOSING}
    assert not queue(world)


def test_the_wait_limit_goes_by_the_time_waited() -> None:
    world = scene(*COLD_MODELS, room=1, max_wait_s=30.0)
    first, second = flood(world, 2)
    world.tick(20.0)
    single = world.request("h", asker="one")
    world.tick(10.0)
    assert sorted(world.refused) == [first, second]
    assert queue(world) == [single]


# A full queue


def test_a_full_queue_takes_another_in_place_of_the_last_of_who_has_the_most() -> None:
    world = cold_scene(max_queue=4)
    first, second, third, fourth = flood(world)
    single = world.request("h", asker="one")
    assert queue(world) == [first, single, second, third]
    refused = world.refused[fourth]
    assert refused.refusal is Refusal.QUEUE_FULL
    assert refused.retry_after_s == 10.0
    assert (
        refused.detail
        == "4 requests wait for a model already, most of them from here: the last made way for another's."
    )


def test_it_takes_no_more_than_an_equal_share() -> None:
    world = cold_scene(max_queue=4)
    flood(world)
    theirs = flood(world, 4, "more")
    assert [t in world.refused for t in theirs] == [False, False, True, True]
    assert world.refused[theirs[2]].detail == "4 requests wait for a model already."
    assert world.refused[theirs[2]].refusal is Refusal.QUEUE_FULL


def test_nobody_makes_way_for_an_equal() -> None:
    world = cold_scene(max_queue=5)
    flood(world, 3, "many")
    theirs = flood(world, 3, "more")
    assert list(world.refused) == theirs[2:]


def test_who_fills_it_gets_no_more_in() -> None:
    world = cold_scene(max_queue=4)
    tickets = flood(world, 5)
    assert list(world.refused) == tickets[-1:]


def test_of_two_with_the_most_the_one_whose_last_comes_later_makes_way() -> None:
    world = cold_scene(max_queue=4)
    flood(world, 2, "many")
    theirs = flood(world, 2, "more")
    world.request("h", asker="one")
    assert list(world.refused) == [theirs[1]]


def test_an_evictor_that_makes_way_lets_go_of_what_drained_for_it() -> None:
    world = scene(model("a"), model("b", {1: 1}), model("c", {1: 1}), room=(1, 1), max_queue=2, patience_s=0.0)
    hold(world, "b")
    world.request("a", asker="many")
    evictor = world.request("c", asker="many")
    assert Drains("b", "evicted for c") in world.effects
    single = world.request("b", asker="one")
    assert evictor in world.refused
    assert world.granted(single)


def test_a_smaller_limit_refuses_nobody_who_waits() -> None:
    world = cold_scene()
    tickets = flood(world, 4)
    reconfigure(world, *COLD_MODELS, limits=Limits(max_queue=2))
    assert queue(world) == tickets


# What it is for


@pytest.mark.parametrize(("shared", "at_most_s"), [(True, 60.0), (False, math.inf)], ids=["fair", "one long queue"])
def test_a_flood_of_cold_requests_hardly_delays_another_key(shared: bool, at_most_s: float) -> None:
    """200 requests for 8 cold models of which one fits, and one every 60 s of another key for a ninth."""
    specs = [model(name) for name in (*COLD_MODELS, "i")]
    world = World(specs, Budget({0: 1}), Limits(patience_s=None, max_wait_s=math.inf))
    arrivals = [(i * 0.05, frozenset(COLD_MODELS[i % 8]), "many") for i in range(200)]
    arrivals += [(30.0 + 60.0 * i, frozenset("i"), "one" if shared else "many") for i in range(5)]
    play(world, Durations(load_s=20.0, stop_s=1.0, hold_s=5.0), sorted(arrivals))
    waits = [t.granted_at - t.asked_at for t in world.tickets.values() if "i" in t.models and t.granted_at is not None]
    assert len(waits) == 5
    assert max(waits) <= at_most_s
    if not shared:
        assert max(waits) > 100.0
