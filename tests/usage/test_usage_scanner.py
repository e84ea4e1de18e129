"""The counts in an answer are found however its bytes are split, and only where they belong."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.api.usage_scanner import LONGEST_USAGE_BYTES, UsageScanner
from arena_server.engine.token_counts import Usage

COUNTS = {
    "prompt_tokens": 12,
    "total_tokens": 20,
    "completion_tokens": 8,
    "prompt_tokens_details": {"cached_tokens": 1},
}
DECOY = {"prompt_tokens": 1, "completion_tokens": 1, "input_tokens": 1}

names = st.sampled_from(["usage", "response", "message", "meta", "billed_units", "a", '"usage":{', "us\\age"])
scalars = st.one_of(names, st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=4))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)


def scan(data: bytes, cuts: list[int] | None = None) -> Usage | None:
    scanner = UsageScanner()
    places = [0, *sorted(cut for cut in (cuts or []) if cut < len(data)), len(data)]
    for start, end in pairwise(places):
        scanner.feed(data[start:end])
    return scanner.found


@given(
    before=st.dictionaries(st.sampled_from(["a", "b", "tools", "output"]), values, max_size=3),
    after=st.dictionaries(st.sampled_from(["c", "user", "metadata"]), values, max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    spaced=st.booleans(),
)
def test_what_surrounds_it_does_not_matter(
    before: dict[str, Any], after: dict[str, Any], cuts: list[int], spaced: bool
) -> None:
    answer = {**before, "usage": COUNTS, **after}
    separators = None if spaced else (",", ":")
    data = json.dumps(answer, separators=separators, ensure_ascii=False).encode()
    assert scan(data, cuts) == scan(data) == Usage(12, 8)
    assert scan(json.dumps({**before, **after}).encode(), cuts) is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"usage": {"prompt_tokens": 3, "total_tokens": 3}}, Usage(3, None)),  # of a rerank
        ({"usage": {"input_tokens": 3, "output_tokens": 4}}, Usage(3, 4)),  # Responses
        ({"usage": {"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 4}}, Usage(5, 4)),  # Messages
        ({"usage": {"prompt_tokens": 3, "completion_tokens": None}}, Usage(3, None)),
        ({"meta": {"api_version": {}, "billed_units": {"input_tokens": 6}}}, Usage(6, None)),  # Cohere's embed
        ({"response": {"usage": {"input_tokens": 1, "output_tokens": 2}}}, Usage(1, 2)),
        ({"message": {"usage": {"input_tokens": 1, "output_tokens": 0}}}, Usage(1, 0)),
        ({"usage": {"type": "duration", "seconds": 3}}, None),  # of a transcription
        ({"usage": None}, None),
        ({"usage": [DECOY]}, None),
        ({"object": "usage", "x": DECOY}, None),
        ({"tools": [{"parameters": {"usage": DECOY}}]}, None),
        ({"tools": {"usage": DECOY}}, None),
        ({"response": [{"usage": DECOY}]}, None),
        ({"response": {}, "a": ["usage", DECOY]}, None),
        ({"response": {"tools": {"usage": DECOY}}}, None),
        ({"response": {"message": {"usage": DECOY}}}, None),
        ({"a": 'x","usage":{"prompt_tokens":1}'}, None),
        ({"usage": {"prompt_tokens": 10**30, "completion_tokens": -1}}, None),
        ({"usage": {"prompt_tokens": True, "completion_tokens": 1.5}}, None),
        ({"usage": {**DECOY, "more": "x" * LONGEST_USAGE_BYTES}}, None),
        ([{"usage": 1}], None),
    ],
)
def test_what_counts(answer: Any, found: Usage | None) -> None:
    data = json.dumps(answer).encode()
    assert scan(data) == found
    assert scan(data, list(range(len(data)))) == found, "byte by byte"


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_no_bytes_upset_it(data: bytes, cuts: list[int]) -> None:
    scan(data, cuts)


def test_a_great_answer_takes_no_memory() -> None:
    """A string and log-probabilities of megabytes, and 40,000 arrays in each other."""
    scanner = UsageScanner()
    items = b'{"a":"b","c":[1,[2,{"d":3}]]},' * 546
    parts = [(b'{"a":"', 1), (b"x\\n" * 5461, 200), (b'","b":[', 1), (items, 100), (b'1],"c":', 1), (b"[" * 2000, 20)]
    tracemalloc.start()
    for part, times in parts:
        for _ in range(times):
            scanner.feed(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    for _ in range(20):
        scanner.feed(b"]" * 2000)
    scanner.feed(b',"usage":{"prompt_tokens":1}}')
    assert scanner.found == Usage(1, None)
