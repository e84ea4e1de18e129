"""What fits, and who has to leave."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena_server.pool.ledger import Budget, Footprint, Ledger, OverBudget
from arena_server.pool.policy import Candidate, choose_victims


def ledger(held: dict[str, Footprint], room: int = 3, max_awake: int | None = None) -> Ledger:
    return Ledger(Budget({0: room, 1: room}, max_awake), dict(held))


def idle(name: str, last_used: float, footprint: Footprint | None = None) -> Candidate:
    return Candidate(name, footprint or {0: 1}, False, last_used)


def busy(name: str, last_used: float, footprint: Footprint | None = None) -> Candidate:
    return Candidate(name, footprint or {0: 1}, True, last_used)


def among(*candidates: Candidate, room: int = 3, max_awake: int | None = None) -> Ledger:
    return ledger({c.name: c.footprint for c in candidates}, room, max_awake)


def test_what_is_reserved_counts_per_device_until_it_is_released() -> None:
    books = ledger({})
    books.reserve("a", {0: 2})
    books.reserve("b", {0: 1, 1: 3})
    assert (books.reserved(0), books.reserved(1)) == (3, 3)
    books.release("b")
    assert (books.reserved(0), books.reserved(1)) == (2, 0)


def test_a_reservation_over_budget_raises_and_changes_nothing() -> None:
    books = ledger({"a": {0: 2}})
    with pytest.raises(OverBudget, match=r"^b: "):
        books.reserve("b", {0: 2})
    assert books.held == {"a": {0: 2}}


def test_a_reservation_over_the_limit_of_models_raises() -> None:
    books = ledger({"a": {0: 1}}, max_awake=1)
    with pytest.raises(OverBudget):
        books.reserve("b", {1: 1})


def test_a_second_reservation_for_the_same_model_raises() -> None:
    books = ledger({"a": {0: 1}})
    with pytest.raises(OverBudget):
        books.reserve("a", {0: 1})


def test_a_shortage_names_what_lacks_and_no_more() -> None:
    shortage = ledger({"a": {0: 2, 1: 2}}, max_awake=2).shortage([{0: 2}, {1: 1}])
    assert shortage.device_bytes == {0: 1}
    assert shortage.places == 1
    assert shortage
    assert not ledger({"a": {0: 2}}).shortage([{0: 1}])


def test_a_shortage_is_helped_by_those_on_its_devices_or_by_anybody_where_places_lack() -> None:
    of_bytes = ledger({"a": {0: 3}}).shortage([{0: 1}])
    assert of_bytes.helped_by({0: 1, 1: 1})
    assert not of_bytes.helped_by({1: 1})
    of_places = ledger({"a": {0: 1}}, max_awake=1).shortage([{0: 1}])
    assert of_places.helped_by({1: 1})


def test_a_copy_is_a_plan_that_costs_nothing() -> None:
    books = ledger({"a": {0: 1}, "b": {0: 1}})
    plan = books.copy(without=["a"])
    plan.reserve("c", {0: 2})
    assert books.held.keys() == {"a", "b"}
    assert plan.held.keys() == {"b", "c"}


def test_idle_models_leave_before_busy_ones_and_then_the_least_recently_used() -> None:
    models = [busy("a", 0.0), idle("b", 2.0), idle("c", 1.0)]
    assert choose_victims(among(*models), [{0: 1}], models).names == ("c",)
    assert choose_victims(among(*models), [{0: 2}], models).names == ("c", "b")
    everybody = choose_victims(among(*models), [{0: 3}], models)
    assert (everybody.names, everybody.any_busy, everybody.enough) == (("c", "b", "a"), True, True)


def test_models_that_are_not_needed_in_the_end_are_spared() -> None:
    models = [idle("small", 0.0), idle("big", 1.0, {0: 2})]
    assert choose_victims(among(*models), [{0: 2}], models).names == ("big",)


def test_models_that_do_not_help_are_spared() -> None:
    models = [idle("elsewhere", 0.0, {1: 3}), busy("here", 1.0, {0: 3})]
    victims = choose_victims(among(*models), [{0: 1}], models)
    assert (victims.names, victims.any_busy) == (("here",), True)


def test_nobody_leaves_where_there_is_room() -> None:
    victims = choose_victims(among(idle("a", 0.0)), [{0: 2}], [idle("a", 0.0)])
    assert (victims.names, victims.any_busy, victims.enough) == ((), False, True)


def test_it_says_so_when_not_even_all_of_them_are_enough() -> None:
    models = [idle("a", 0.0)]
    books = ledger({"a": {0: 1}, "not to leave": {0: 2}})
    assert not choose_victims(books, [{0: 2}], models).enough


footprints = st.dictionaries(st.integers(0, 1), st.integers(1, 4), min_size=1)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Ledger, list[Footprint], list[Candidate]]:
    """What is held (within its budget), what is wanted, and which of those that are held could leave."""
    held: dict[str, Footprint] = {name: draw(footprints) for name in "abcdef"[: draw(st.integers(0, 6))]}
    room = {d: sum(f.get(d, 0) for f in held.values()) + draw(st.integers(0, 4)) for d in (0, 1)}
    max_awake = draw(st.none() | st.integers(max(1, len(held)), 7))
    candidates = [
        Candidate(name, footprint, draw(st.booleans()), draw(st.sampled_from([0.0, 1.0, 2.0])))
        for name, footprint in held.items()
        if draw(st.sampled_from([True, True, True, False]))
    ]
    return Ledger(Budget(room, max_awake), held), draw(st.lists(footprints, min_size=1, max_size=3)), candidates


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(situations())
def test_victims_are_as_few_and_as_idle_as_they_can_be(
    situation: tuple[Ledger, list[Footprint], list[Candidate]],
) -> None:
    books, wanted, candidates = situation
    before = dict(books.held)
    victims = choose_victims(books, wanted, candidates)
    assert books.held == before
    assert set(victims.names) <= {c.name for c in candidates}
    assert len(set(victims.names)) == len(victims.names)

    everybody_gone = books.copy(without=[c.name for c in candidates])
    assert victims.enough == (not everybody_gone.shortage(wanted))
    if not victims.enough:
        return
    assert not books.copy(without=victims.names).shortage(wanted)
    for name in victims.names:  # none of them could stay
        assert books.copy(without=set(victims.names) - {name}).shortage(wanted)

    by_name = {c.name: c for c in candidates}
    assert victims.any_busy == any(by_name[name].busy for name in victims.names)
    all_idle_gone = books.copy(without=[c.name for c in candidates if not c.busy])
    if not all_idle_gone.shortage(wanted):
        assert not victims.any_busy
