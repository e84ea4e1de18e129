"""The leaderboard as text, and the command before a daemon that says what the test wants."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.cells import cell_len

from arena_server.console.api import BadAnswer, Refused
from arena_server.console.leaderboard import Board, lines, show_leaderboard
from arena_server.console.shape import read
from tests.test_console_daemon import StandIn, error, reply, stand_in

URL = "http://127.0.0.1:8000"
ROUTE = "GET /v1/arena/leaderboard"


def standing(model: str, rank: int | None, *rating: float, **more: Any) -> dict[str, Any]:
    """A model as the daemon shows it; `rating` are the rating and its interval."""
    middle, lower, upper = rating or (None, None, None)
    figures = {"votes": 0, "wins": 0, "losses": 0, "ties": 0, "both_bad": 0, "votes_needed": None, **more}
    return {"model": model, "rank": rank, "rating": middle, "lower": lower, "upper": upper, **figures}


def board_json(*models: dict[str, Any], votes: int = 1500) -> dict[str, Any]:
    return {
        "updated_at": "2026-11-21T12:00:03+00:00",
        "votes": votes,
        "scale": "Elo-like",
        "models": list(models),
        "pairs": [],
    }


BEST = standing(
    "org/best", 1, 1200, 1150, 1300, votes=1234, wins=900, losses=200, ties=100, both_bad=34, votes_needed=0
)
NEXT = standing("second", 2, 1000.4, 900, 1100, votes=250, wins=60, losses=150, ties=30, both_bad=10, votes_needed=3750)
LAST = standing("worst-of-them-all", 3, 800, 800, 860.6, votes=16, wins=0, losses=16, votes_needed=80)
NEW = standing("new", None)
FULL = board_json(BEST, NEXT, LAST, NEW)


def board(value: dict[str, Any]) -> Board:
    return read(Board, value)


def plain(value: dict[str, Any], width: int = 140) -> list[str]:
    return [line.plain.rstrip() for line in lines(board(value), URL, width)]


def test_every_model_has_a_line_and_a_bar_on_one_axis() -> None:
    title, head, best, second, worst, *_ = plain(FULL, 120)
    assert title.startswith("LEADERBOARD  1,500 votes  as of ")
    assert best.split()[:2] == ["1", "org/best"]
    assert second.split()[:2] == ["2", "second"]
    left, right = head.index("800"), head.index("1,300") + len("1,300") - 1
    assert best.index("┤") == right
    assert best.index("├") == left + round((right - left) * 0.7)
    assert best.index("●") == left + round((right - left) * 0.8)
    assert worst.index("●") == left
    assert second.index("├") > worst.index("┤")
    assert second.index("┤") < best.index("├")


def test_with_room_for_all_nothing_is_left_out() -> None:
    _, head, best, second, _, new, _, rank, needed = plain(FULL)
    for word in ("RATING", "95% INTERVAL", "VOTES", "WINS", "TIES", "LOSSES", "BOTH BAD", "NEEDED"):
        assert word in head
    assert best.split("┤")[1].split() == ["1,200", "1,150", "to", "1,300", "1,234", "900", "100", "200", "34", "enough"]
    assert second.split("┤")[1].split() == ["1,000", "900", "to", "1,100", "250", "60", "30", "150", "10", "+3,750"]
    assert new.split() == ["-", "new", "-", "-", "0", "0", "0", "0", "0", "-"]
    assert rank.startswith("RANK is")
    assert needed.startswith("NEEDED: more votes")


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 100, 140, 300])
def test_it_fits_any_terminal(width: int) -> None:
    odd = standing("\x1b[31m日本語\n" + "long-" * 30, 4, 800, 800, 800, votes=10**12)
    for value in (FULL, board_json(votes=0), board_json(BEST), board_json(*FULL["models"], odd)):
        drawn = lines(board(value), URL, width)
        assert all(cell_len(line.plain) <= width for line in drawn)
        assert all("\n" not in line.plain and "\x1b" not in line.plain for line in drawn)


def test_a_narrow_one_keeps_what_says_most() -> None:
    _, head, best, *_ = plain(FULL, 60)
    assert "RATING" in head
    assert "VOTES" in head
    assert "BOTH BAD" not in head
    assert "org/best" in best
    assert "●" in best


def test_one_point_alone_has_a_bar_too() -> None:
    _, _, row, *_ = plain(board_json(standing("a", 1, 1000, 1000, 1000, votes=4, ties=4, votes_needed=0)))
    assert "●" in row


def test_without_votes_it_says_how_to_come_by_some() -> None:
    assert plain(board_json(NEW, standing("other", None), votes=0)) == [
        "LEADERBOARD  0 votes",
        f"No votes yet: battles wait for them at {URL}/",
        "Models: new, other",
    ]


def daemon_says(daemon: StandIn, value: dict[str, Any]) -> None:
    daemon.say(ROUTE, reply(value))


def test_without_a_terminal_it_is_plain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    with stand_in() as daemon:
        daemon_says(daemon, FULL)
        assert show_leaderboard(daemon.url, as_json=False) == 0
        assert daemon.asked == [ROUTE]
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines() == [line.replace(URL, daemon.url) for line in (text.rstrip() for text in plain(FULL, 90))]


def test_on_a_terminal_it_has_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "90"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with stand_in() as daemon:
        daemon_says(daemon, FULL)
        assert show_leaderboard(daemon.url, as_json=False) == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "org/best" in out
    assert len(out.splitlines()) == len(plain(FULL, 90))


def test_json_is_what_the_daemon_says(capsys: pytest.CaptureFixture[str]) -> None:
    with stand_in() as daemon:
        daemon_says(daemon, {**FULL, "later": "more"})
        assert show_leaderboard(daemon.url, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {**FULL, "later": "more"}


def test_a_daemon_that_cannot_rank_is_quoted() -> None:
    with stand_in() as daemon:
        daemon.say(ROUTE, error(500, "The votes could not be ranked; the server's log says why.", "leaderboard_failed"))
        with pytest.raises(Refused, match="could not be ranked"):
            show_leaderboard(daemon.url, as_json=False)


def test_an_answer_of_another_shape_is_an_error() -> None:
    with stand_in() as daemon:
        daemon_says(daemon, {"models": [{"model": 3}]})
        with pytest.raises(BadAnswer, match="another version"):
            show_leaderboard(daemon.url, as_json=False)
