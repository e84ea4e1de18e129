"""Who leaves where one model is idle but wanted by the queue, and another is busy but wanted by nobody there."""

from __future__ import annotations

from dataclasses import dataclass

from arena_server.pool.events import ModelSpec, Sleep, Stop

from .scenes import hold, model, orders, scene, sleeper, wake
from .world import AWAKE, STOPPING, World

BIG = {0: 10}
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Scene:
    """`evictor` waits for the place of another: `wanted` is idle, and the next waiter counts on it."""

    world: World
    busy: int  # the ticket that uses `busy`, which nobody waits for


def crowded(wanted: ModelSpec) -> Scene:
    """While `last` loads, nobody can be put away; so by the time that the evictor may, the other waits already."""
    crowd = crowding(wanted)
    crowd.world.loaded("last")
    return crowd


def crowding(wanted: ModelSpec) -> Scene:
    """The same before `last` is loaded."""
    others = [model(name, BIG) for name in ("busy", "last", "evictor", "next")]
    world = scene(wanted, *others, room=30, patience_s=PATIENCE_S)
    (busy,) = hold(world, "busy")
    wake(world, "wanted")
    world.request("last")
    world.request("evictor")
    world.request("wanted", "next")
    return Scene(world, busy)


def test_a_wanted_model_that_cannot_sleep_is_spared_for_a_busy_one_that_nobody_waits_for() -> None:
    scene = crowded(model("wanted", BIG))
    assert scene.world.at(AWAKE) == ["wanted", "busy", "last"]
    scene.world.release(scene.busy)
    assert orders(scene.world) == [Stop("busy")]


def test_it_is_spared_for_no_longer_than_the_patience_lasts() -> None:
    world = crowded(model("wanted", BIG)).world
    world.tick(PATIENCE_S - 0.1)
    assert world.at(STOPPING) == []
    world.tick(0.1)
    assert orders(world) == [Stop("wanted")], "the busy ones may take longer than any load"


def test_the_busy_ones_take_new_requests_meanwhile() -> None:
    world = crowded(model("wanted", BIG)).world
    assert world.granted(world.request("busy"))


def test_a_wanted_model_that_can_sleep_leaves_before_a_busy_one() -> None:
    world = crowded(sleeper("wanted", asleep=0)).world
    assert orders(world)[1:] == [Sleep("wanted")], "it is back sooner than anybody is done"


def test_the_patience_does_not_begin_anew_when_the_busy_ones_rest_for_a_moment() -> None:
    crowd = crowding(model("wanted", BIG))
    world = crowd.world
    world.tick(PATIENCE_S - 1)
    world.release(crowd.busy)  # it cannot be put away, as `last` still loads
    world.request("busy")
    world.tick(1)
    world.loaded("last")
    assert orders(world)[1:] == [Stop("wanted")]


def test_nobody_is_spared_for_one_who_cannot_be_served() -> None:
    others = (model("busy", BIG), model("evictor", BIG), model("elsewhere", {1: 10}))
    world = scene(model("wanted", BIG), *others, room=(20, 10), patience_s=PATIENCE_S)
    hold(world, "busy")
    wake(world, "wanted")
    world.outside({1: 5})
    world.request("wanted", "elsewhere")
    world.request("evictor")
    assert orders(world) == [Stop("wanted")]
