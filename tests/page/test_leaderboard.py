"""The leaderboard as a picture and a table."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.page.answers import saying
from tests.page.daemon import HeldDaemon
from tests.page.visitor import Visitor

BOARD = {
    "updated_at": "2026-11-21T12:00:00+00:00",
    "votes": 300,
    "scale": "Elo-like",
    "models": [
        {"model": name, "rank": rank, "rating": rating, "lower": rating - 40, "upper": rating + 60, "votes": 100,
         "wins": 50, "losses": 30, "ties": 15, "both_bad": 5, "votes_needed": 0}
        for name, rank, rating in (("best", 1, 1200), ("middle", 2, 1000), ("<b>worst</b>", 3, 800))
    ] + [
        {"model": "new", "rank": None, "rating": None, "lower": None, "upper": None, "votes": 0,
         "wins": 0, "losses": 0, "ties": 0, "both_bad": 0, "votes_needed": None},
    ],
    "pairs": [{"a": "best", "b": "middle", "a_wins": 6, "b_wins": 2, "ties": 1, "both_bad": 1}],
}  # fmt: skip


def test_without_votes_it_says_so(visitor: Visitor) -> None:
    visitor.visit("leaderboard")
    expect(visitor.page.get_by_text("No votes yet")).to_be_visible()


def test_a_vote_is_on_it(visitor: Visitor, daemon: HeldDaemon) -> None:
    daemon.engines(lambda e: setattr(e, "reply", saying([f"{e.name}."])))
    visitor.visit()
    visitor.ask("Who are you?")
    visitor.button("A is better").click()
    expect(visitor.page.get_by_role("heading", name="A was")).to_be_visible()
    best = visitor.page.locator(".reveal .name-a").inner_text()
    visitor.page.get_by_role("link", name="Leaderboard").click()
    row = visitor.page.get_by_role("row").nth(1)
    expect(row.get_by_role("rowheader")).to_have_text(best)
    expect(visitor.page.get_by_text("1 vote,")).to_be_visible()


def test_ratings_and_intervals_are_drawn(visitor: Visitor) -> None:
    body = json.dumps(BOARD)
    visitor.page.route("**/v1/arena/leaderboard", lambda r: r.fulfill(body=body, content_type="application/json"))
    visitor.visit("leaderboard")
    picture = visitor.page.get_by_role("img", name="Ratings with 95% intervals")
    expect(picture).to_have_accessible_name("Ratings with 95% intervals. best: 1200 (1160 to 1260); "
                                            "middle: 1000 (960 to 1060); <b>worst</b>: 800 (760 to 860)")  # fmt: skip
    expect(picture.locator("circle")).to_have_count(3)
    at = [float(c.get_attribute("cx") or "") for c in picture.locator("circle").all()]
    assert at == sorted(at, reverse=True)
    assert at[0] - at[1] == pytest.approx(at[1] - at[2])  # as the ratings
    for i, row in enumerate(picture.locator(".rated").all()):
        ends = [float(row.locator(".whisker").first.get_attribute(x) or "") for x in ("x1", "x2")]
        assert ends[0] < at[i] < ends[1]
        assert (at[i] - ends[0]) / (ends[1] - at[i]) == pytest.approx(40 / 60)
    cells = visitor.page.get_by_role("row").nth(3).get_by_role("cell")
    assert cells.all_inner_texts() == ["3", "800", "760 to 860", "100", "50", "30", "15", "5", "0"]
    expect(visitor.page.get_by_role("rowheader", name="<b>worst</b>")).to_be_visible()
    cells = visitor.page.get_by_role("row").nth(4).get_by_role("cell")
    assert cells.all_inner_texts() == ["–", "–", "–", "0", "0", "0", "0", "0", "–"]
    visitor.page.get_by_text("Who won against whom").click()
    expect(visitor.page.locator(".matrix").get_by_text("70 % of 10")).to_be_visible()

    before = picture.get_attribute("width")
    visitor.page.set_viewport_size({"width": 400, "height": 700})
    expect(picture).not_to_have_attribute("width", before or "")
