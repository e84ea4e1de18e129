"""How the example tests set their scene: models of one byte each on device 0, unless they say otherwise."""

from __future__ import annotations

from dataclasses import replace

from arena_server.pool.events import Away, Drains, Effect, Limits, Load, ModelSpec, Moved, Sleep, Stop, Times, Wake
from arena_server.pool.ledger import Budget

from .world import ASLEEP, UNDER_WAY, World


def model(name: str, on: dict[int, int] | None = None, pinned: bool = False, ttl_s: float | None = None) -> ModelSpec:
    return ModelSpec(name, on or {0: 1}, pinned, ttl_s)


def sleeper(
    name: str,
    on: dict[int, int] | None = None,
    asleep: int = 1,
    ram: int = 1,
    pinned: bool = False,
    ttl_s: float | None = None,
    times: Times | None = None,
) -> ModelSpec:
    """One that can sleep: 10 bytes awake, `asleep` of them asleep, with `ram` bytes of the host's."""
    on = on or {0: 10}
    return ModelSpec(name, on, pinned, ttl_s, 1, dict.fromkeys(on, asleep), ram, times or Times())


def scene(
    *models: str | ModelSpec,
    room: int | tuple[int, ...] = 2,
    max_awake: int | None = None,
    patience_s: float | None = 5.0,
    max_wait_s: float = 600.0,
    max_queue: int = 1000,
    ram: int | None = None,
) -> World:
    """A world with these models, `room` bytes on each device and `ram` of the host's for who sleeps."""
    specs = [model(m) if isinstance(m, str) else m for m in models]
    rooms = (room,) if isinstance(room, int) else room
    limits = Limits(max_queue=max_queue, max_wait_s=max_wait_s, patience_s=patience_s)
    return World(specs, Budget(dict(enumerate(rooms)), max_awake, ram), limits)


def reconfigure(
    world: World,
    *models: str | ModelSpec,
    changed: str = "",
    room: int | None = None,
    max_awake: int | None = None,
    limits: Limits | None = None,
) -> None:
    """These are the models now, those `changed` being new ones under an old name; and other budgets and limits."""
    rooms = world.budget.device_bytes if room is None else {0: room}
    world.budget = Budget(rooms, max_awake or world.budget.max_awake, world.budget.host_bytes)
    world.limits = limits or world.limits
    world.reconfigure([model(m) if isinstance(m, str) else m for m in models], changed)


def orders(world: World) -> list[Effect]:
    """What the last event led to: without what is only told, and without reasons and costs."""
    return [
        replace(effect, why="", cost_s=0.0) if isinstance(effect, (Load, Sleep, Wake, Stop)) else effect
        for effect in world.effects
        if not isinstance(effect, (Moved, Drains))
    ]


def reasons(world: World) -> dict[str, str]:
    """Why the last event began a transition of these models."""
    return {effect.model: effect.why for effect in world.effects if isinstance(effect, (Load, Sleep, Wake, Stop))}


def costs(world: World) -> dict[str, float]:
    """The seconds that the transitions begun by the last event are expected to take."""
    return {effect.model: effect.cost_s for effect in world.effects if isinstance(effect, (Load, Sleep, Wake, Stop))}


def wake(world: World, *names: str) -> None:
    """One after the other, a second apart, so that the first is the least recently used."""
    for name in names:
        ticket = world.request(name)
        finish_transitions(world)
        world.release(ticket)
        world.now += 1.0


def asleep(world: World, *names: str) -> None:
    """Put to sleep one after the other, the first being the least recently used."""
    for name in names:
        wake(world, name)
        world.put_away(name, Away.ASLEEP)
        world.slept(name)
    assert set(names) <= set(world.at(ASLEEP))


def hold(world: World, *names: str) -> list[int]:
    """Have each awake, each under a ticket of its own."""
    tickets = []
    for name in names:
        tickets.append(world.request(name))
        finish_transitions(world)
        assert world.granted(tickets[-1])
        world.now += 1.0
    return tickets


def finish_transitions(world: World) -> None:
    """All that is under way ends well, until nothing is."""
    while under_way := world.at(*UNDER_WAY):
        for name in under_way:
            if name in world.at(*UNDER_WAY):  # it may have gone meanwhile
                world.ends(name)


def fail_to_load(world: World, name: str, reason: str = "out of memory") -> int:
    """A request whose load fails and is cleaned up."""
    ticket = world.request(name)
    world.load_failed(name, reason)
    world.stopped(name)
    return ticket
