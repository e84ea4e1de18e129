"""What is typed into a conversation, and what a terminal is given to show of an answer."""

from __future__ import annotations

import pytest

from arena_server.console.harmless import Harmless
from arena_server.console.talk import Answer, AnswerFailed, Typed, typed


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([" Hello? "], Typed("Hello?")),
        (["/model  org/a "], Typed("org/a", "/model")),
        (["/reset"], Typed("", "/reset")),
        (['"""one line"""'], Typed("one line")),
        (['"""/no', "", '  command"""  '], Typed("/no\n\n  command")),
        (['"""', "a", '"""'], Typed("a")),
        (['"""a\nb"""'], Typed("a\nb")),  # pasted in one piece
        (['""""""'], Typed("")),
    ],
)
def test_what_is_typed(lines: list[str], found: Typed) -> None:
    left = list(lines)
    asked: list[bool] = []

    def line_of(goes_on: bool) -> str:
        asked.append(goes_on)
        return left.pop(0)

    assert typed(line_of) == found
    assert asked == [False] + [True] * (len(lines) - 1)


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["a\tb\n", "c\r\n"], "a\tb\nc\n"),
        (["\x1b", "[3", "1mred\x1b[0", "m."], "red."),
        (["\x1b[" + "3" * 99, "1m"], "[" + "3" * 99 + "1m"),
        (["\x1b\x1b[31m[31m"], "[31m"),
        (["\u202eabc\u2066", "a\u2028b", "\ud83d", "👩\u200d💻 é"], "abca\nb\ufffd👩\u200d💻 é"),
        (["the end\x1b"], "the end"),
    ],
)
def test_only_newlines_and_tabs_control_anything(pieces: list[str], shown: str) -> None:
    text = Harmless()
    assert "".join(map(text.add, pieces)) == shown


def test_an_error_without_words_is_an_error() -> None:
    with pytest.raises(AnswerFailed, match="without a reason"):
        Answer().take({"error": {"message": "\x1b[1m"}})
