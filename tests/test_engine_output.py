"""An engine's pipe: lines and progress bars come out whole, whatever pieces they came in."""

from __future__ import annotations

import asyncio
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.engine.output import KEPT_LINES, MAX_LINE_BYTES, EngineOutput
from tests.support.gate import turns


class Heard:
    """What an output passed on."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progress: list[str] = []
        self.output = EngineOutput(self.lines.append, self.progress.append)

    @property
    def states(self) -> list[str]:
        """What a reader of the progress saw, one after another."""
        return [state for state, _ in itertools.groupby(p for p in self.progress if p)]

    def feed(self, *pieces: bytes) -> Heard:
        for piece in pieces:
            self.output.data_received(piece)
        return self

    def end(self) -> Heard:
        self.output.connection_lost(None)
        return self


def test_a_line_is_passed_on_when_it_is_complete() -> None:
    heard = Heard().feed(b"one", b" line\nand a half")
    assert heard.lines == ["one line"]
    assert heard.end().lines == ["one line", "and a half"]
    assert list(heard.output.tail) == heard.lines


def test_lines_that_end_as_vllm_ends_those_of_one_message_are_lines() -> None:
    assert Heard().feed(b"first\r\nsecond\r\n").lines == ["first", "second"]


def test_a_line_end_that_comes_in_two_pieces_is_one() -> None:
    assert Heard().feed(b"first\r", b"\nsecond\r", b"\n").lines == ["first", "second"]


def test_blank_lines_are_left_out() -> None:
    assert Heard().feed(b"\n\n  \none\n\r\n").lines == ["one"]


def test_a_bar_that_redraws_itself_is_progress_and_only_its_last_state_a_line() -> None:
    heard = Heard().feed(b"\rbar:  10%", b"\rbar:  55%\rbar:  90%", b"\rbar: 100%\n", b"next\n")
    assert heard.lines == ["bar: 100%", "next"]
    assert heard.states == ["bar:  10%", "bar:  55%", "bar:  90%", "bar: 100%", "next"]


def test_a_bar_is_seen_when_it_is_drawn_and_not_when_it_is_drawn_again() -> None:
    heard = Heard().feed(b"\rbar:  10%")
    assert heard.states == ["bar:  10%"]


def test_a_letter_that_comes_in_two_pieces_is_one() -> None:
    text = "Capturing: ███ é 文"
    data = text.encode()
    for cut in range(len(data)):
        assert Heard().feed(data[:cut], data[cut:] + b"\n").lines == [text]


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert Heard().feed(b"\xff\xfe ok\n").lines == ["�� ok"]


def test_colours_are_taken_off() -> None:
    assert Heard().feed(b"\x1b[0;36m(Worker pid=1)\x1b[0;0m text\n").lines == ["(Worker pid=1) text"]


@pytest.mark.parametrize("end", [b"", b"\r"])
def test_a_line_without_end_does_not_grow_the_daemon(end: bytes) -> None:
    heard = Heard()
    for _ in range(200):
        heard.feed(b"x" * 1000 + end)
        assert len(heard.output._rest) <= MAX_LINE_BYTES + 1000
    heard.feed(b"\nnext\n")
    assert heard.lines[-1] == "next"
    assert all(len(line) <= MAX_LINE_BYTES + 1000 for line in heard.lines)


def test_a_line_that_is_too_long_keeps_its_end() -> None:
    heard = Heard().feed(b"x" * 3 * MAX_LINE_BYTES + b" the reason\n")
    (line,) = heard.lines
    assert line.endswith(" the reason")
    assert len(line) == MAX_LINE_BYTES


def test_the_last_lines_are_kept() -> None:
    heard = Heard()
    for i in range(KEPT_LINES + 50):
        heard.feed(b"%d\n" % i)
    assert list(heard.output.tail) == [str(i) for i in range(50, KEPT_LINES + 50)]
    assert len(heard.lines) == KEPT_LINES + 50


def test_what_came_since_the_mark_is_told_apart() -> None:
    heard = Heard().feed(b"load\n")
    assert heard.output.tail_since_mark == ["load"]
    heard.output.mark()
    assert heard.output.tail_since_mark == []
    heard.feed(b"run\n")
    assert heard.output.tail_since_mark == ["run"]
    for _ in range(KEPT_LINES + 1):
        heard.feed(b"more\n")
    assert heard.output.tail_since_mark == ["more"] * KEPT_LINES


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\x1b"), max_size=20), max_size=10), st.data())
def test_lines_do_not_depend_on_how_the_pipe_cut_them(lines: list[str], data: st.DataObject) -> None:
    for end in (b"\n", b"\r\n"):
        whole = b"".join(line.encode(errors="replace") + end for line in lines)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        assert Heard().feed(*pieces).end().lines == Heard().feed(whole).end().lines


async def test_it_reads_what_processes_write_until_the_last_has_closed_its_end() -> None:
    heard = Heard()
    writing = await heard.output.open()
    child = await asyncio.create_subprocess_exec("sh", "-c", "echo out; echo err >&2", stdout=writing, stderr=writing)
    os.close(writing)
    await child.wait()
    await heard.output.drained(10)
    assert heard.lines == ["out", "err"]


async def test_a_writer_that_stays_is_not_waited_for_for_ever() -> None:
    heard = Heard()
    writing = await heard.output.open()
    os.write(writing, b"still here\n")
    await heard.output.drained(0.01)
    os.close(writing)
    await heard.output.drained(10)


async def test_an_opening_that_is_cancelled_leaves_no_pipe_behind() -> None:
    open_files = []
    for _ in range(3):  # the first may open what the loop keeps
        opening = asyncio.create_task(Heard().output.open())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await turns()
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert open_files[2] == open_files[1]
