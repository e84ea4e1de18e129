"""Letting two answers out so that their speeds cannot be told apart. Pure.

Nothing leaves before both have begun. From then on both are let out to the same length, which grows no faster than
the slower one was written. It grows in steps of `STEP` characters, whatever the engines sent: how a text comes in
tokens tells whose it is. When one has ended, the other goes on at the pace that both had. That is a little slower than
the slower one (`SHARE`), so that the longer one, if it is the slower one, does not run dry, which the other would not.

It is bounded. It grows by at most `max_chars_per_s`. And from `GRACE_S` after both have begun, the length is at least
what `min_chars_per_s` give: a side that is slower than that on the whole is not waited for, and can then be told. (Not
sooner: an engine that is fast enough may pause after its first token.) An answer of one piece has no speed: beside one
that is complete the other goes on at `min_chars_per_s`, since its own speed would tell which one it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STEP = 4
SHARE = 0.9
GRACE_S = 3.0


@dataclass(slots=True)
class Side:
    """One answer: what has come, and how much of it was let out. Times in seconds."""

    text: str = ""
    out: int = 0
    began: float | None = None
    last: float = 0.0
    complete: bool = False

    @property
    def chars_per_s(self) -> float | None:
        """How fast it was written so far; None as long as that cannot be said."""
        if self.began is None or self.last <= self.began:
            return None
        return len(self.text) / (self.last - self.began)

    @property
    def ended(self) -> bool:
        """Whether all of it was let out."""
        return self.complete and self.out == len(self.text)


@dataclass(slots=True)
class Pace:
    """Two sides of one turn, by letter."""

    min_chars_per_s: float
    max_chars_per_s: float
    sides: dict[str, Side] = field(default_factory=lambda: {"a": Side(), "b": Side()})
    _length: float = 0.0  # to which both are let out
    _began: float = 0.0  # when both had
    _stepped: float | None = None

    def add(self, letter: str, text: str, now: float) -> None:
        """Some more has come."""
        side = self.sides[letter]
        side.began = now if side.began is None else side.began
        side.last = now
        side.text += text

    def complete(self, letter: str, now: float) -> None:
        """All of it has come, or there is nothing."""
        side = self.sides[letter]
        side.began = now if side.began is None else side.began
        side.complete = True

    @property
    def begun(self) -> bool:
        """Whether both have begun."""
        return all(side.began is not None for side in self.sides.values())

    def ended(self, letter: str) -> bool:
        """Whether all of this one was let out. (An empty one ends no sooner than the other begins.)"""
        return self.begun and self.sides[letter].ended

    def step(self, now: float) -> dict[str, str]:
        """What may leave now, by letter; to be asked at an even rhythm, whatever has come."""
        if not self.begun:
            return {}
        if self._stepped is None:
            self._began = self._stepped = now
        self._length = self._grown(now)
        self._stepped = now
        shown = int(self._length) // STEP * STEP
        some = {}
        for letter, side in self.sides.items():
            # In whole steps, too, where one is too slow to be waited for; but the end is where it is.
            upto = min(len(side.text) if side.complete else len(side.text) // STEP * STEP, shown)
            if upto > side.out:
                some[letter] = side.text[side.out : upto]
                side.out = upto
        return some

    def _speed(self, side: Side) -> float:
        """How fast one could be let out, within the bounds."""
        speed = side.chars_per_s
        if speed is None:
            return self.min_chars_per_s if side.complete else self.max_chars_per_s
        return min(max(SHARE * speed, self.min_chars_per_s), self.max_chars_per_s)

    def _grown(self, now: float) -> float:
        assert self._stepped is not None
        since_s = now - self._stepped
        speed = min(self._speed(side) for side in self.sides.values())
        written = min((len(s.text) for s in self.sides.values() if not s.complete), default=float("inf"))
        # What is not written yet cannot be let out; but the other one does not wait for it for ever.
        bound = max(written, self.min_chars_per_s * (now - self._began - GRACE_S))
        longest = max(len(side.text) for side in self.sides.values())
        # The last step is a whole one, too, though the text ends within it.
        return min(self._length + speed * since_s, bound, longest + STEP)


class NoPace(Pace):
    """Both sides as they come."""

    def ended(self, letter: str) -> bool:
        """See `Pace`."""
        return self.sides[letter].ended

    def step(self, now: float) -> dict[str, str]:
        """See `Pace`."""
        some = {letter: side.text[side.out :] for letter, side in self.sides.items() if side.out < len(side.text)}
        for side in self.sides.values():
            side.out = len(side.text)
        return some
