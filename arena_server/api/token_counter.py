"""Counts the tokens of one answer while it goes by, and takes out of it what was only asked for to count them.

vLLM tells the tokens so far in each event of a stream of chat or completions if it is asked for
`stream_options: {include_usage: true, continuous_usage_stats: true}`: each then carries `"usage":{...}`, and before
`[DONE]` comes one more, without choices, with the sums. Both go on to the client only if it asked for them itself;
all other bytes are as vLLM would have written them unasked (vllm/entrypoints/openai/chat_completion/serving.py).
In these bytes `"usage":{` is always a key: within JSON's strings quotes are escaped.

Other servers tell them in other places; what they write is read as JSON, and patterns only cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

from arena_server.api.usage_scanner import UsageScanner, plain
from arena_server.engine.token_counts import Usage, usage_of

# Routes whose streams do not have OpenAI's chunks.
EVENTFUL = frozenset({"/v1/responses", "/v1/messages"})
COMPLETIONS = "/v1/completions"

# As vLLM ends nearly every event: for these the rest can be spared, which takes five times as long.
USUAL = re.compile(
    rb',"usage":\{"prompt_tokens":(\d{1,9}),"total_tokens":\d{1,10},"completion_tokens":(\d{1,9})'
    rb'(?:,"completion_tokens_details":(?:null|\{"reasoning_tokens":\d{1,9}\}))?\}'
    rb'((?:,"prompt_token_ids":null,"prompt_text":null)?\}\n\n)'  # after the first event's
)
LONGEST_USUAL_BYTES = 230
# With the comma before it, or after it where it comes first.
_VALUE = rb'"usage"\s*:\s*(?:null|\{' + plain(4) + rb"\})"
USAGE = re.compile(rb",\s*" + _VALUE + rb"|(?<=\{)\s*" + _VALUE + rb"\s*,?")
NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
# Of a line that comes in parts.
INDEX = re.compile(rb'"choices"\s*:\s*\[\{[^{}\[\]]*?"index"\s*:\s*(\d{1,9})\b')
FINGERPRINT = re.compile(rb',\s?"system_fingerprint":\s?"[^"\\]*"')
FINISHED = b'"finish_reason":"'
# An event of Responses or Messages that brings a piece of text.
DELTA = re.compile(rb'"type"\s*:\s*"(?:content_block_delta|response\.[a-z_.]*\.delta)"')


class TokenCounter:
    """Of one answer. `prompt_tokens` and `completion_tokens` are those counted so far.

    Where the server does not tell them along the way, each piece of text counts as a token until it does.
    """

    def __init__(
        self, route: str, *, stream: bool, show_usage: bool = False, show_each: bool = False, choices: int = 1
    ) -> None:
        """`stream`: the client asked for one, in JSON, so that what it wants to be told is known: `show_usage`: the
        last event with the sums; `show_each`: and `usage` in each.

        `choices` is how many answers it wants for each prompt (`n`).
        """
        self._chunked = route not in EVENTFUL
        self._many_prompts = route == COMPLETIONS
        self._show_usage = show_usage or not stream
        self._show_each = (show_usage and show_each) or not stream
        self._choices = max(choices, 1)
        self._scanner: UsageScanner | None = None  # made for the first that it is to look at
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._pieces = 0  # since the server last told the tokens
        self._of_prompt: dict[int, int] = {}
        self._of_choice: dict[int, int] = {}
        self._several = False  # there are other choices than the first
        self._first = True  # no event with choices has come yet
        self._told_each = False  # the first one told its tokens
        self._held: list[tuple[bytes, int]] = []  # last events of choices, with where a fingerprint belongs
        self._drop_empty = False  # the line after one that was taken out
        self._ending: Mapping[str, Any] | None = None  # an event that ends a choice, of which usage was taken out
        self._cut_index: int | None = None  # of the choice of a line that is longer than lines may be, while it comes

    @property
    def prompt_tokens(self) -> int:
        """In all prompts of the request."""
        return self._prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """In all of its answers."""
        return self._completion_tokens + self._pieces

    def take(self, lines: bytes) -> bytes:
        """Whole lines of a stream of events in, what goes on to the client out. May be nothing, to come later."""
        if self._cut_index is not None or not lines.endswith(b"\n"):
            return self._take_cut(lines)
        if not self._chunked:
            self._see(lines)
            return lines
        if (usual := self._usual(lines)) is not None:
            return usual
        # Several at once, as they come when there is much to do.
        *events, rest = lines.split(b"\n\n")
        out = [self._usual(event + b"\n\n") or self._take_lines(event + b"\n\n") for event in events]
        return b"".join([*out, self._take_lines(rest)])

    def look(self, some: bytes) -> None:
        """Some more of an answer that is no stream."""
        if (usage := self._scan(some)) is not None:
            self._told(usage)

    def rest(self) -> bytes:
        """What has not gone on to the client yet, for the answer's end."""
        held, self._held = b"".join(event + b"\n\n" for event, _ in self._held), []
        return held

    def _usual(self, lines: bytes) -> bytes | None:
        """As `take` of one event of one choice that goes on. None if it may be anything else."""
        at = lines.rfind(b',"usage":{', -LONGEST_USUAL_BYTES)
        found = USUAL.fullmatch(lines, at) if at >= 0 else None
        if (
            found is None
            or lines.find(b"\n") != len(lines) - 2
            or self._held
            or self._drop_empty
            or b'"choices":[{"index":0,' not in lines
            or FINISHED in lines
            or self._several
            or not (self._told_each or self._first)
        ):
            return None
        self._first, self._told_each = False, True
        self._prompt_tokens, self._completion_tokens, self._pieces = int(found[1]), int(found[2]), 0
        self._of_prompt[0], self._of_choice[0] = self._prompt_tokens, self._completion_tokens
        return lines if self._show_each else lines[:at] + found[3]

    def _take_cut(self, some: bytes) -> bytes:
        """A line that is longer than lines may be comes in parts: it goes on as it is."""
        if not some:
            return some
        before = more = b""
        if self._cut_index is None:
            whole, newline, some = some.rpartition(b"\n")
            before = (self.take(whole + newline) if newline else b"") + self.rest()
            self._drop_empty = False
            self._scanner = None  # what came before may have been no JSON
            self._cut_index = int(found[1]) if (found := INDEX.search(some)) is not None else 0
        elif end := some.find(b"\n") + 1:
            some, more = some[:end], some[end:]
        if (usage := self._scan(some)) is not None and self._chunked:
            self._count(usage, self._cut_index)
        elif usage is not None:
            self._told(usage)
        if some.endswith(b"\n"):
            self._cut_index = None
        return before + some + (self.take(more) if more else b"")

    def _take_lines(self, lines: bytes) -> bytes:
        out = []
        for line in lines.split(b"\n")[:-1]:
            if self._drop_empty and not line.strip():
                self._drop_empty = False
                continue
            left = self._line(line)
            if left is not None:
                out += [left, b"\n"]
        return b"".join(out)

    def _line(self, line: bytes) -> bytes | None:
        """One line, without its end. None if it is not for the client (now)."""
        event = _event(line) if b'"usage"' in line else None
        if event is None or "usage" not in event:
            return self._other(line)
        usage, choices = _usage(event["usage"]), event.get("choices")
        if choices == [] and usage is not None:
            return self._sums(line, usage)
        if choices:
            if self._first:
                self._first, self._told_each = False, usage is not None
            self._count_choices(choices, usage)
        elif usage is not None:
            self._told(usage)
            if self._show_usage:  # sums in another form
                self._ending = None
                return self.rest() + line
        # Of a server that tells them once, with the last choice: the client asked for that.
        found = None if self._show_each or (self._show_usage and not self._told_each) else _place(line, event)
        if found is None:
            return line
        left, at = line[: found[0]] + line[found[1] :], found[0]
        if not _is_finished(choices):
            return left
        if self._show_usage:
            self._ending = event if usage is not None else None
        elif not isinstance(event.get("system_fingerprint"), str):
            self._held.append((left, at))
            self._drop_empty = True
            return None
        return left

    def _other(self, line: bytes) -> bytes:
        """A line that tells no tokens."""
        before = self.rest() if self._held and line.strip() else b""
        if b'"choices"' in line:
            if NO_CHOICES.search(line) is None:
                self._first = False
                self._pieces += 1
        elif line.startswith(b"data:"):
            if line[5:].strip() == b"[DONE]":
                before += self._own_sums()
            self._ending = None  # an error, say, after which vLLM tells no sums
        return before + line

    def _own_sums(self) -> bytes:
        """For a client that asked for them, of a server that tells the tokens in each event and no sums at the end."""
        if (ending := self._ending) is None:
            return b""
        prompt, completion, usage = self._prompt_tokens, self._completion_tokens, ending["usage"]
        if usage_of(usage) != Usage(prompt, completion):  # one of several choices'
            sums = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            usage = {**usage, **sums}
        return b"data: " + to_json({**ending, "choices": [], "usage": usage}) + b"\n\n"

    def _sums(self, line: bytes, usage: Usage) -> bytes | None:
        """The event without choices. Unasked, vLLM would have put the fingerprint that is in it into the last events
        of the choices, which have been held back for it."""
        self._told(usage)
        self._ending = None
        if self._show_usage:
            return self.rest() + line
        mark = FINGERPRINT.search(line)
        text = mark[0] if mark is not None else b""
        held, self._held = self._held, []
        self._drop_empty = not held
        return b"\n\n".join(event[:at] + text + event[at:] for event, at in held) if held else None

    def _count_choices(self, choices: object, usage: Usage | None) -> None:
        """What an event with choices tells: vLLM's tells of its one choice, others tell what all have taken."""
        found = choices if isinstance(choices, list) else [choices]
        if usage is None:
            self._pieces += len(found)
            return
        index = found[0].get("index", 0) if len(found) == 1 and isinstance(found[0], Mapping) else None
        if isinstance(index, int):
            self._count(usage, index)
        else:
            self._told(usage)

    def _count(self, usage: Usage, index: int) -> None:
        """An event's tokens are those of its choice; of its prompt, too, where there are several of both."""
        prompt = index // self._choices if self._many_prompts else 0
        in_prompt, in_choice = usage.prompt_tokens or 0, usage.completion_tokens or 0
        self._prompt_tokens += in_prompt - self._of_prompt.get(prompt, 0)
        self._completion_tokens += in_choice - self._of_choice.get(index, 0)
        self._of_prompt[prompt], self._of_choice[index], self._pieces = in_prompt, in_choice, 0
        self._several = self._several or index > 0

    def _told(self, usage: Usage) -> None:
        """The tokens of all. Those of the prompt never become fewer: Messages of some servers end with 0 of them, or
        tell only at the beginning how many were cached."""
        if usage.prompt_tokens is not None:
            least = 0 if self._chunked else self._prompt_tokens
            self._prompt_tokens = max(usage.prompt_tokens, least)
        if usage.completion_tokens is not None:
            self._completion_tokens, self._pieces = usage.completion_tokens, 0

    def _see(self, lines: bytes) -> None:
        """Events of Responses or Messages: their last ones tell the tokens, and Messages' first one those of the
        prompt; until then each delta is a piece."""
        if b'"usage"' not in lines:
            self._pieces += len(DELTA.findall(lines))
            return
        for line in lines.split(b"\n"):
            if b'"usage"' in line:
                self._scanner = None  # what came before may have been no JSON
                self.look(line)
            else:
                self._pieces += len(DELTA.findall(line))

    def _scan(self, some: bytes) -> Usage | None:
        if self._scanner is None:
            self._scanner = UsageScanner()
        self._scanner.feed(some)
        found, self._scanner.found = self._scanner.found, None
        return found


def _event(line: bytes) -> Mapping[str, Any] | None:
    """The JSON object of a line of data. None if it has none."""
    if not line.startswith(b"data:"):
        return None
    try:
        event = from_json(line[5:])
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _usage(found: object) -> Usage | None:
    """None of `null`, and of what tells nothing."""
    usage = usage_of(found) if isinstance(found, Mapping) else Usage(None, None)
    return None if usage == Usage(None, None) else usage


def _is_finished(choices: object) -> bool:
    """Whether one of an event's choices ends with it."""
    found = choices if isinstance(choices, list) else []
    return any(isinstance(choice, Mapping) and isinstance(choice.get("finish_reason"), str) for choice in found)


def _place(line: bytes, event: Mapping[str, Any]) -> tuple[int, int] | None:
    """Where the event's own `usage` is in its line, with one of the commas around it. None if that cannot be told."""
    if line.count(b'"usage"') == 1:
        only = USAGE.match(line, line.find(b',"usage"'))  # as nearly all write it: a search takes three times as long
        if only is not None:
            return only.span()
    found = [match.span() for match in USAGE.finditer(line)]
    # There are others in it: a piece of text that is this word, or more counts deeper down.
    rest = {name: value for name, value in event.items() if name != "usage"}
    return next((span for span in found if _event(line[: span[0]] + line[span[1] :]) == rest), None)
