"""The load counts what it gets."""

from __future__ import annotations

import pytest

from bench import stand_in
from bench.client import TOKEN_MARK, Connection, Counter


@pytest.mark.parametrize("counted", [False, True])
def test_tokens_are_counted_wherever_the_chunks_are_cut(counted: bool) -> None:
    counter = Counter()
    connection = Connection(counter)
    steps, (last, *end) = stand_in.answer(11, counted)
    for chunk in (*steps, last):
        half = chunk.find(TOKEN_MARK) + 4  # cut within the mark, if it is there
        connection.on_body(chunk[:half])
        connection.on_body(chunk[half:])
    for chunk in end:
        connection.on_body(chunk)
    assert counter.tokens == 11
