"""Whatever happens in whatever order, the rules hold; and the tests would notice if one did not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from arena_server.pool.core import PoolCore

from . import mutations
from .machine import PoolMachine, Setup, askers, model_sets, pick, setups
from .simulation import Durations, longest_wait_s, play
from .world import Violation, World

SETTINGS = settings(
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    # Not `explain`: it plays a failure hundreds of times more, for minutes.
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


def machine_of(core: type[PoolCore]) -> type[PoolMachine]:
    return type(f"{core.__name__}Machine", (PoolMachine,), {"core": core})


def test_the_rules_hold_whatever_happens() -> None:
    run_state_machine_as_test(PoolMachine, settings=settings(SETTINGS, max_examples=500, stateful_step_count=50))


# Each mutation, and what is seen of it.
CAUGHT_BY = {
    mutations.HoldAndWait: "stranded",
    mutations.NoReservation: "over budget",
    mutations.DrainIgnored: "was granted while it drained|loads again beside idle",
    mutations.LeakOnCancel: "though it did not wait|out of order",
    mutations.LeakAtGrant: "stranded|leaked",
    mutations.AnyoneEvicts: "evicted|needs",
    mutations.EvictsBusy: "was stopped under a lease",
    mutations.NoPatience: "without patience|unserved",
    mutations.EarlyRelease: "over budget",
    mutations.NoProtectionOfTheUnserved: "was evicted unserved|in its sleep in vain",
    mutations.NoProtectionOfTheCountedOn: "counts on it",
    mutations.TransitionsOverlap: "two transitions",
    mutations.RoomIsTaken: "takes room that an older waiter needs|starts for nobody",
    mutations.DeadlinesMissed: "the next deadline was",
    mutations.ResidualForgotten: "over budget",
    mutations.HostMemoryForgotten: "no host RAM",
    mutations.HostMemoryFreedByWaking: "no host RAM|in its sleep in vain",
    mutations.SleepsUnderLease: "under a lease",
    mutations.LeasedThoughDismissed: "though it was told to leave",
    mutations.NeedlessStops: "in its sleep in vain",
    mutations.OutsideIgnored: "over budget|starts for nobody",
    mutations.RetriesInFullHouse: "loads again beside idle",
    mutations.WaitsForEver: "longer than the wait limit",
    mutations.SidesHeldTogether: "stranded|leaked|starved|never granted",
    mutations.OneLongQueue: "out of order",
    mutations.PassesTheHead: "out of order",
    mutations.TurnsForgotten: "out of order|unfair",
}


@pytest.mark.parametrize("mutation", CAUGHT_BY, ids=lambda mutation: mutation.__name__)
def test_a_broken_rule_is_noticed(mutation: type[PoolCore]) -> None:
    quick = settings(
        SETTINGS, max_examples=3000, stateful_step_count=50, phases=[Phase.generate], report_multiple_bugs=False
    )
    with pytest.raises(Violation, match=CAUGHT_BY[mutation]):
        run_state_machine_as_test(machine_of(mutation), settings=quick)


@settings(SETTINGS, max_examples=200)
@given(
    setup=setups(calm=True),
    arrivals=st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 3.0]), model_sets, askers), max_size=60),
    hold_s=st.sampled_from([0.5, 6.0]),
)
def test_steady_traffic_starves_nobody(
    setup: Setup, arrivals: list[tuple[float, list[int], str]], hold_s: float
) -> None:
    world, durations = World(setup.specs, setup.budget, setup.limits), Durations(hold_s=hold_s)
    at, script = 0.0, []
    for gap_s, indexes, asker in arrivals:
        at += gap_s
        script.append((at, frozenset(pick(world.models, i) for i in indexes), asker))
    play(world, durations, script)
    for number, ticket in world.tickets.items():
        if not world.fits(ticket.models):
            assert number in world.refused
            continue
        assert ticket.granted_at is not None
        waited_s = ticket.granted_at - ticket.asked_at
        assert waited_s <= longest_wait_s(world, durations, ticket.ahead)
