"""A conversation with a model, and what is typed into it. Nothing here asks or waits for anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from arena_server.console.harmless import Harmless
from arena_server.console.question import opening, user
from arena_server.console.shape import read
from arena_server.console.words import clean
from arena_server.errors import ArenaError

FENCE = '"""'


class AnswerFailed(ArenaError):
    """The answer broke off, for the reason that the stream gives."""


@dataclass(slots=True)
class Talk:
    """The model, the system prompt, and what was said since the start or the last reset."""

    model: str
    system: str | None
    sampling: Mapping[str, Any]
    turns: list[dict[str, str]] = field(default_factory=list)

    def body(self, prompt: str) -> dict[str, Any]:
        """The request that asks this next."""
        messages = [*opening(self.system), *self.turns, user(prompt)]
        return {"model": self.model, "messages": messages, "stream": True, **self.sampling}

    def said(self, prompt: str, answer: str) -> None:
        """Keep a turn. One without an answer is not kept, so that it can be sent again."""
        if answer:
            self.turns += [user(prompt), {"role": "assistant", "content": answer}]


@dataclass(frozen=True, slots=True)
class Delta:
    """Some more of an answer; a reasoning model's thoughts have had two names."""

    content: str | None
    reasoning: str | None
    reasoning_content: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer; only one is asked for."""

    delta: Delta
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Reason:
    """OpenAI's error object."""

    message: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a `chat.completion.chunk` says, or an error that ends the stream."""

    choices: tuple[Choice, ...] | None
    error: Reason | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more that can be shown."""

    text: str
    thought: bool


@dataclass(slots=True)
class Answer:
    """An answer as far as it has come, harmless to a terminal."""

    text: str = ""
    finish_reason: str | None = None
    ended: bool = False  # the stream's last event has come
    _cleaners: dict[bool, Harmless] = field(default_factory=dict)

    def take(self, data: Any) -> list[Piece]:
        """Take an event's data; returns what is new. Raises WrongShape, and AnswerFailed with the stream's reason."""
        chunk = read(Chunk, data)
        if chunk.error is not None:
            raise AnswerFailed(clean(chunk.error.message) or "the answer broke off without a reason")
        pieces: list[Piece] = []
        for choice in chunk.choices or ():
            self.finish_reason = choice.finish_reason or self.finish_reason
            thought = choice.delta.reasoning or choice.delta.reasoning_content
            pieces += [p for p in (self._piece(thought, True), self._piece(choice.delta.content, False)) if p.text]
        self.text += "".join(piece.text for piece in pieces if not piece.thought)
        return pieces

    def _piece(self, text: str | None, thought: bool) -> Piece:
        return Piece(self._cleaners.setdefault(thought, Harmless()).add(text or ""), thought)


@dataclass(frozen=True, slots=True)
class Typed:
    """What a person has typed: a message, or a command with the rest of its line."""

    text: str
    command: str | None = None


def typed(line_of: Callable[[bool], str]) -> Typed:
    """One message or command. `line_of` reads a line, and is told whether it goes on with a message.

    A message of several lines stands between lines that begin and end with three quotation marks; nothing in it is a
    command. Raises what `line_of` raises.
    """
    line = line_of(False).strip()
    if line.startswith(FENCE):
        return Typed(_fenced(line.removeprefix(FENCE), line_of))
    if line.startswith("/"):
        command, _, rest = line.partition(" ")
        return Typed(rest.strip(), command)
    return Typed(line)


def _fenced(line: str, line_of: Callable[[bool], str]) -> str:
    lines = []
    while not line.rstrip().endswith(FENCE):
        lines.append(line)
        line = line_of(True)
    lines.append(line.rstrip().removesuffix(FENCE))
    return "\n".join(lines).strip("\n")
