"""Who is granted what, who waits, and who has to leave."""

from __future__ import annotations

from arena_server.pool.events import Drains, Grant, Load, ModelSpec, Moved, Stop, Times

from .scenes import costs, finish_transitions, hold, model, orders, reasons, scene, wake
from .simulation import Durations, play
from .world import AWAKE, COLD, LOADING, STOPPING


def test_a_ticket_for_a_cold_model_is_granted_when_it_has_loaded() -> None:
    world = scene("a")
    ticket = world.request("a")
    assert orders(world) == [Load("a")]
    world.loaded("a")
    assert orders(world) == [Grant(ticket)]


def test_a_ticket_for_awake_models_is_granted_at_once() -> None:
    world = scene("a", "b")
    wake(world, "a", "b")
    ticket = world.request("a", "b")
    assert orders(world) == [Grant(ticket)]


def test_three_models_in_room_for_two_and_the_least_recently_used_idle_one_leaves() -> None:
    world = scene("a", "b", "c")
    wake(world, "a", "b", "a")
    ticket = world.request("c")
    assert orders(world) == [Stop("b")]
    world.stopped("b")
    assert orders(world) == [Load("c")]
    world.loaded("c")
    assert orders(world) == [Grant(ticket)]


def test_an_idle_model_leaves_before_a_busy_one_that_was_used_longer_ago() -> None:
    world = scene("a", "b", "c")
    hold(world, "a")
    wake(world, "b")
    world.request("c")
    assert orders(world) == [Stop("b")]


def test_only_as_many_leave_as_have_to() -> None:
    world = scene(model("small", {0: 1}), model("big", {0: 3}), model("new", {0: 3}), room=4)
    wake(world, "small", "big")
    world.request("new")
    finish_transitions(world)
    assert world.at(AWAKE) == ["small", "new"]


def test_busy_models_are_borne_with_and_then_drain() -> None:
    world = scene("a", "b", room=1, patience_s=5.0)
    (running,) = hold(world, "a")
    swap = world.request("b")
    assert orders(world) == []
    assert world.deadline() == world.now + 5.0
    meanwhile = world.request("a")
    assert world.granted(meanwhile)
    world.tick(5.0)
    late = world.request("a")
    assert not world.granted(late)
    world.release(running)
    assert orders(world) == []
    world.release(meanwhile)
    assert orders(world) == [Stop("a")]
    world.stopped("a")
    world.loaded("b")
    assert world.granted(swap)


def test_an_evictor_is_by_default_as_patient_as_the_swap_took_last_time() -> None:
    world = scene("a", "b", room=1, patience_s=None)
    world.request("a")
    world.loaded("a")
    world.release(1)
    world.request("b")
    world.tick(3.0)
    world.stopped("a")
    world.tick(7.0)
    world.loaded("b")
    world.release(2)
    hold(world, "a")
    world.request("b")
    assert world.deadline() == world.now + 3.0 + 7.0  # stop a, load b


def test_an_evictor_whose_swap_was_never_measured_is_patient_for_eleven_seconds() -> None:
    world = scene("a", "b", room=1, patience_s=None)
    hold(world, "a")
    world.request("b")
    assert world.deadline() == world.now + 1.0 + 10.0  # stop a, load b


def test_what_was_measured_in_an_earlier_life_counts_until_it_is_measured_anew() -> None:
    slow = ModelSpec("b", {0: 1}, times=Times(load_s=90.0))
    world = scene(ModelSpec("a", {0: 1}, times=Times(stop_s=4.0)), slow, room=1, patience_s=None)
    hold(world, "a")
    world.request("b")
    assert world.deadline() == world.now + 4.0 + 90.0


def test_each_order_says_why_and_what_it_is_expected_to_cost() -> None:
    world = scene("a", "b", room=1)
    wake(world, "a")
    world.request("b")
    assert reasons(world) == {"a": "evicted for b"}
    assert costs(world) == {"a": 1.0}
    world.tick(3.0)
    world.stopped("a")
    assert reasons(world) == {"b": "a request waits for it"}
    assert costs(world) == {"b": 10.0}
    world.loaded("b")
    world.release(2)
    world.request("a")
    world.stopped("b")
    world.loaded("a")
    world.release(3)
    world.request("b")
    assert costs(world) == {"a": 3.0}


def test_swaps_are_counted_and_no_other_leaving_is() -> None:
    world = scene("a", "b", model("c", ttl_s=60.0), room=1)
    wake(world, "a", "b")
    assert world.core.swaps == 1
    wake(world, "c")
    assert world.core.swaps == 2
    world.tick(until=world.deadline())
    assert world.at(STOPPING) == ["c"]
    assert world.core.swaps == 2


def test_what_happens_is_told_as_well() -> None:
    world = scene("a", "b", room=1)
    (running,) = hold(world, "a")
    world.request("b")
    world.tick(5.0)
    assert world.effects == [Drains("a", "evicted for b")]
    world.release(running)
    assert world.effects == [Moved("a", AWAKE, STOPPING, "evicted for b"), Stop("a", "evicted for b", 1.0)]


def test_it_is_told_when_a_model_drains_no_longer() -> None:
    world = scene("a", "b", room=1)
    hold(world, "a")
    evictor = world.request("b")
    world.tick(5.0)
    world.release(evictor)
    assert world.effects == [Drains("a", None)]


def test_a_model_that_becomes_idle_leaves_without_more_patience() -> None:
    world = scene("a", "b", room=1)
    (running,) = hold(world, "a")
    world.request("b")
    world.release(running)
    assert orders(world) == [Stop("a")]


def test_all_that_wait_for_a_model_go_together_when_it_comes_up() -> None:
    world = scene("a", "b", room=1)
    waiting = [world.request("a"), world.request("b"), world.request("a"), world.request("a")]
    world.loaded("a")
    assert [world.granted(ticket) for ticket in waiting] == [True, False, True, True]


def test_a_pair_is_granted_whole_and_holds_nothing_before() -> None:
    world = scene("a", "b")
    wake(world, "a")
    pair = world.request("a", "b")
    assert not world.granted(pair)
    assert not world.core.models["a"].leases
    assert world.granted(world.request("a"))
    world.loaded("b")
    assert orders(world) == [Grant(pair)]


def test_two_pairs_with_room_for_one_pair_both_get_their_turn() -> None:
    world = scene("a", "b", "c", "d")
    pairs = [world.request("a", "b"), world.request("c", "d")]
    play(world, Durations())
    assert all(world.granted(pair) for pair in pairs)


def test_what_the_evictor_counts_on_does_not_leave_for_it() -> None:
    world = scene("a", "b", "c")
    wake(world, "a", "b")
    world.request("a", "c")
    assert orders(world) == [Stop("b")]


def test_the_young_load_into_room_that_nobody_older_needs() -> None:
    world = scene("a", model("b", {1: 1}), "c", model("d", {1: 1}), room=(1, 2))
    hold(world, "a", "b")
    world.request("c")
    world.request("d")
    assert orders(world) == [Load("d")]


def test_the_young_do_not_load_into_room_that_the_evictor_needs() -> None:
    world = scene("a", model("b", {0: 2}), "c")
    hold(world, "a")
    world.request("b")
    world.request("c")
    assert orders(world) == []


def test_the_young_do_not_load_into_room_that_another_waiter_before_them_needs() -> None:
    world = scene("a", "b", model("c", {1: 1}), model("d", {1: 2}), model("e", {1: 1}), room=(1, 2))
    hold(world, "a", "c")
    world.request("b")
    world.request("d")
    world.request("e")
    assert orders(world) == []


def test_the_young_use_a_device_on_which_the_evictor_has_nothing_to_do_yet() -> None:
    world = scene("a", model("both", {0: 1, 1: 1}), model("c", {1: 1}), room=(1, 2))
    hold(world, "a")
    world.request("both")
    world.request("c")
    assert orders(world) == [Load("c")]


def test_two_that_wait_for_the_same_model_do_not_need_its_room_twice() -> None:
    world = scene("a", "b", model("c", {1: 1}), room=(2, 1))
    world.request("a")
    world.request("b")
    world.request("b", "c")
    assert orders(world) == [Load("c")]


def test_only_the_oldest_evicts() -> None:
    world = scene("a", model("b", {1: 1}), "c", model("d", {1: 1}), room=(1, 1))
    hold(world, "a")
    wake(world, "b")
    world.request("c")
    world.request("d")
    assert orders(world) == []


def test_the_next_evicts_as_soon_as_the_last_load_of_the_one_before_has_begun() -> None:
    world = scene("a", model("b", {1: 1}), "c", model("d", {1: 1}), room=(1, 1))
    wake(world, "a", "b")
    world.request("c")
    world.request("d")
    world.stopped("a")
    assert orders(world) == [Load("c"), Stop("b")]


def test_when_the_evictor_gives_up_what_drained_for_it_is_spared_and_granted_at_once() -> None:
    world = scene("a", "b", room=1)
    hold(world, "a")
    evictor = world.request("b")
    world.tick(5.0)
    waiting = world.request("a")
    assert not world.granted(waiting)
    world.release(evictor)
    assert orders(world) == [Grant(waiting)]


def test_an_evictor_that_is_one_again_is_patient_anew() -> None:
    world = scene("a", model("b", {1: 1}), "c", model("d", {1: 1}), room=(2, 1), patience_s=5.0)
    hold(world, "b")
    wake(world, "a")
    older = world.request("a", "c")
    world.request("d")  # it bears with b
    world.tick(4.0)
    world.crashed("a")  # now somebody older lacks a model
    world.loaded("c")
    world.stopped("a")
    assert world.at(LOADING) == ["a"]
    world.tick(4.0)
    assert world.deadline() == world.now + 1.0
    world.loaded("a")
    assert world.granted(older)


def test_what_drains_is_spared_as_soon_as_room_came_from_elsewhere() -> None:
    world = scene("a", "b", "c")
    hold(world, "a", "b")
    world.request("c")
    world.tick(5.0)
    waiting = world.request("a")
    assert not world.granted(waiting)
    world.crashed("b")
    assert world.granted(waiting)
    world.stopped("b")
    assert orders(world) == [Load("c")]


def test_no_more_models_are_awake_than_allowed() -> None:
    world = scene("a", "b", "c", room=10, max_awake=2)
    wake(world, "a", "b")
    world.request("c")
    assert orders(world) == [Stop("a")]


def test_pinned_models_never_leave() -> None:
    world = scene(model("a", pinned=True), "b", "c")
    wake(world, "a", "b")
    world.request("c")
    assert orders(world) == [Stop("b")]


def test_one_load_per_device_at_a_time_and_two_devices_in_parallel() -> None:
    world = scene("a", "b", model("c", {1: 1}), room=(2, 2))
    for name in "abc":
        world.request(name)
    assert world.at(LOADING) == ["a", "c"]
    world.loaded("a")
    assert world.at(LOADING) == ["b", "c"]


def test_a_load_waits_for_a_stop_on_its_device_even_where_there_is_room() -> None:
    world = scene("a", "b", "c", room=3)
    wake(world, "a")
    world.crashed("a")
    world.request("b")
    assert orders(world) == []
    world.stopped("a")
    assert orders(world) == [Load("b")]


def test_a_model_on_two_devices_loads_when_both_have_room() -> None:
    world = scene("a", model("b", {1: 1}), model("both", {0: 1, 1: 1}), room=(1, 1))
    wake(world, "a", "b")
    world.request("both")
    assert sorted(world.at(STOPPING)) == ["a", "b"]
    world.stopped("a")
    assert orders(world) == []
    world.stopped("b")
    assert orders(world) == [Load("both")]


def test_a_waiter_for_two_devices_gets_its_moment_when_both_are_at_rest() -> None:
    world = scene("a", model("b", {1: 1}), model("both", {0: 1, 1: 1}), "c", model("d", {1: 1}), room=(3, 3))
    for names in (["a"], ["b"], ["both"], ["c"], ["d"]):
        world.request(*names)
    world.loaded("a")
    assert world.at(LOADING) == ["b"]
    world.loaded("b")
    assert world.at(LOADING) == ["both"]


def test_a_model_that_came_up_is_not_evicted_before_one_of_its_waiters_was_served() -> None:
    world = scene("a", "b", "c", "d", room=2)
    first = world.request("a")
    world.request("b", "c")
    world.request("a", "d")
    world.release(first)
    world.loaded("a")
    assert world.at(AWAKE) == ["a"]
    finish_transitions(world)
    world.tick(4.9)
    assert world.at(AWAKE) == ["a", "b"]
    world.tick(0.1)
    assert world.at(STOPPING) == ["a"]


def test_a_passer_by_does_not_end_that_protection() -> None:
    world = scene("a", "b", "c", "d", room=2)
    first = world.request("a")
    world.request("b", "c")
    world.request("a", "d")
    world.release(first)
    world.loaded("a")
    passer_by = world.request("a")
    assert world.granted(passer_by)
    world.release(passer_by)
    finish_transitions(world)
    assert world.at(AWAKE) == ["a", "b"]


def test_a_model_whose_waiters_have_left_is_not_protected() -> None:
    world = scene("a", "b", "c", room=2)
    first = world.request("a")
    world.request("b", "c")
    third = world.request("a", "c")
    world.release(first)
    world.release(third)
    world.loaded("a")
    finish_transitions(world)
    assert world.at(COLD) == ["a"]


def test_a_load_goes_on_when_the_one_who_asked_has_left() -> None:
    world = scene("a")
    ticket = world.request("a")
    world.release(ticket)
    world.loaded("a")
    assert world.granted(world.request("a"))


def test_a_side_that_is_done_gives_its_model_back_before_the_other_is() -> None:
    world = scene("a", "b", "c", room=2)
    pair = world.request("a", "b")
    finish_transitions(world)
    assert world.granted(pair)
    third = world.request("c")
    world.release_side(pair, "a")
    assert world.at(STOPPING) == ["a"]
    finish_transitions(world)
    assert world.granted(third), "b is still in use, but a was not"
    world.release_side(pair, "b")
    assert not world.core.leases.get(pair)


def test_the_victim_is_one_that_nobody_else_in_the_queue_wants() -> None:
    world = scene("a", "b", "c", "d", "e", room=3)
    wake(world, "a", "b")
    world.request("c")
    world.request("d")
    world.request("a", "e")
    world.loaded("c")
    assert world.at(STOPPING) == ["b"], "a was used longer ago, but somebody waits for it"


def test_an_idle_victim_serves_on_until_it_can_be_put_away() -> None:
    world = scene("a", "b", "c", "d", room=3)
    wake(world, "a", "b")
    world.request("c")
    world.request("d")
    assert world.at(LOADING) == ["c"]
    assert world.granted(world.request("a")), "its device loads c; d's turn comes after that"


def test_the_patience_begins_when_the_last_idle_victim_is_asked() -> None:
    world = scene("a", "b", "c", "d", room=3, patience_s=5.0)
    wake(world, "a", "b")
    world.request("c")
    world.request("d")
    world.now += 1.0
    world.request("a")
    world.request("b")
    assert world.core.next_deadline(world.now) == world.now + 5.0


def test_of_two_that_are_wanted_together_the_one_first_that_more_wait_for() -> None:
    world = scene("a", "b", "c", room=3)
    world.request("c")
    world.request("a", "b")
    other = world.request("b")
    world.loaded("c")
    assert orders(world)[1:] == [Load("b")]
    world.loaded("b")
    assert orders(world) == [Grant(other), Load("a")]


def test_room_is_made_first_for_the_one_that_more_wait_for() -> None:
    world = scene("a", "b", "c", "d", room=2, patience_s=5.0)
    wake(world, "c")
    hold(world, "d")
    world.now += 1.0
    world.request("a", "b")
    assert world.at(STOPPING) == ["c"]
    other = world.request("b")
    world.stopped("c")
    assert orders(world) == [Load("b")], "d is busy, so there is room for one of them"
    world.loaded("b")
    assert orders(world) == [Grant(other)]
