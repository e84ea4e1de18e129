"""The pace: two answers are let out so that who wrote faster, or began sooner, cannot be told."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.arena.pace import STEP, NoPace, Pace

TICK_S = 0.05


class Writer:
    """One side as its engine writes it: from `start_s` on, `chars_per_s`, in tokens of `token` characters.

    After `gap_after` tokens it pauses for `gap_s`. With a `seed` its tokens are of random lengths, up to twice `token`.
    """

    def __init__(
        self,
        start_s: float,
        chars_per_s: float,
        token: int,
        length: int,
        *,
        gap_after: int = 0,
        gap_s: float = 0.0,
        seed: int | None = None,
    ) -> None:
        self.length = length
        self.times: list[tuple[float, int]] = []
        random = Random(seed)
        at = 0
        while at < length:
            size = min(token if seed is None else random.randint(1, 2 * token), length - at)
            late = gap_s if len(self.times) >= gap_after else 0.0
            self.times.append((start_s + late + at / chars_per_s, size))
            at += size
        self.end_s = start_s + gap_s + length / chars_per_s


def shown(pace: Pace, writers: dict[str, Writer], until_s: float = 1000.0) -> list[tuple[float, str, int]]:
    """(time, side, characters) of everything let out."""
    out = []
    now = 0.0
    pending = {letter: list(writer.times) for letter, writer in writers.items()}
    while not all(pace.ended(letter) for letter in writers):
        assert now < until_s, "it never ends"
        for letter, writer in writers.items():
            while pending[letter] and pending[letter][0][0] <= now:
                pace.add(letter, "x" * pending[letter].pop(0)[1], now)
            if not pending[letter] and now >= writer.end_s and not pace.sides[letter].complete:
                pace.complete(letter, now)
        out += [(now, letter, len(text)) for letter, text in pace.step(now).items()]
        now += TICK_S
    return out


def curve(out: list[tuple[float, str, int]], side: str, upto: int) -> list[tuple[float, int]]:
    """When a side had how many characters out, as far as `upto`."""
    total, points = 0, []
    for at, letter, count in out:
        if letter == side and total < upto:
            total += count
            points.append((at, min(total, upto)))
    return points


def test_nothing_leaves_before_both_have_begun() -> None:
    pace = Pace(10, 400)
    pace.add("a", "x" * 500, 0.0)
    assert not any(pace.step(t * TICK_S) for t in range(200))
    pace.add("b", "y" * 20, 10.0)
    pace.step(10.0)
    assert pace.step(10.5).keys() == {"a", "b"}


@given(
    first=st.tuples(st.floats(0, 5), st.floats(50, 500), st.integers(1, 17), st.integers(0, 400)),
    second=st.tuples(st.floats(0, 5), st.floats(50, 500), st.integers(1, 17), st.integers(0, 400)),
)
def test_as_far_as_both_go_both_are_let_out_alike(
    first: tuple[float, float, int, int], second: tuple[float, float, int, int]
) -> None:
    """Whatever their starts, speeds and tokens: the same characters at the same moments."""
    writers = {"a": Writer(*first), "b": Writer(*second)}
    out = shown(Pace(40, 400), writers)
    both = min(writer.length for writer in writers.values()) // STEP * STEP
    assert curve(out, "a", both) == curve(out, "b", both)
    for letter, writer in writers.items():
        assert sum(count for _, side, count in out if side == letter) == writer.length


@given(fast_is_a=st.booleans())
def test_the_longer_one_goes_on_at_the_pace_both_had(fast_is_a: bool) -> None:
    """Else it would leap forward where it is the faster one."""
    fast, slow = Writer(0, 400, 5, 800), Writer(0, 80, 3, 160)
    out = shown(Pace(40, 400), {"a": fast, "b": slow} if fast_is_a else {"a": slow, "b": fast})
    long_side = "a" if fast_is_a else "b"
    after = [(at, count) for at, side, count in out if side == long_side and at > 2.5]
    speed = sum(count for _, count in after) / (after[-1][0] - after[0][0])
    assert 65 < speed < 80


@pytest.mark.parametrize("slow_chars_per_s", [49, 61, 82])
@pytest.mark.parametrize("gap_s", [0.0, 0.4, 1.0])
def test_neither_gets_ahead_though_the_slower_one_stumbles(slow_chars_per_s: float, gap_s: float) -> None:
    """At the bounds that are the default, with tokens of many lengths, and a pause after the second one."""
    for seed in range(20):
        slow = Writer(0, slow_chars_per_s, 4, 300, gap_after=2, gap_s=gap_s, seed=seed)
        fast = Writer(0.5, 400, 5, 300, seed=seed + 100)
        out = shown(Pace(40, 400), {"a": slow, "b": fast})
        assert curve(out, "a", 300) == curve(out, "b", 300), seed


def ended_at(writers: dict[str, Writer]) -> float:
    """When all was out."""
    return shown(Pace(40, 400), writers)[-1][0]


@pytest.mark.parametrize("short", [0, 4])
def test_beside_an_answer_of_one_piece_the_others_speed_does_not_show(short: int) -> None:
    at = {speed: ended_at({"a": Writer(0, 100, 4, short), "b": Writer(0, speed, 4, 400)}) for speed in (60, 300)}
    assert abs(at[60] - at[300]) < 0.2


def test_the_longer_one_runs_as_evenly_where_it_is_the_slower_one() -> None:
    """A pause after the other's end would tell that it is still being written."""
    pauses = {"fast": 0, "slow": 0}
    for seed in range(40):
        for long_side in pauses:
            slow = Writer(0, 80, 4, 400 if long_side == "slow" else 120, seed=seed)
            fast = Writer(0, 300, 4, 400 if long_side == "fast" else 120, seed=seed)
            longer, shorter = (slow, fast) if long_side == "slow" else (fast, slow)
            out = shown(Pace(40, 400), {"a": longer, "b": shorter})
            after = [at for at, side, _ in out if side == "a"][30:]
            pauses[long_side] += any(b - a > 3 * TICK_S for a, b in itertools.pairwise(after))
    assert pauses["fast"] == 0
    assert pauses["slow"] <= 2


def test_a_side_that_is_too_slow_is_not_waited_for() -> None:
    fast, slow = Writer(0, 400, 5, 400), Writer(0, 5, 1, 100)
    out = shown(Pace(40, 400), {"a": fast, "b": slow})
    (end,) = [at for at, side, _ in out if side == "a"][-1:]
    # 400 characters at 40 a second, after a grace; and not the 80 seconds that 5 a second would take
    assert 12 < end < 15


def test_none_is_faster_than_the_bound() -> None:
    out = shown(Pace(40, 100), {"a": Writer(0, 5000, 5, 1000), "b": Writer(0, 5000, 5, 1000)})
    (end,) = [at for at, side, _ in out if side == "a"][-1:]
    assert 9.5 < end < 11


def test_texts_leave_in_whole_steps_whatever_the_tokens() -> None:
    out = shown(Pace(40, 400), {"a": Writer(0, 100, 7, 203), "b": Writer(0.3, 60, 3, 300)})
    for side in "ab":
        counts = [count for _, letter, count in out if letter == side]
        assert all(count % STEP == 0 for count in counts[:-1])


def test_an_empty_answer_ends_with_the_others_beginning() -> None:
    pace = Pace(40, 400)
    pace.complete("a", 1.0)
    assert not pace.ended("a")
    pace.add("b", "text", 9.0)
    assert pace.ended("a")
    assert not pace.ended("b")


def test_without_a_pace_all_leaves_as_it_comes() -> None:
    pace = NoPace(40, 400)
    pace.add("a", "x" * 5000, 0.0)
    assert pace.step(0.0) == {"a": "x" * 5000}
    assert pace.step(0.1) == {}
    pace.complete("a", 0.2)
    assert pace.ended("a")
