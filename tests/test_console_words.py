"""Small texts, bars and rates."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from arena_server.console import bars
from arena_server.console.rates import Rates
from arena_server.console.words import clean, count, cut, moment, took


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1.0, "0.0s"),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (99.4, "99s"),
        (99.6, "2m"),
        (5940.0, "99m"),
        (5999.0, "2h"),
        (170000.0, "47h"),
        (172800.0, "2d"),
        (8.64e8, "10000d"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert took(seconds) == text


def test_one_and_many() -> None:
    assert (count(1, "swap"), count(2000, "swap")) == ("1 swap", "2,000 swaps")


@pytest.mark.parametrize("text", ["a", "some/long-model-name-7b-awq", "模型" * 20, "e\u0301" * 30])
@pytest.mark.parametrize("width", range(12))
def test_a_cut_text_is_as_wide_as_it_may_be(text: str, width: int) -> None:
    result = cut(text, width)
    assert cell_len(result) <= width
    assert result == text or "…" in result or width == 0


def test_a_cut_text_keeps_both_ends() -> None:
    assert cut("mistral-7b-instruct-awq", 11) == "mistr…t-awq"


def test_control_characters_go() -> None:
    assert clean("a\x1b[31mb\n\tc\x00\x9b \x1b]0;d") == "ab c ]0;d"


def test_moments_are_the_local_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(moment("2026-11-21T12:00:03.5+01:00")) == 8
    assert moment("yester\x1bday") == "yester day"


@pytest.mark.parametrize(("fraction", "done"), [(-1.0, 0), (0.0, 0), (0.5, 5), (1.0, 10), (9.0, 10)])
def test_progress_stays_in_its_bar(fraction: float, done: int) -> None:
    assert bars.progress(fraction, 10).plain == "█" * done + "░" * (10 - done)


@pytest.mark.parametrize(
    ("sizes", "total", "bar"),
    [
        ((50, 20), 100, "aaaaabb   "),
        ((1, 1), 1000, "ab        "),  # little, but not nothing
        ((100, 100), 100, "aaaaaaaaaa"),  # more than there is
        ((0, 0), 100, "          "),
        ((0, 0), 0, "          "),
    ],
)
def test_shares_of_a_whole(sizes: tuple[int, int], total: int, bar: str) -> None:
    parts = [bars.Part(letter, size, letter, "") for letter, size in zip("ab", sizes, strict=True)]
    assert bars.shares(parts, total, 10).plain == bar


def test_a_rate_needs_two_looks() -> None:
    rates = Rates()
    assert (rates.overall(), rates.per_minute("a")) == (None, None)
    rates.take(0.0, {"a": 5})
    assert (rates.overall(), rates.per_minute("a")) == (None, None)
    rates.take(30.0, {"a": 15, "b": 3})
    assert (rates.overall(), rates.per_minute("a"), rates.per_minute("b")) == (20.0, 20.0, 0.0)
    assert rates.per_minute("c") is None


def test_a_rate_is_that_of_the_last_minute() -> None:
    rates = Rates()
    for second in range(0, 301, 10):
        rates.take(float(second), {"a": min(second, 240)})
    assert rates.per_minute("a") == 0.0
    rates.take(310.0, {"a": 250})
    assert rates.per_minute("a") == 10.0


def test_a_daemon_that_began_anew_has_no_rate_below_zero() -> None:
    rates = Rates()
    rates.take(0.0, {"a": 100})
    rates.take(10.0, {"a": 110})
    rates.take(20.0, {"a": 1})
    assert rates.per_minute("a") is None
    rates.take(30.0, {"a": 2})
    assert rates.per_minute("a") == 6.0
