"""Questions to the demo models whose answers can be told right from wrong without a person.

None of them is in the text that the models were trained on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from random import Random

from arena_server.demo import skills, small_talk
from arena_server.demo.corpus import held_out
from arena_server.demo.skills import Exchange

LEAST_SENTENCES = 4  # of a story

_KINDS: tuple[Callable[[Random], Exchange], ...] = (*skills.QUESTIONS, small_talk.greeting)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its kind, and what a right answer has at least one of."""

    prompt: str
    kind: str
    accepted: tuple[str, ...]

    def is_right(self, answer: str) -> bool:
        """Whether this is a right answer to it."""
        if self.kind == "stories":
            return self._says(answer) and _is_whole(answer)
        if self.kind == "sums":
            numbers = re.findall(r"\d+", answer)
            return bool(numbers) and numbers[-1] in self.accepted
        return self._says(answer)

    def _says(self, answer: str) -> bool:
        return any(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", answer, re.IGNORECASE) for text in self.accepted)


def _is_whole(story: str) -> bool:
    """Whether it has some sentences, ends with one, and does not say one of them twice."""
    sentences = [s.strip() for s in re.split(r"(?<=[.!?])\W+", story.strip()) if s.strip()]
    return len(sentences) >= LEAST_SENTENCES and len(set(sentences)) == len(sentences) and story.strip()[-1] in '.!?"'


def questions(seed: int, each: int = 4) -> list[Question]:
    """`each` different questions of every kind, the kinds in turn; the same for the same seed."""
    by_kind = []
    for skill in _KINDS:
        random = Random(f"questions of {skill.__name__}, {seed}")
        drawn = (skill(random) for _ in range(20_000))
        fresh = (e for e in drawn if e.kind == "greetings" or held_out(e.prompt))
        by_prompt = {e.prompt: Question(e.prompt, e.kind, e.accepted) for e in islice(fresh, 8 * each)}
        by_kind.append(list(by_prompt.values())[:each])
    return [question for question in chain(*zip_longest(*by_kind)) if question is not None]
