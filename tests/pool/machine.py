"""Hypothesis drives a world: random models, budgets and limits, and anything that can happen in any order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from arena_server.pool.core import PoolCore
from arena_server.pool.events import Away, Limits, ModelSpec, Refusal
from arena_server.pool.ledger import Budget

from .simulation import Durations, longest_wait_s, play
from .world import ASLEEP, AWAKE, FALLING_ASLEEP, LOADING, STOPPING, UNDER_WAY, WAKING, World, require

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setup:
    specs: tuple[ModelSpec, ...]
    budget: Budget
    limits: Limits


def spec_of(draw: st.DrawFn, name: str, devices: int) -> ModelSpec:
    """Any model on these devices; half of them can sleep."""
    on = draw(st.sampled_from([(0,), (0,), (1,), (0, 1)])) if devices == 2 else (0,)
    if draw(st.sampled_from([False] * 15 + [True])):
        return ModelSpec(name, {}, draw(st.booleans()))  # another server runs it
    footprint = {d: draw(st.integers(1, 4)) for d in on}
    pinned = draw(st.sampled_from([False] * 9 + [True]))
    ttl = draw(st.sampled_from([None, None, None, None, 0.0, 20.0]))
    if not draw(st.booleans()):
        return ModelSpec(name, footprint, pinned, ttl)
    asleep = {d: draw(st.integers(0, 2)) for d in on}
    return ModelSpec(name, footprint, pinned, ttl, 1, asleep, draw(st.integers(0, 3)))


@st.composite
def setups(draw: st.DrawFn, calm: bool | None = None) -> Setup:
    """Up to six models on one or two devices. In a calm one nobody is ever refused a wait."""
    devices = draw(st.sampled_from([1, 2, 2]))
    budget = {d: draw(st.integers(4, 9)) for d in range(devices)}
    specs = [spec_of(draw, name, devices) for name in "abcdef"[: draw(st.integers(2, 6))]]
    calm = draw(st.booleans()) if calm is None else calm
    limits = Limits(
        max_queue=10**6 if calm else draw(st.sampled_from([2, 100])),
        max_wait_s=math.inf if calm else draw(st.sampled_from([15.0, 200.0])),
        patience_s=draw(st.sampled_from([None, 0.0, 3.0, 3.0])),
    )
    places, ram = draw(st.sampled_from([None, 2, 3])), draw(st.sampled_from([None, 0, 2, 4, 4]))
    return Setup(tuple(specs), Budget(budget, places, ram), limits)


indexes = st.integers(0, 5)
askers = st.sampled_from("kkkl")
model_sets = st.lists(indexes, min_size=1, max_size=3)


def pick(items: Iterable[T], index: int) -> T:
    choice: Sequence[T] = list(items)
    return choice[index % len(choice)]


class PoolMachine(RuleBasedStateMachine):
    """Every step is checked by the world; at the end everything ends well and nobody may be left behind."""

    core: ClassVar[type[PoolCore]] = PoolCore
    world: World
    calm: bool

    @initialize(setup=setups())
    def start(self, setup: Setup) -> None:
        self.world = World(setup.specs, setup.budget, setup.limits, self.core)
        self.calm = math.isinf(setup.limits.max_wait_s)

    @rule(models=model_sets, asker=askers)
    def request(self, models: list[int], asker: str = "k") -> None:
        self.world.request(*{pick(self.world.models, i) for i in models}, asker=asker)

    @precondition(lambda self: self.world.live)
    @rule(index=indexes)
    def finish(self, index: int) -> None:
        self.world.release(pick(self.world.live, index))

    @precondition(lambda self: self.world.live)
    @rule(index=indexes, side=indexes)
    def finish_one_side(self, index: int, side: int) -> None:
        ticket = pick(self.world.live, index)
        ask = self.world.tickets[ticket]
        self.world.release_side(ticket, pick(sorted(ask.models - ask.ended), side))

    @precondition(lambda self: self.world.live)
    @rule(index=indexes)
    def finish_and_ask_again(self, index: int) -> None:
        """Steady traffic: the next comes before the last is done."""
        ticket = pick(self.world.live, index)
        ask = self.world.tickets[ticket]
        if ask.models <= self.world.models.keys():
            self.world.request(*ask.models, asker=ask.asker)
        self.world.release(ticket)

    @precondition(lambda self: self.world.waiting)
    @rule(index=indexes)
    def give_up(self, index: int) -> None:
        self.world.release(pick(self.world.waiting, index))

    @rule(models=model_sets)
    def leave_at_once(self, models: list[int]) -> None:
        ticket = self.world.request(*{pick(self.world.models, i) for i in models})
        self.world.release(ticket)

    @rule(models=model_sets)
    def ask_and_get(self, models: list[int]) -> None:
        self.request(models)
        self._end_what_is_under_way()

    @rule(models=model_sets)
    def ask_and_get_and_all_finish(self, models: list[int]) -> None:
        self.request(models)
        self._end_what_is_under_way(and_finish=True)

    @rule(first=indexes, second=indexes, third=indexes)
    def one_inherits_a_load(self, first: int, second: int, third: int) -> None:
        """The first of three gives up; its load goes on, now for the third, with the second before that."""
        a, b, c = (pick(self.world.models, i) for i in (first, second, third))
        self._end_what_is_under_way(and_finish=True)
        if not {a, b, c} <= self.world.models.keys():
            return  # the configuration has changed
        ticket = self.world.request(a)
        for name in self.world.at(STOPPING, FALLING_ASLEEP):
            self.world.ends(name)
        if not {a, b, c} <= self.world.models.keys():
            return
        self.world.request(b)
        self.world.request(a, c)
        self.world.release(ticket)
        if a in self.world.at(LOADING, WAKING):
            self.world.ends(a)

    @precondition(lambda self: not self.calm)
    @rule(first=indexes, second=indexes)
    def a_load_beside_an_idle_one_runs_out_of_memory(self, first: int, second: int) -> None:
        self.request([first])
        self._end_what_is_under_way(and_finish=True)
        names = list(self.world.models)
        name = names[second % len(names)]
        self.world.request(name)
        if name in self.world.at(LOADING):
            self.world.load_failed(name, out_of_memory=True)
            self._end_what_is_under_way()

    def _end_what_is_under_way(self, and_finish: bool = False) -> None:
        for _ in range(6):
            for name in self.world.at(*UNDER_WAY):
                if name in self.world.at(*UNDER_WAY):
                    self.world.ends(name)
            for ticket in list(self.world.live) if and_finish else ():
                self.world.release(ticket)

    @precondition(lambda self: self.world.at(LOADING))
    @rule(index=indexes)
    def load_ends_well(self, index: int) -> None:
        self.world.loaded(pick(self.world.at(LOADING), index))

    @precondition(lambda self: self.world.at(LOADING) and not self.calm)
    @rule(index=indexes, out_of_memory=st.booleans())
    def load_fails(self, index: int, out_of_memory: bool) -> None:
        self.world.load_failed(pick(self.world.at(LOADING), index), out_of_memory=out_of_memory)

    @precondition(lambda self: self.world.at(STOPPING))
    @rule(index=indexes)
    def stop_ends(self, index: int) -> None:
        self.world.stopped(pick(self.world.at(STOPPING), index))

    @precondition(lambda self: self.world.at(FALLING_ASLEEP))
    @rule(index=indexes, device_bytes=st.sampled_from([None, None, 0, 1, 2]), ram=st.sampled_from([None, None, 0, 3]))
    def sleep_ends(self, index: int, device_bytes: int | None, ram: int | None) -> None:
        """With what was measured: another size than was thought, but no growth of what is held."""
        name = pick(self.world.at(FALLING_ASLEEP), index)
        held = self.world.models[name].held
        measured = None
        if device_bytes is not None:
            measured = {d: min(n, device_bytes) for d, n in held.device_bytes.items()}
        self.world.slept(name, measured, None if ram is None else min(ram, held.host_bytes))

    @precondition(lambda self: self.world.at(WAKING))
    @rule(index=indexes)
    def wake_ends(self, index: int) -> None:
        self.world.woken(pick(self.world.at(WAKING), index))

    @precondition(lambda self: self.world.at(FALLING_ASLEEP, WAKING) and not self.calm)
    @rule(index=indexes)
    def sleep_or_wake_fails(self, index: int) -> None:
        name = pick(self.world.at(FALLING_ASLEEP, WAKING), index)
        (self.world.wake_failed if name in self.world.at(WAKING) else self.world.sleep_failed)(name)

    @precondition(lambda self: self.world.at(AWAKE, FALLING_ASLEEP, ASLEEP, WAKING) and not self.calm)
    @rule(index=indexes)
    def engine_crashes(self, index: int) -> None:
        self.world.crashed(pick(self.world.at(AWAKE, FALLING_ASLEEP, ASLEEP, WAKING), index))

    @precondition(lambda self: not self.calm)
    @rule(device=st.integers(0, 1), held=st.integers(0, 6))
    def others_take_memory(self, device: int, held: int) -> None:
        if device in self.world.budget.device_bytes:
            self.world.outside({device: held} if held else {})

    @precondition(lambda self: not self.calm)
    @rule(index=indexes, how=st.sampled_from(Away))
    def operator_puts_away(self, index: int, how: Away) -> None:
        self.world.put_away(pick(self.world.models, index), how)

    @precondition(lambda self: not self.calm)
    @rule(index=indexes, pinned=st.booleans())
    def operator_pins(self, index: int, pinned: bool) -> None:
        self.world.pin(pick(self.world.models, index), pinned)

    @precondition(lambda self: not self.calm)
    @rule(index=indexes)
    def operator_resets(self, index: int) -> None:
        self.world.reset(pick(self.world.models, index))

    @precondition(lambda self: not self.calm)
    @rule(data=st.data(), gone=indexes, new=indexes, change=st.booleans())
    def configuration_changes(self, data: st.DataObject, gone: int, new: int, change: bool) -> None:
        """One model goes (or changes), and another may come."""
        devices = len(self.world.budget.device_bytes)
        specs = {name: m.spec for name, m in self.world.models.items()}
        changed = []
        name = pick(specs, gone)
        if change:
            specs[name] = data.draw(st.composite(spec_of)(name, devices))
            changed.append(name)
        elif len(specs) > 1:
            del specs[name]
        if (name := "abcdef"[new]) not in self.world.models:
            specs[name] = data.draw(st.composite(spec_of)(name, devices))
        self.world.reconfigure(list(specs.values()), changed)

    @rule(seconds=st.sampled_from([0.1, 0.7, 1.0, 2.5, 7.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @precondition(lambda self: self.world.deadline() < math.inf)
    @rule()
    def deadline_comes(self) -> None:
        for at in (math.nextafter(self.world.deadline(), 0.0), self.world.deadline()):
            self.world.tick(until=at)

    def teardown(self) -> None:
        if not hasattr(self, "world") or self.world.broken:
            return
        began, durations = self.world.now, Durations()
        left = list(self.world.waiting)
        play(self.world, durations)
        if self.calm:
            for place, ticket in enumerate(left):
                granted_at = self.world.tickets[ticket].granted_at
                require(granted_at is not None, f"ticket {ticket} was never granted though all went well")
                assert granted_at is not None
                bound = began + longest_wait_s(self.world, durations, place)
                require(granted_at <= bound, f"starved: ticket {ticket} waited until {granted_at}, not {bound}")
            refusals = {r.refusal for r in self.world.refused.values()}
            require(refusals <= {Refusal.NEVER_FITS}, f"refused though all went well: {refusals}")
