"""One blind battle: two models, a conversation with each, and what may be seen of it until the vote and after. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from sys import getsizeof
from typing import Any

from arena_server.arena.generation import Generation
from arena_server.errors import ArenaError
from arena_server.store.records import AnswerRecord, BattleRecord, ModelRecord, TurnRecord, Vote

LETTERS = ("a", "b")
EMPTY_BYTES = 4096
MESSAGE_BYTES = 512
Message = Mapping[str, Any]


class BattleNotFound(ArenaError):
    """There is no such battle, or it was forgotten after its time."""

    status = 404
    kind = "invalid_request_error"
    code = "battle_not_found"


class TurnRunning(ArenaError):
    """The battle's answers are still coming."""

    status = 409
    kind = "invalid_request_error"
    code = "turn_running"


class Voted(ArenaError):
    """The battle was voted on, and is over."""

    status = 409
    kind = "invalid_request_error"
    code = "voted"


class NotVotable(ArenaError):
    """The battle failed, or was cut short: a vote would say nothing of the models."""

    status = 409
    kind = "invalid_request_error"
    code = "not_votable"


class CutShort(ArenaError):
    """An answer ended, but not by itself, nor where the client wanted it to."""


class ModelChanged(ArenaError):
    """A model of the battle was configured anew, or is gone: the same battle cannot go on with another one."""

    status = 409
    kind = "invalid_request_error"
    code = "model_changed"


class State(StrEnum):
    """Where a battle is. Only an open one takes a turn or a vote."""

    RUNNING = "running"
    OPEN = "open"
    FAILED = "failed"
    VOTED = "voted"


@dataclass(slots=True)
class Answer:
    """One side's part of one turn. `shown` is what was let out of its text; `waited_s` is None until it was awake."""

    residency: str
    waited_s: float | None = None
    generation: Generation = field(default_factory=Generation)
    shown: str = ""
    complete: bool = False

    def seen(self) -> dict[str, Any]:
        """What may be seen of it before the vote."""
        return {"text": self.shown, "finish_reason": self.finish_reason if self.complete else None}

    @property
    def finish_reason(self) -> str:
        """`length` or `stop`: a whole answer has no other."""
        return "length" if self.generation.finish_reason == "length" else "stop"

    def check_whole(self, max_tokens: int | None) -> None:
        """Raises CutShort if it ended for another reason than its own end, or the client's `max_tokens`.

        At the end of a model's context vLLM says `length`, too; that tells which model it is.
        """
        reason = self.generation.finish_reason
        tokens = self.generation.usage.get("completion_tokens", 0)
        if reason != "stop" and not (reason == "length" and max_tokens is not None and tokens >= max_tokens):
            raise CutShort(f"It ended with `{reason}` after {tokens} tokens.")

    def figures(self) -> dict[str, Any]:
        """What is revealed of it."""
        return {
            "residency": self.residency,
            "waited_s": self.waited_s,
            "ttft_s": self.generation.first_s,
            "tokens_per_s": self.generation.tokens_per_s,
            "finish_reason": self.generation.finish_reason,
            "usage": self.generation.usage,
        }

    def record(self, *, texts: bool) -> AnswerRecord | None:
        """What is kept of it; None if the model was never reached."""
        if self.waited_s is None:
            return None
        g = self.generation
        return AnswerRecord(
            residency=self.residency,
            waited_s=self.waited_s,
            ttft_s=g.first_s,
            tokens_per_s=g.tokens_per_s,
            prompt_tokens=g.usage.get("prompt_tokens"),
            completion_tokens=g.usage.get("completion_tokens"),
            finish_reason=g.finish_reason,
            text=g.text if texts else None,
            reasoning=g.reasoning or None if texts else None,
        )


@dataclass(slots=True)
class Turn:
    """What was asked, and both answers by letter."""

    prompt: Sequence[Message]
    answers: dict[str, Answer]

    @property
    def reached(self) -> bool:
        """Whether any of the models was asked."""
        return any(answer.waited_s is not None for answer in self.answers.values())


@dataclass(slots=True)
class Battle:
    """One battle. `models` by letter; `probability` is that of the drawn pair, None for a named one.

    `owner` is the id of the key that began it, None where none was shown: nobody else is told of it.
    """

    id: str
    created_at: datetime
    models: Mapping[str, ModelRecord]
    probability: float | None
    paced: bool
    sampling: Mapping[str, Any]
    owner: str | None = None
    asked_bytes: int = 0  # of all requests, as they came
    turns: list[Turn] = field(default_factory=list)
    running: bool = False
    failure: str | None = None
    vote: Vote | None = None
    being_voted: bool = False  # a vote is on its way into the database

    @property
    def state(self) -> State:
        """Where it is."""
        if self.vote is not None:
            return State.VOTED
        if self.running:
            return State.RUNNING
        return State.FAILED if self.failure is not None else State.OPEN

    @property
    def names(self) -> list[str]:
        """Both models' names."""
        return [self.models[letter].name for letter in LETTERS]

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        answers = [answer for turn in self.turns for answer in turn.answers.values()]
        texts = (text for a in answers for text in (a.shown, a.generation.text, a.generation.reasoning))
        messages = sum(len(turn.prompt) for turn in self.turns)
        return EMPTY_BYTES + self.asked(self.asked_bytes) + MESSAGE_BYTES * messages + sum(map(getsizeof, texts))

    @staticmethod
    def asked(request_bytes: int) -> int:
        """About how many bytes a request of that length takes, read: up to four for a character."""
        return 4 * request_bytes

    def check_open(self) -> None:
        """Raises what keeps it from taking a turn or a vote: TurnRunning, Voted, NotVotable."""
        if self.vote is not None or self.being_voted:
            raise Voted("This battle was voted on already.")
        if self.running:
            raise TurnRunning("The answers of this battle are still coming.")
        if self.failure is not None:
            raise NotVotable(self.failure)

    def end_turn(self, failure: str | None) -> None:
        """The running turn is over; `failure` is why its answers are not whole.

        A later turn that never reached the models leaves the battle as it was before.
        """
        self.running = False
        if failure is not None and len(self.turns) > 1 and not self.turns[-1].reached:
            self.turns.pop()
        else:
            self.failure = failure

    def begin_turn(self, prompt: Sequence[Message], residencies: Mapping[str, str]) -> Turn:
        """A new turn, running; `residencies` by letter. Raises TurnRunning, Voted, NotVotable."""
        self.check_open()
        turn = Turn(prompt, {letter: Answer(residencies[letter]) for letter in LETTERS})
        self.turns.append(turn)
        self.running = True
        return turn

    def conversation(self, letter: str) -> list[Message]:
        """What one side is asked in the running turn: all prompts, and its own answers between them."""
        messages: list[Message] = []
        for turn in self.turns[:-1]:
            messages.extend(turn.prompt)
            messages.append({"role": "assistant", "content": turn.answers[letter].generation.text})
        return [*messages, *self.turns[-1].prompt]

    def seen(self) -> dict[str, Any]:
        """What may be seen of it: everything once it was voted on, and before no name and no figure."""
        return {
            "id": self.id,
            "state": self.state,
            "votable": self.state is State.OPEN,
            "reason": self.failure,
            "turns": [
                {"prompt": _text(turn.prompt), **{letter: turn.answers[letter].seen() for letter in LETTERS}}
                for turn in self.turns
            ],
            "vote": self.vote,
            "reveal": None if self.vote is None else self._reveal(),
        }

    def record(self, *, texts: bool) -> BattleRecord:
        """What is kept of it; prompts and answers only with `texts`."""
        turns = [
            TurnRecord(
                list(turn.prompt) if texts else None,
                turn.answers["a"].record(texts=texts),
                turn.answers["b"].record(texts=texts),
            )
            for turn in self.turns
        ]
        return BattleRecord(
            id=self.id,
            created_at=self.created_at,
            a=self.models["a"],
            b=self.models["b"],
            probability=self.probability,
            paced=self.paced,
            # Stop sequences are the client's own words.
            sampling={key: value for key, value in self.sampling.items() if texts or key != "stop"},
            turns=turns,
            failure=self.failure,
        )

    def _reveal(self) -> dict[str, Any]:
        sides = {
            letter: {
                "model": self.models[letter].name,
                "turns": [turn.answers[letter].figures() for turn in self.turns],
            }
            for letter in LETTERS
        }
        return {"drawn": self.probability is not None, "probability": self.probability, "sides": sides}


def _text(prompt: Sequence[Message]) -> str:
    """The words of the last message, its user's."""
    content = prompt[-1].get("content", "")
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
