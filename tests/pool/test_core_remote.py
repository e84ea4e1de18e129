"""What another server runs has no footprint: it takes no room, and has to leave for nobody."""

from __future__ import annotations

from arena_server.pool.events import Load, ModelSpec, Stop

from .scenes import finish_transitions, hold, model, orders, reconfigure, scene, sleeper, wake
from .world import AWAKE, COLD, LOADING


def remote(name: str, pinned: bool = False) -> ModelSpec:
    return ModelSpec(name, {}, pinned)


def test_it_takes_no_place_among_the_awake() -> None:
    world = scene("a", "b", remote("r"), remote("s"), room=2, max_awake=1)
    hold(world, "r", "s", "a")
    assert world.at(AWAKE) == ["a", "r", "s"]


def test_it_loads_beside_whatever_goes_on_on_the_devices() -> None:
    world = scene("a", "b", remote("r"), room=1)
    hold(world, "a")
    world.request("b")
    world.release(1)
    assert world.at(AWAKE) == []
    world.request("r")
    assert orders(world) == [Load("r")]


def test_it_is_nobodys_victim() -> None:
    world = scene("a", "b", remote("r"), room=1, max_awake=1)
    wake(world, "r", "a")
    world.request("b")
    assert orders(world) == [Stop("a")]
    finish_transitions(world)
    assert world.at(AWAKE) == ["b", "r"]


def test_nor_does_it_need_host_memory() -> None:
    never = ModelSpec("r", {}, sleep_level=1, host_bytes=5)  # whatever a configuration says of its sleep
    world = scene(sleeper("a"), sleeper("b"), never, room=11, ram=1)
    wake(world, "r", "a")
    world.request("b")
    finish_transitions(world)
    assert world.core.ledger.held["r"].host_bytes == 0
    assert world.at(AWAKE) == ["b", "r"]
    assert world.core.models["r"].when_asleep is None


def test_who_waits_for_it_alone_is_never_the_evictor() -> None:
    """While it ends, long answers running, those who need room would wait for that."""
    world = scene("a", "b", remote("r"), room=1)
    tickets = hold(world, "r", "a")
    reconfigure(world, "a", "b", remote("r"), changed="r")
    world.request("r")
    world.request("b")
    world.release(tickets[1])
    assert orders(world) == [Stop("a")]


def test_beside_one_that_waits_for_its_turn_it_comes_up_at_once() -> None:
    world = scene("a", "b", "c", remote("r"), room=1)
    hold(world, "a")
    world.request("b")
    pair = world.request("c", "r")
    assert orders(world) == [Load("r")]
    world.loaded("r")
    assert not world.granted(pair)


def test_a_pair_with_one_is_granted_whole() -> None:
    world = scene("a", remote("r"), room=1)
    pair = world.request("a", "r")
    assert orders(world) == [Load("a"), Load("r")]
    world.loaded("r")
    assert not world.granted(pair)
    world.loaded("a")
    assert world.granted(pair)


def test_it_is_not_hopeless_whatever_others_hold() -> None:
    world = scene(model("a", pinned=True), "b", remote("r"), room=2)
    world.outside({0: 2})
    ticket = world.request("r")
    assert world.at(LOADING) == ["r"]
    world.loaded("r")
    assert world.granted(ticket)


def test_it_fits_beside_everything() -> None:
    world = scene(model("a", pinned=True), model("b"), remote("r", pinned=True), remote("s"), room=2, max_awake=2)
    assert world.core.misfit("abrs") is None
    assert world.core.misfit("rs") is None
    world = scene("a", "b", remote("r"), room=1)
    assert world.core.misfit("abr") == ("On device 0: a 0.0 GiB, b 0.0 GiB; the budget is 0.0 GiB.")
    world = scene("a", "b", remote("r", pinned=True), max_awake=1)
    for names in ("ab", "abr"):
        assert world.core.misfit(names) == "2 models beside 0 pinned; at most 1 can be awake."


def test_one_that_becomes_remote_gives_its_room_back() -> None:
    world = scene("a", "b", room=1)
    wake(world, "a")
    reconfigure(world, remote("a"), "b", changed="a")
    finish_transitions(world)
    assert world.at(COLD) == ["a", "b"]
    hold(world, "b", "a")
    assert world.at(AWAKE) == ["a", "b"]
    assert world.core.ledger.reserved(0) == 1


def test_one_that_fails_is_loaded_again_and_then_refused() -> None:
    world = scene("a", remote("r"), room=1)
    first = world.request("r")
    world.load_failed("r", "connection refused")
    assert first in world.refused
    world.stopped("r")
    world.request("r")
    assert world.at(LOADING) == ["r"]
    world.loaded("r")
    world.crashed("r", "it answers 503")
    assert orders(world) == [Stop("r")]
    world.stopped("r")
    assert "r" not in world.core.ledger.held
