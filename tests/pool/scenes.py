"""How the example tests set their scene: models of one byte each on device 0, unless they say otherwise."""

from __future__ import annotations

from arena_server.pool.events import ModelSpec
from arena_server.pool.ledger import Budget
from arena_server.pool.state import Limits

from .world import LOADING, STOPPING, World


def model(name: str, on: dict[int, int] | None = None, pinned: bool = False, ttl_s: float | None = None) -> ModelSpec:
    return ModelSpec(name, on or {0: 1}, pinned, ttl_s)


def scene(
    *models: str | ModelSpec,
    room: int | tuple[int, ...] = 2,
    max_awake: int | None = None,
    patience_s: float | None = 5.0,
    max_wait_s: float = 600.0,
    max_queue: int = 1000,
) -> World:
    """A world with these models, and `room` bytes on each device."""
    specs = [model(m) if isinstance(m, str) else m for m in models]
    rooms = (room,) if isinstance(room, int) else room
    limits = Limits(max_queue=max_queue, max_wait_s=max_wait_s, patience_s=patience_s)
    return World(specs, Budget(dict(enumerate(rooms)), max_awake), limits)


def wake(world: World, *names: str) -> None:
    """One after the other, a second apart, so that the first is the least recently used."""
    for name in names:
        ticket = world.request(name)
        finish_transitions(world)
        world.release(ticket)
        world.now += 1.0


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
    """Loads and stops end well, until none is under way."""
    while under_way := world.at(LOADING, STOPPING):
        for name in under_way:
            (world.loaded if name in world.at(LOADING) else world.stopped)(name)


def fail_to_load(world: World, name: str, reason: str = "out of memory") -> int:
    """A request whose load fails and is cleaned up."""
    ticket = world.request(name)
    world.load_failed(name, reason)
    world.stopped(name)
    return ticket
