"""The table of moves."""

from __future__ import annotations

from itertools import product

import pytest

from arena_server.pool.residency import HOLDS_MEMORY, IN_TRANSITION, MOVES, IllegalMove, Residency, diagram, move

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
    assert lines[2:] == [f"{now} --> {to}: {MOVES[now][to]}" for now, to in LISTED]


def test_memory_is_given_back_by_a_completed_stop_alone() -> None:
    giving = {(now, to) for now, to in LISTED if now in HOLDS_MEMORY and to not in HOLDS_MEMORY}
    assert {now for now, _ in giving} == {Residency.STOPPING}
    assert IN_TRANSITION < HOLDS_MEMORY
