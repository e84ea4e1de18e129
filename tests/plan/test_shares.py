"""How a device is shared out."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from arena_server.plan.shares import Device, Want, hundredths_up, share_out, together


@st.composite
def wants(draw: st.DrawFn) -> Want:
    least = draw(st.integers(1, 90))
    comfortable = draw(st.integers(least, 100))
    return Want(least, comfortable, draw(st.integers(comfortable, 200)), pinned=draw(st.booleans()))


DEVICES = st.builds(
    Device,
    budget=st.integers(90, 100),
    context=st.integers(0, 5) | st.fractions(0, 5),
    sleeper=st.integers(0, 15),
    max_awake=st.none() | st.integers(1, 4),
    sleepers=st.integers(0, 6),
)


@given(st.lists(wants(), min_size=1, max_size=6), DEVICES)
def test_any_so_many_of_them_fit_with_what_the_sleepers_keep(models: list[Want], device: Device) -> None:
    shared = share_out(models, device)
    assert all(share >= want.least for share, want in zip(shared.shares, models, strict=True))
    pinned = [i for i, want in enumerate(models) if want.pinned]
    if shared.together < max(1, len(pinned)):
        return  # not even the pinned ones fit, or not the largest
    for chosen in combinations(range(len(models)), shared.together):
        if set(pinned) <= set(chosen):
            used = sum(shared.shares[i] for i in chosen)
            assert used + shared.sleepers * device.sleeper <= device.room(shared.together)


@given(st.lists(wants(), min_size=2, max_size=6), DEVICES)
def test_two_go_together_wherever_two_can(models: list[Want], device: Device) -> None:
    leasts, pinned = [want.least for want in models], [want.pinned for want in models]
    shared = share_out(models, device)
    assert shared.together >= min(2, together(leasts, pinned, device))


@given(st.lists(wants(), min_size=2, max_size=6), DEVICES)
def test_no_two_that_could_be_together_are_kept_apart(models: list[Want], device: Device) -> None:
    shares = share_out(models, device).shares
    pinned = {i for i, want in enumerate(models) if want.pinned}
    for pair in combinations(range(len(models)), 2):
        chosen = pinned.union(pair)  # those are always there
        allowed = device.max_awake is None or len(chosen) <= device.max_awake
        if allowed and sum(models[i].least for i in chosen) <= device.room(len(chosen)):
            assert sum(shares[i] for i in chosen) <= device.room(len(chosen))


def test_what_is_left_is_shared_evenly_and_no_more_than_can_be_used() -> None:
    device = Device(budget=95)
    assert share_out([Want(20, 25, 100), Want(30, 35, 100)], device).shares == (42, 52)  # one is left over
    assert share_out([Want(20, 25, 28), Want(30, 35, 100)], device).shares == (28, 67)  # the other gets the rest


def test_sleepers_keep_their_room_and_contexts_theirs() -> None:
    models = [Want(20, 40, 100)] * 3
    assert share_out(models, Device(budget=95)).shares == (47, 47, 47)
    assert share_out(models, Device(budget=95, sleeper=9, sleepers=3)).shares == (43, 43, 43)  # two awake, one asleep
    assert share_out(models, Device(budget=95, sleeper=9, sleepers=0)).shares == (47, 47, 47)  # no RAM for it
    assert share_out(models, Device(budget=95, context=5)).shares == (45, 45, 45)


def test_one_at_a_time_leaves_the_sleepers_their_room() -> None:
    alone = share_out([Want(60, 60, 100)] * 3, Device(budget=95, sleeper=9, sleepers=3))
    assert (alone.shares, alone.together, alone.sleepers) == ((77, 77, 77), 1, 2)
    large = share_out([Want(80, 80, 100)] * 3, Device(budget=95, sleeper=9, sleepers=3))
    assert (large.shares, large.sleepers) == ((86, 86, 86), 1)


def test_more_together_rather_than_more_for_each_but_only_in_comfort() -> None:
    assert share_out([Want(20, 30, 100)] * 3, Device(budget=95)).together == 3
    assert share_out([Want(20, 40, 100)] * 3, Device(budget=95)).together == 2
    assert share_out([Want(40, 90, 100)] * 3, Device(budget=95)).together == 2  # a pair, whatever the comfort
    assert share_out([Want(50, 60, 100)] * 3, Device(budget=95)).together == 1
    assert share_out([Want(20, 30, 100)] * 3, Device(budget=95, max_awake=1)).together == 1


def test_pinned_ones_are_in_every_choice() -> None:
    pinned = Want(50, 50, 100, pinned=True)
    shared = share_out([pinned, Want(40, 40, 100), Want(30, 30, 100)], Device(budget=95))
    assert shared.together == 2
    assert shared.shares[0] + shared.shares[1] <= 95


def test_two_that_battle_go_beside_a_pinned_one_too_where_they_can() -> None:
    pinned = Want(30, 40, 100, pinned=True)
    shared = share_out([Want(30, 40, 100), Want(30, 40, 100), pinned], Device(budget=95))
    assert (shared.together, shared.shares) == (3, (31, 31, 31))
    tight = share_out([Want(40, 40, 100), Want(30, 40, 100), pinned], Device(budget=95))
    assert tight.together == 2  # with one of them at a time
    assert tight.shares[2] + max(tight.shares[:2]) <= 95


def test_contexts_are_not_rounded_up_one_by_one() -> None:
    """On a T4 half a GiB is 3.3 hundredths: two leave 93, not 92, and that is a pair."""
    t4 = Device(budget=95, context=Fraction(10, 3))
    shared = share_out([Want(48, 60, 100), Want(38, 50, 100), Want(45, 60, 100)], t4)
    assert (shared.together, shared.shares[0] + shared.shares[2]) == (2, 93)


def test_hundredths() -> None:
    assert [hundredths_up(n, 1000) for n in (0, 1, 10, 11, 1000, 2000)] == [0, 1, 1, 2, 100, 200]
