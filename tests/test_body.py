"""What is read of a request's JSON: the few fields that the daemon needs, and no more than that."""

from __future__ import annotations

import tracemalloc

import pytest

from arena_server.api.body import Ask, StreamOptions, ask_of
from arena_server.errors import BadRequest

JSON = "application/json"
UNREADABLE = "We could not parse the JSON body of your request: "


@pytest.mark.parametrize(
    ("body", "ask"),
    [
        (b'{"model": "a"}', Ask("a", False)),
        (b'{"model": "a", "stream": true}', Ask("a", True)),
        (b'{"model": "a", "stream": null}', Ask("a", False)),
        (b'{"model": "a", "stream": "yes"}', Ask("a", True)),  # as vLLM reads it
        (b'{"model": "a", "stream": "never"}', Ask("a", False)),  # the engine's to refuse
        (b'{"model": "a", "stream": [{}]}', Ask("a", False)),
        (b'{"stream": true, "model": "a", "model": "b"}', Ask("b", True)),  # as vLLM reads it
        (b'{"model": "\\u00e9", "messages": [{"content": null}], "x": 1e400}', Ask("é", False)),
        (b'{"model": "a", "temperature": 0, "seed": 7}', Ask("a", False, temperature=0.0, seed=7)),
        (b'{"model": "a", "temperature": null, "seed": null}', Ask("a", False)),
        (b'{"model": "a", "temperature": "hot", "seed": [1]}', Ask("a", False)),  # the engine's to refuse
        (b'{"model": "a", "seed": 1e400, "temperature": 1e400}', Ask("a", False, temperature=float("inf"))),
    ],
)
def test_it_is_asked_for_a_few_fields(body: bytes, ask: Ask) -> None:
    assert ask_of(body, JSON) == ask


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ("null", None),
        ("{}", StreamOptions()),
        ('{"include_usage": true, "other": [1]}', StreamOptions(include_usage=True)),
        (
            '{"include_obfuscation": false, "n": 3, "x": {}}',
            StreamOptions(others={"include_obfuscation": False, "n": 3}),
        ),
        ('{"include_usage": null, "continuous_usage_stats": true}', StreamOptions(continuous_usage_stats=True)),
        ('{"include_usage": 0, "continuous_usage_stats": "on"}', StreamOptions(continuous_usage_stats=True)),
        ('{"include_usage": "perhaps"}', StreamOptions(valid=False)),
        ("true", StreamOptions(valid=False)),
        ("[]", StreamOptions(valid=False)),
    ],
)
def test_what_is_asked_about_usage_is_read_as_vllm_reads_it(options: str, read: StreamOptions | None) -> None:
    body = f'{{"model": "a", "stream": true, "stream_options": {options}}}'.encode()
    assert ask_of(body, JSON) == Ask("a", True, read)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", UNREADABLE),
        (b'{"model": "a", "messages": [}', UNREADABLE),
        (b'{"model": "\xff"}', UNREADABLE),
        (b'{"model": "a", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}", UNREADABLE),
        (b'["model"]', "The JSON body of your request must be an object."),
        (b'{"model": ["a"], "stream": 3}', "`model` must be a string."),
        (b'{"model": null}', "You must provide a model parameter."),
        (b'{"model": ""}', "You must provide a model parameter."),
        (b"{}", "You must provide a model parameter."),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        ask_of(body, JSON)
    assert refused.value.message.startswith(message)


def test_a_large_body_is_not_made_into_objects() -> None:
    """Each took its time on the event loop: with 64 MiB of them the watchdog took the daemon for dead."""
    body = b'{"model": "a", "messages": [' + b'{"a": []},' * 100_000 + b"0]}"
    tracemalloc.start()
    try:
        assert ask_of(body, JSON) == Ask("a", False)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100_000
