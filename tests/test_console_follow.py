"""When a load, a sleep or a stop has ended, and how."""

from __future__ import annotations

from typing import Any

import pytest

from arena_server.console.follow import ActionFailed, Journey, line
from arena_server.console.picture import Model
from arena_server.console.shape import read
from tests.test_console_daemon import model_json


def model(residency: str, **more: Any) -> Model:
    return read(Model, model_json("alpha", residency, **more))


def ends(action: str, *residencies: str) -> list[bool]:
    journey = Journey(action, model(residencies[0]))
    return [journey.ended(model(residency)) for residency in residencies]


@pytest.mark.parametrize(
    ("action", "residencies"),
    [
        ("load", ["awake"]),
        ("load", ["cold", "cold", "loading", "awake"]),
        ("load", ["asleep", "waking", "awake"]),
        ("load", ["stopping", "cold", "loading", "awake"]),
        ("load", ["loading", "falling asleep"]),  # awake between two looks
        ("load", ["loading", "asleep"]),
        ("sleep", ["asleep"]),
        ("sleep", ["awake", "falling asleep", "asleep"]),
        ("sleep", ["awake", "falling asleep", "waking"]),
        ("sleep", ["awake", "falling asleep", "awake"]),
        ("sleep", ["loading", "awake", "falling asleep", "asleep"]),
        ("stop", ["cold"]),
        ("stop", ["awake", "stopping", "cold"]),
        ("stop", ["awake", "stopping", "loading"]),
        ("stop", ["asleep", "stopping", "cold"]),
    ],
)
def test_an_action_ends_at_its_goal(action: str, residencies: list[str]) -> None:
    *before, last = ends(action, *residencies)
    assert (any(before), last) == (False, True)


@pytest.mark.parametrize(
    ("action", "residencies", "message"),
    [
        ("load", ["cold", "loading", "stopping", "cold"], "alpha is cold: it was stopped before it was awake"),
        ("sleep", ["awake", "stopping", "cold"], "alpha is cold: it was stopped before it was asleep"),
        ("sleep", ["awake", "falling asleep", "stopping", "cold"], "alpha is cold: it was stopped before"),
        ("load", ["cold", "loading", "stopping", "failed"], "alpha has failed: the daemon gives no reason"),
        ("stop", ["awake", "stopping", "failed"], "alpha has failed: "),
    ],
)
def test_an_action_that_cannot_end_well_is_an_error(action: str, residencies: list[str], message: str) -> None:
    with pytest.raises(ActionFailed, match=message):
        ends(action, *residencies)


def test_a_failure_is_seen_though_the_model_is_cold_again_and_may_be_tried_again() -> None:
    journey = Journey("load", model("loading", failures=1, error="before"))
    assert not journey.ended(model("loading", failures=1, error="before"))
    with pytest.raises(ActionFailed, match="alpha has failed: no memory"):
        journey.ended(model("loading", failures=2, error="no\nmemory"))


@pytest.mark.parametrize("action", ["load", "sleep", "stop"])
def test_a_residency_of_a_later_version_is_waited_out(action: str) -> None:
    assert ends(action, "hibernating") == [False]


@pytest.mark.parametrize("width", [5, 20, 40, 75, 200])
def test_a_line_of_progress_cuts_the_name_before_the_figures(width: int) -> None:
    progress = {"phase": "loading weights", "fraction": 0.5}
    long = read(Model, model_json("org/" + "a-long-name-" * 6 + "awq", "loading", loading=progress, eta_s=21.0))
    text = line(long, width).plain
    assert len(text) <= width
    assert text.endswith("50% loading weights, about 21s left") == (width >= 75)


def test_a_line_without_progress_says_where_the_model_is() -> None:
    assert line(model("awake", draining="asked"), 80).plain == "alpha awake, draining: asked"
    assert line(model("cold", eta_s=60.0), 80).plain == "alpha cold, about 60s left"
