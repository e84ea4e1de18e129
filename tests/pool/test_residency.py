"""The table of moves."""

from __future__ import annotations

from itertools import product

import pytest

from arena_server.pool.residency import COMING_UP, IN_TRANSITION, MOVES, IllegalMove, Residency, diagram, move

LISTED = [(now, to) for now, moves in MOVES.items() for to in moves]
OTHERS = [pair for pair in product(Residency, repeat=2) if pair not in LISTED]


@pytest.mark.parametrize(("now", "to"), LISTED)
def test_every_listed_move_is_made(now: Residency, to: Residency) -> None:
    assert move("a", now, to) is to


@pytest.mark.parametrize(("now", "to"), OTHERS)
def test_every_other_move_is_illegal(now: Residency, to: Residency) -> None:
    with pytest.raises(IllegalMove, match=f"^a: {now} -> {to}$"):
        move("a", now, to)


def test_every_residency_can_be_reached_from_cold_and_left() -> None:
    reached = {Residency.COLD}
    while more := {to for now in reached for to in MOVES[now]} - reached:
        reached |= more
    assert reached == set(Residency)
    assert all(MOVES[now] for now in Residency)


def test_the_diagram_has_every_move_and_nothing_else() -> None:
    lines = [line.strip() for line in diagram().splitlines()]
    assert lines[:2] == ["stateDiagram-v2", "[*] --> cold"]
    assert lines[2:] == [f"{word(now)} --> {word(to)}: {MOVES[now][to]}" for now, to in LISTED]


def word(residency: Residency) -> str:
    """A state's name in a diagram has no spaces."""
    return residency.value.replace(" ", "_")


def test_memory_is_given_back_by_a_completed_stop_alone() -> None:
    without_memory = {Residency.COLD, Residency.FAILED}
    giving = {now for now, to in LISTED if now not in without_memory and to in without_memory}
    assert giving == {Residency.STOPPING}


def test_whatever_is_in_transition_can_fail_and_is_then_stopped() -> None:
    for residency in IN_TRANSITION - {Residency.STOPPING}:
        assert Residency.STOPPING in MOVES[residency]


def test_a_model_becomes_awake_by_a_load_or_a_wake_alone() -> None:
    assert {now for now, to in LISTED if to is Residency.AWAKE} == COMING_UP
    assert COMING_UP < IN_TRANSITION


def test_only_an_awake_model_falls_asleep_and_only_a_sleeping_one_wakes() -> None:
    assert {now for now, to in LISTED if to is Residency.FALLING_ASLEEP} == {Residency.AWAKE}
    assert {now for now, to in LISTED if to is Residency.WAKING} == {Residency.ASLEEP}
