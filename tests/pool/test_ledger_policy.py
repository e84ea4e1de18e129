"""What fits, and who has to leave, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_server.pool.ledger import NOTHING, Budget, Footprint, Holding, Ledger, OverBudget
from arena_server.pool.policy import Candidate, Victims, choose_victims


def on(*device_bytes: int, ram: int = 0) -> Holding:
    """An awake model's holding: bytes on device 0, and on device 1."""
    return Holding({d: n for d, n in enumerate(device_bytes) if n}, ram)


def sleeping(*device_bytes: int, ram: int = 0) -> Holding:
    return Holding({d: n for d, n in enumerate(device_bytes) if n}, ram, place=False)


def ledger(
    held: Mapping[str, Holding],
    room: int = 3,
    max_awake: int | None = None,
    ram: int | None = None,
    outside: Footprint | None = None,
) -> Ledger:
    return Ledger(Budget({0: room, 1: room}, max_awake, ram), dict(held), outside or {})


def idle(name: str, last_used: float, asleep: Holding | None = None) -> Candidate:
    return Candidate(name, asleep, last_used)


def busy(name: str, last_used: float, asleep: Holding | None = None) -> Candidate:
    return Candidate(name, asleep, last_used, busy=True)


def sleeper(name: str, last_used: float) -> Candidate:
    return Candidate(name, None, last_used, sleeper=True)


# The ledger


def test_what_is_reserved_counts_per_device_until_it_is_released() -> None:
    books = ledger({})
    books.reserve("a", on(2))
    books.reserve("b", on(1, 3, ram=5))
    assert (books.reserved(0), books.reserved(1), books.host_reserved) == (3, 3, 5)
    books.release("b")
    assert (books.reserved(0), books.reserved(1), books.host_reserved) == (2, 0, 0)


def test_a_reservation_over_budget_raises_and_changes_nothing() -> None:
    books = ledger({"a": on(2)})
    with pytest.raises(OverBudget, match=r"^b: "):
        books.reserve("b", on(2))
    assert books.held == {"a": on(2)}


def test_a_reservation_over_the_limit_of_models_raises() -> None:
    books = ledger({"a": on(1)}, max_awake=1)
    with pytest.raises(OverBudget):
        books.reserve("b", on(0, 1))


def test_a_reservation_over_the_hosts_ram_raises() -> None:
    books = ledger({"a": sleeping(ram=2)}, ram=3)
    with pytest.raises(OverBudget):
        books.reserve("b", sleeping(ram=2))


def test_a_second_reservation_for_the_same_model_takes_the_place_of_the_first() -> None:
    books = ledger({"a": on(3)})
    books.reserve("a", sleeping(1, ram=4))
    assert books.held == {"a": sleeping(1, ram=4)}


def test_who_sleeps_takes_no_place_among_the_awake() -> None:
    books = ledger({"a": sleeping(1), "b": on(1)}, max_awake=2)
    books.reserve("c", on(1))
    assert books.shortage({"a": on(1)}).places == 1


def test_a_shortage_names_what_lacks_and_no_more() -> None:
    books = ledger({"a": on(2, 2, ram=1)}, max_awake=2, ram=2)
    shortage = books.shortage({"b": on(2, ram=3), "c": on(0, 1)})
    assert (shortage.device_bytes, shortage.places, shortage.host_bytes) == ({0: 1}, 1, 2)
    assert shortage
    assert not books.shortage({"b": on(1, ram=1)})


def test_a_shortage_is_helped_by_who_holds_something_of_what_lacks() -> None:
    of_bytes = ledger({"a": on(3)}).shortage({"b": on(1)})
    assert of_bytes.helped_by(on(1, 1))
    assert not of_bytes.helped_by(on(0, 1))
    of_places = ledger({"a": on(1)}, max_awake=1).shortage({"b": on(1)})
    assert of_places.helped_by(on(0, 1))
    assert not of_places.helped_by(sleeping(1))
    of_ram = ledger({"a": sleeping(ram=1)}, ram=1).shortage({"b": sleeping(ram=1)})
    assert of_ram.helped_by(sleeping(ram=1))
    assert not of_ram.helped_by(on(3, 3))


def test_what_others_hold_of_a_device_lacks_there() -> None:
    books = ledger({"a": on(1)}, outside={0: 1})
    assert not books.shortage({"b": on(1)})
    assert books.shortage({"b": on(2)}).device_bytes == {0: 1}
    assert not books.shortage({"b": on(0, 3)})


def test_what_is_held_may_stay_even_if_others_have_taken_too_much() -> None:
    books = ledger({"a": on(2, ram=2)}, room=2, ram=1, max_awake=0, outside={0: 2})
    assert not books.shortage({"a": on(2, ram=2)})
    books.reserve("a", on(1, ram=1))
    assert books.shortage({"a": on(2, ram=2)}).device_bytes == {0: 2}


def test_a_copy_is_a_plan_that_costs_nothing() -> None:
    books = ledger({"a": on(1), "b": on(1)}, outside={1: 3})
    plan = books.copy(without=["a"])
    plan.reserve("c", on(2))
    assert books.held.keys() == {"a", "b"}
    assert plan.held.keys() == {"b", "c"}
    assert plan.shortage({"d": on(0, 1)})


# The policy: who has to leave


def want(*device_bytes: int) -> dict[str, Holding]:
    return {"new": on(*device_bytes)}


def test_idle_models_leave_before_busy_ones_and_then_the_least_recently_used() -> None:
    books = ledger({name: on(1) for name in "abc"})
    models = [busy("a", 0.0), idle("b", 2.0), idle("c", 1.0)]
    assert choose_victims(books, want(1), models) == Victims(stop=("c",))
    assert choose_victims(books, want(2), models) == Victims(stop=("c", "b"))
    assert choose_victims(books, want(3), models) == Victims(stop=("c", "b", "a"), any_busy=True)


def test_sparing_a_wanted_one_that_cannot_sleep_leaves_after_the_busy_ones() -> None:
    books = ledger({name: on(1) for name in "abc"})
    dear = Candidate("a", None, 0.0, turn=1)
    models = [dear, busy("b", 0.0), idle("c", 1.0)]
    assert choose_victims(books, want(1), models, sparing=True).stop == ("c",)
    assert choose_victims(books, want(2), models, sparing=True).stop == ("c", "b")
    assert choose_victims(books, want(3), models, sparing=True).stop == ("c", "b", "a")
    assert choose_victims(books, want(2), models).stop == ("c", "a")
    can_sleep = Candidate("a", sleeping(), 0.0, turn=1)
    assert choose_victims(books, want(1), [can_sleep, busy("b", 0.0)], sparing=True).sleep == ("a",)


def test_models_that_are_not_needed_in_the_end_are_spared() -> None:
    books = ledger({"small": on(1), "big": on(2)})
    assert choose_victims(books, want(2), [idle("small", 0.0), idle("big", 1.0)]).stop == ("big",)


def test_models_that_do_not_help_are_spared() -> None:
    books = ledger({"elsewhere": on(0, 3), "here": on(3)})
    victims = choose_victims(books, want(1), [idle("elsewhere", 0.0), busy("here", 1.0)])
    assert victims == Victims(stop=("here",), any_busy=True)


def test_one_that_was_asked_to_leave_goes_on_with_it_rather_than_another() -> None:
    books = ledger({"a": on(1), "b": on(2)})
    leaving = Candidate("b", None, 1.0, leaving=True)
    assert choose_victims(books, want(1), [idle("a", 0.0), leaving]).stop == ("b",)


def test_one_that_is_busy_and_leaving_is_spared_for_one_that_is_idle() -> None:
    books = ledger({"a": on(1), "b": on(2)})
    leaving = Candidate("b", None, 0.0, busy=True, leaving=True)
    assert choose_victims(books, want(1), [idle("a", 1.0), leaving]) == Victims(stop=("a",))


def test_nobody_leaves_where_there_is_room() -> None:
    assert choose_victims(ledger({"a": on(1)}), want(2), [idle("a", 0.0)]) == Victims()


def test_it_says_so_when_not_even_all_of_them_are_enough() -> None:
    books = ledger({"a": on(1), "not to leave": on(2)})
    assert choose_victims(books, want(2), [idle("a", 0.0)]) == Victims(enough=False)


def test_what_others_hold_makes_more_leave_until_nothing_helps() -> None:
    books = ledger({"a": on(1)}, outside={0: 1})
    assert choose_victims(books, want(2), [idle("a", 0.0)]).stop == ("a",)
    assert not choose_victims(books, want(3), [idle("a", 0.0)]).enough


# And how


def test_who_has_to_leave_sleeps_if_it_can() -> None:
    books = ledger({"a": on(2), "b": on(1)})
    models = [idle("a", 0.0, sleeping(1)), idle("b", 1.0)]
    assert choose_victims(books, want(1), models) == Victims(sleep=("a",))
    models = [idle("a", 0.0, sleeping()), idle("b", 1.0)]
    assert choose_victims(books, want(3), models) == Victims(sleep=("a",), stop=("b",))


def test_who_leaves_is_stopped_rather_than_that_another_has_to_leave_for_what_it_holds_asleep() -> None:
    books = ledger({"a": on(2), "b": on(1)})
    models = [idle("a", 0.0, sleeping(1)), idle("b", 1.0)]
    assert choose_victims(books, want(2), models) == Victims(stop=("a",))


def test_who_would_hold_too_much_asleep_is_stopped() -> None:
    books = ledger({"a": on(3)})
    assert choose_victims(books, want(2), [idle("a", 0.0, sleeping(1))]) == Victims(sleep=("a",))
    assert choose_victims(books, want(3), [idle("a", 0.0, sleeping(1))]) == Victims(stop=("a",))


def test_of_those_that_leave_the_most_recently_used_sleeps_if_only_one_can() -> None:
    books = ledger({"a": on(1), "b": on(1)}, room=2, ram=1)
    models = [idle("a", 0.0, sleeping(ram=1)), idle("b", 1.0, sleeping(ram=1))]
    assert choose_victims(books, want(2), models) == Victims(sleep=("b",), stop=("a",))


def test_a_sleeper_is_stopped_before_another_has_to_leave() -> None:
    books = ledger({"asleep": sleeping(1), "a": on(1), "b": on(1)})
    models = [sleeper("asleep", 9.0), idle("a", 0.0), idle("b", 1.0)]
    assert choose_victims(books, want(1), models) == Victims(stop=("asleep",))


def test_sleepers_are_stopped_the_least_recently_used_first_and_no_more_than_needed() -> None:
    books = ledger({"a": sleeping(1), "b": sleeping(1), "c": sleeping(1)})
    models = [sleeper("a", 2.0), sleeper("b", 0.0), sleeper("c", 1.0)]
    assert choose_victims(books, want(2), models).stop == ("b", "c")
    books = ledger({"a": sleeping(2), "b": sleeping(1), "c": sleeping(0, 3)})
    assert choose_victims(books, want(2), models).stop == ("a",)


def test_a_sleeper_on_any_device_is_stopped_for_its_ram() -> None:
    books = ledger({"elsewhere": sleeping(0, 1, ram=2), "a": on(3)}, ram=2)
    models = [sleeper("elsewhere", 0.0), idle("a", 1.0, sleeping(ram=2))]
    assert choose_victims(books, want(3), models) == Victims(sleep=("a",), stop=("elsewhere",))


def test_one_that_leaves_is_stopped_itself_rather_than_a_sleeper_that_was_used_after_it() -> None:
    books = ledger({"elsewhere": sleeping(0, 1, ram=2), "a": on(3)}, ram=2)
    models = [sleeper("elsewhere", 2.0), idle("a", 1.0, sleeping(ram=2))]
    assert choose_victims(books, want(3), models) == Victims(stop=("a",))


# Whatever the situation

footprints = st.dictionaries(st.integers(0, 1), st.integers(1, 4), min_size=1)
residuals = st.dictionaries(st.integers(0, 1), st.integers(0, 1))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Ledger, dict[str, Holding], list[Candidate]]:
    """What is held (within its budget), what is wanted, and which of those that are held could leave or be stopped."""
    held, candidates = {}, []
    for name in "abcdef"[: draw(st.integers(0, 6))]:
        is_sleeper, ram = draw(st.booleans()), draw(st.integers(0, 2))
        asleep = Holding(draw(residuals), max(ram, draw(st.integers(0, 2))), place=False)
        held[name] = asleep if is_sleeper else Holding(draw(footprints), ram)
        can_sleep = draw(st.booleans()) and not is_sleeper
        last_used = draw(st.sampled_from([0.0, 1.0, 2.0]))
        is_busy, leaving = (not is_sleeper and draw(st.booleans()) for _ in range(2))
        turn = draw(st.sampled_from([math.inf, math.inf, 0.0, 1.0]))
        if draw(st.sampled_from([True, True, True, False])):
            candidates.append(
                Candidate(name, asleep if can_sleep else None, last_used, is_busy, leaving, is_sleeper, turn)
            )
    room = {d: sum(h.device_bytes.get(d, 0) for h in held.values()) + draw(st.integers(0, 4)) for d in (0, 1)}
    max_awake = draw(st.none() | st.integers(max(1, len(held)), 7))
    ram_room = draw(st.none() | st.integers(0, 3))
    if ram_room is not None:
        ram_room += sum(h.host_bytes for h in held.values())
    outside = draw(st.just({}) | st.dictionaries(st.integers(0, 1), st.integers(0, 2)))
    wanted = {name: Holding(draw(footprints)) for name in "xyz"[: draw(st.integers(1, 3))]}
    return Ledger(Budget(room, max_awake, ram_room), held, outside), wanted, candidates


@settings(max_examples=500, derandomize=True, deadline=None, database=None)
@given(situations(), st.booleans())
def test_victims_are_as_few_and_as_idle_as_they_can_be(
    situation: tuple[Ledger, dict[str, Holding], list[Candidate]], sparing: bool
) -> None:
    books, wanted, candidates = situation
    before = dict(books.held)
    victims = choose_victims(books, wanted, candidates, sparing=sparing)
    assert books.held == before
    by_name = {c.name: c for c in candidates}
    assert len(victims.sleep) + len(victims.stop) == len(victims.leaving)
    assert victims.leaving <= by_name.keys()
    assert all(by_name[name].asleep is not None for name in victims.sleep)

    def short_without(names: set[str], asleep: Mapping[str, Holding] | None = None) -> bool:
        """Whether room lacks, even if these are gone and those asleep."""
        return bool(books.shortage({**wanted, **dict.fromkeys(names, NOTHING), **(asleep or {})}))

    everybody = set(by_name)
    assert victims.enough == (not short_without(everybody))
    if not victims.enough:
        assert not victims.leaving
        return
    to_sleep = {name: asleep for name in victims.sleep if (asleep := by_name[name].asleep) is not None}
    assert not short_without(set(victims.stop), to_sleep)

    sleepers = {c.name for c in candidates if c.sleeper}
    awake = set(victims.leaving) - sleepers
    for name in awake:  # none of them could stay, not even if all that sleep were stopped
        assert short_without((awake - {name}) | sleepers)
    for name in sleepers.intersection(victims.stop):  # none of them could go on sleeping
        assert short_without(set(victims.stop) - {name}, to_sleep)
    for name in awake.intersection(victims.stop):  # none of them could sleep
        if (asleep := by_name[name].asleep) is not None:
            assert short_without(set(victims.stop) - {name}, {**to_sleep, name: asleep})

    assert victims.any_busy == any(by_name[name].busy for name in victims.leaving)
    spared = {c.name for c in candidates if sparing and not c.sleeper and c.dear}
    if not short_without({c.name for c in candidates if not c.busy and c.name not in spared}):
        assert not victims.any_busy
    if not short_without(everybody - spared):
        assert spared.isdisjoint(victims.leaving)
