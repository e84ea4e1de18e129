"""The pace: two answers are let out so that who wrote faster, or began sooner, cannot be told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arena_server.arena.pace import STEP, NoPace, Pace

TICK_S = 0.05


class Writer:
    """One side as its engine writes it: from `start_s` on, `chars_per_s`, in tokens of `token` characters."""

    def __init__(self, start_s: float, chars_per_s: float, token: int, length: int) -> None:
        self.length = length
        self.times = [(start_s + at / chars_per_s, min(token, length - at)) for at in range(0, length, token)]
        self.end_s = start_s + length / chars_per_s


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
    assert 70 < speed < 90


def test_a_side_that_is_too_slow_is_not_waited_for() -> None:
    fast, slow = Writer(0, 400, 5, 400), Writer(0, 5, 1, 100)
    out = shown(Pace(40, 400), {"a": fast, "b": slow})
    (end,) = [at for at, side, _ in out if side == "a"][-1:]
    assert 9 < end < 12  # 400 characters at 40 a second, and not the 80 seconds that 5 a second would take


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
