"""What is taken out of a stream is what was asked for on top, and the counts are right wherever it is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.api.token_counter import TokenCounter
from tests.usage.chunks import DONE, FINGERPRINT, HEAD, Said, chat_stream, completion_stream, event, usage

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASKED = Said(include_usage=True, continuous=True)  # what the daemon asks for

# What a model might write to spoil it.
NASTY = [
    ',"usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}',
    '"choices":[]',
    '"finish_reason":"stop"',
    '\\"usage":{}',
    ',"system_fingerprint":"x"',
    "\n\ndata: [DONE]\n\n",
    "é\u2028\x00\\",
    "}}",
    "",
]
pieces = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=5)), min_size=1, max_size=6)
texts = st.lists(pieces, min_size=1, max_size=4)


def in_blocks(events: Sequence[bytes], cuts: set[int]) -> list[bytes]:
    """The stream in blocks of whole lines, cut after the line ends of these numbers."""
    lines = b"".join(events).split(b"\n")[:-1]
    blocks, block = [], b""
    for number, line in enumerate(lines):
        block += line + b"\n"
        if number in cuts:
            blocks.append(block)
            block = b""
    return [*blocks, block] if block else blocks


def through(counter: TokenCounter, blocks: Sequence[bytes]) -> bytes:
    return b"".join([counter.take(block) for block in blocks]) + counter.rest()


def by_choice(stream: bytes) -> dict[object, list[bytes]]:
    """The events, by choice: choices are independent of each other in vLLM, too."""
    found: dict[object, list[bytes]] = {}
    for line in stream.split(b"\n\n"):
        data = line.removeprefix(b"data: ")
        fields = json.loads(data) if data.startswith(b"{") else {}
        index = fields["choices"][0]["index"] if fields.get("choices") else None
        found.setdefault(index, []).append(line)
    return found


@given(
    texts=texts,
    cuts=st.sets(st.integers(0, 60)),
    fingerprint=st.sampled_from([FINGERPRINT, None]),
    details=st.booleans(),
    shown=st.sampled_from([(False, False), (True, False), (True, True), (False, True)]),
    completions=st.booleans(),
)
def test_the_client_gets_what_vllm_writes_unasked(
    texts: list[list[str]],
    cuts: set[int],
    fingerprint: str | None,
    details: bool,
    shown: tuple[bool, bool],
    completions: bool,
) -> None:
    show_usage, show_each = shown
    asked = Said(True, True, fingerprint, details)
    unasked = Said(show_usage, show_usage and show_each, fingerprint, details)
    if completions:
        prompts = [7 + i for i in range(len(texts))]
        counter = TokenCounter(COMPLETIONS, stream=True, show_usage=show_usage, show_each=show_each)
        got = through(counter, in_blocks(completion_stream(texts, prompts, 1, asked), cuts))
        wanted, prompt = b"".join(completion_stream(texts, prompts, 1, unasked)), sum(prompts)
    else:
        counter = TokenCounter(CHAT, stream=True, show_usage=show_usage, show_each=show_each)
        got = through(counter, in_blocks(chat_stream(texts, 31, asked), cuts))
        wanted, prompt = b"".join(chat_stream(texts, 31, unasked)), 31
    if len(texts) == 1:
        assert got == wanted
    assert by_choice(got) == by_choice(wanted)
    assert (counter.prompt_tokens, counter.completion_tokens) == (prompt, sum(map(len, texts)))


@given(texts=texts, cuts=st.sets(st.integers(0, 60)), left=st.integers(0, 40))
def test_the_counts_of_a_stream_that_is_left(texts: list[list[str]], cuts: set[int], left: int) -> None:
    """They are those of the events that came."""
    events = chat_stream(texts, 31, ASKED)[:left]
    counter = TokenCounter(CHAT, stream=True)
    through(counter, in_blocks(events, cuts))
    came = sum(b'"content":' in e and b'"role"' not in e for e in events)
    assert (counter.prompt_tokens, counter.completion_tokens) == (31 if left else 0, came)


def test_choices_of_several_prompts_are_counted_as_they_come() -> None:
    counter = TokenCounter(COMPLETIONS, stream=True, choices=2)
    events = completion_stream([["a", "b"], ["c"], ["d"], ["e", "f"]], [10, 20], 2, ASKED)
    seen = []
    for each in events:
        counter.take(each)
        seen.append((counter.prompt_tokens, counter.completion_tokens))
    assert seen == [(10, 1), (10, 2), (10, 3), (30, 4), (30, 5), (30, 6), (30, 6), (30, 6)]


def test_last_events_that_were_held_back_are_not_lost_if_the_sums_never_come() -> None:
    """The engine dies there: the client has had its answer, and is told."""
    *events, sums, _ = chat_stream([["a"], ["b"]], 3, ASKED)
    assert b'"choices":[]' in sums
    counter = TokenCounter(CHAT, stream=True)
    got = through(counter, events)
    plain = chat_stream([["a"], ["b"]], 3, Said(fingerprint=None))
    assert got == b"".join(plain).removesuffix(DONE)
    assert counter.rest() == b""


def test_an_error_in_mid_stream_comes_after_what_was_held_back() -> None:
    *events, _, _ = chat_stream([["a"]], 3, ASKED)
    counter = TokenCounter(CHAT, stream=True)
    error = b'data: {"error":{"message":"no","code":500}}\n\n'
    got = through(counter, [*events, error, DONE])
    assert got == b"".join(chat_stream([["a"]], 3, Said(fingerprint=None))).removesuffix(DONE) + error + DONE


def test_a_comment_and_an_empty_line_do_not_let_go_of_what_is_held_back_twice() -> None:
    events = chat_stream([["a", "b"]], 3, ASKED)
    counter = TokenCounter(CHAT, stream=True)
    got = through(counter, [b": hello\n\n", b"\n", *events])
    assert got == b": hello\n\n\n" + b"".join(chat_stream([["a", "b"]], 3, Said()))


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"x\n", b": x\n\n", b"data: 1\n\n", b"data: {}\n"]), max_size=9))
def test_what_has_no_counts_goes_on_as_it_is(lines: list[bytes]) -> None:
    assert through(TokenCounter(CHAT, stream=True), [b"".join(lines)] if lines else []) == b"".join(lines)
    assert through(TokenCounter(CHAT, stream=True), lines) == b"".join(lines)


@pytest.mark.parametrize("shown", [True, False])
def test_a_server_that_tells_the_tokens_once(shown: bool) -> None:
    """OpenAI's own: null in all events but the last, without choices. Some others put them into the last choice's."""
    null = {"usage": None}
    first = event({**HEAD, "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}], **null})
    last = event({**HEAD, "choices": [], "usage": usage(5, 9)})
    counter = TokenCounter(CHAT, stream=True, show_usage=shown)
    assert counter.take(first) == (first if shown else first.replace(b',"usage":null', b""))
    assert (counter.prompt_tokens, counter.completion_tokens) == (0, 1), "a piece counts as a token until it is told"
    assert counter.take(last) == (last if shown else b"")
    assert (counter.prompt_tokens, counter.completion_tokens) == (5, 9)
    late = event({**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage(5, 9)})
    counter = TokenCounter(CHAT, stream=True, show_usage=shown)
    plain = first.replace(b',"usage":null', b"")
    unasked = event({**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert through(counter, [plain, late, DONE]) == plain + (late if shown else unasked) + DONE
    assert (counter.prompt_tokens, counter.completion_tokens) == (5, 9)


def test_a_server_with_spaces_in_its_json() -> None:
    counter = TokenCounter(CHAT, stream=True)
    each = b'data: {"id": "x", "choices": [{"delta": {"content": "a"}, "index": 0}], "usage": {"prompt_tokens": 2}}\n\n'
    last = b'data: {"id": "x", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 4}}\n\n'
    assert counter.take(each) == b'data: {"id": "x", "choices": [{"delta": {"content": "a"}, "index": 0}]}\n\n'
    assert counter.take(last) == b""
    assert (counter.prompt_tokens, counter.completion_tokens) == (2, 4)


def test_a_stream_that_was_not_asked_for_in_json_is_only_counted() -> None:
    """Of a transcription, say: the form's `stream_include_usage` is the client's own."""
    *events, done = chat_stream([["a", "b", "c"]], 3, ASKED)
    counter = TokenCounter("/v1/audio/transcriptions", stream=False)
    assert through(counter, [*events, done]) == b"".join(events) + done
    assert (counter.prompt_tokens, counter.completion_tokens) == (3, 3)


def test_a_line_that_is_too_long_goes_on_in_parts_and_is_counted() -> None:
    head, body, rest = b'data: {"choices":[{"index":0,"text":"', b"x" * 1000, b'"}],"usage":'
    counts = b'{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2}}\n\n'
    counter = TokenCounter(COMPLETIONS, stream=True)
    assert counter.take(head) == head
    for part in (body, body, rest, counts):
        assert counter.take(part) == part
    assert (counter.prompt_tokens, counter.completion_tokens) == (1, 2)
    assert counter.take(DONE) == DONE


def of_choice(index: int, completion: int | None, prompt: int = 10, reason: str | None = None, **more: Any) -> bytes:
    told = {} if completion is None else {"usage": usage(prompt, completion)}
    return event(
        {**HEAD, "choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": reason}], **more, **told}
    )


@pytest.mark.parametrize("size", [1000, 4096, 1 << 20])
def test_a_long_line_is_its_choices_own_and_takes_nothing_else_with_it(size: int) -> None:
    """As `Answer` cuts lines: with whole ones before and after the long one in the same piece."""
    long = of_choice(1, 1, ids=["x" * 10_000])
    stream = of_choice(0, 1) + long + of_choice(0, 2) + of_choice(1, 2)
    counter = TokenCounter(COMPLETIONS, stream=True)  # each choice has a prompt of its own
    start = stream.index(b"x" * 10_000)
    cuts = [0, *range(start, start + 9_000, size), stream.index(of_choice(1, 2)), len(stream)]
    got, seen = b"", []
    for at, end in pairwise(cuts):
        got += counter.take(stream[at:end])
        seen.append((counter.prompt_tokens, counter.completion_tokens))
    assert seen[-2:] == [(20, 3), (20, 4)]
    assert got == of_choice(0, None) + long + of_choice(0, None) + of_choice(1, None)


@pytest.mark.parametrize(
    "told",
    [
        b'{"usage":{"prompt_tokens":5,"completion_tokens":7},"id":"x","choices":[]}',
        b'{"usage" : {"prompt_tokens":5,"completion_tokens":7} }',
        b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"cost":{"a":{"b":[{"usage":{"x":"}"}}]}}}}',
        b'{"x":{"usage":{"prompt_tokens":1}},"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7},"y":"usage"}',
    ],
)
def test_wherever_in_its_event_a_server_tells_the_tokens(told: bytes) -> None:
    counter = TokenCounter(CHAT, stream=True)
    got = through(counter, [of_choice(0, None), b"data: " + told + b"\n\n", DONE])
    assert b"prompt_tokens" not in got
    assert got.endswith(DONE)
    assert (counter.prompt_tokens, counter.completion_tokens) == (5, 7)


def test_only_the_events_own_counts_are_taken_out() -> None:
    """With a text that is that word, and a vendor's own counts, which are the client's."""
    more: dict[str, Any] = {"x": {"usage": {"prompt_tokens": 1}}, "text": "usage"}
    counter = TokenCounter(CHAT, stream=True)
    assert counter.take(of_choice(0, 1, **more)) == of_choice(0, None, **more)
    assert counter.take(of_choice(0, None, **more)) == of_choice(0, None, **more)
    assert (counter.prompt_tokens, counter.completion_tokens) == (10, 2)


@pytest.mark.parametrize("pieces", [1, 3])
def test_who_asked_for_sums_gets_them_of_a_server_that_tells_them_in_each_event(pieces: int) -> None:
    events = [of_choice(0, n, reason="stop" if n == pieces else None) for n in range(1, pieces + 1)]
    counter = TokenCounter(CHAT, stream=True, show_usage=True)
    *plain, sums, done, nothing = through(counter, [*events, DONE]).split(b"\n\n")
    assert (plain, done, nothing) == ([e.strip() for e in untold(events)], DONE.strip(), b"")
    assert json.loads(sums.removeprefix(b"data: ")) == {**HEAD, "choices": [], "usage": usage(10, pieces)}
    counter = TokenCounter(CHAT, stream=True)
    assert through(counter, [*events, DONE]) == b"".join(untold(events)) + DONE


def test_sums_of_several_choices_and_in_a_servers_own_terms() -> None:
    counter = TokenCounter(CHAT, stream=True, show_usage=True, choices=2)
    events = [of_choice(0, 2, reason="stop"), of_choice(1, 3, reason="stop"), DONE]
    assert json.loads(through(counter, events).split(b"\n\n")[2].removeprefix(b"data: "))["usage"] == usage(10, 5)
    own = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 99}  # with thoughts beside the answer
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    last = event({"choices": [choice], "usage": own})
    got = through(TokenCounter(CHAT, stream=True, show_usage=True), [last, DONE])
    assert json.loads(got.split(b"\n\n")[1].removeprefix(b"data: ")) == {"choices": [], "usage": own}
    bare = event({"id": "x", "usage": own})
    assert through(TokenCounter(CHAT, stream=True, show_usage=True), [of_choice(0, 1, reason="stop"), bare, DONE]) == (
        untold([of_choice(0, 1, reason="stop")])[0] + bare + DONE
    )


def untold(events: Sequence[bytes]) -> list[bytes]:
    fields = [json.loads(each.removeprefix(b"data: ")) for each in events]
    return [event({name: value for name, value in each.items() if name != "usage"}) for each in fields]


def test_no_sums_are_made_up_after_an_error() -> None:
    error = b'data: {"error":{"message":"no","code":500}}\n\n'
    counter = TokenCounter(CHAT, stream=True, show_usage=True)
    events = [of_choice(0, 1, reason="stop"), of_choice(1, 1)]
    assert through(counter, [*events, error, DONE]) == b"".join(untold(events)) + error + DONE


def test_an_event_without_choices_that_tells_no_tokens_goes_on() -> None:
    """Azure's first one, with what its filters say of the prompt."""
    first = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}
    counter = TokenCounter(CHAT, stream=True)
    assert counter.take(event({**first, "usage": None})) == event(first)
    shown = TokenCounter(CHAT, stream=True, show_usage=True)
    assert shown.take(event({**first, "usage": None})) == event({**first, "usage": None})


def test_an_event_with_several_choices() -> None:
    """vLLM has no such; its counts can only be those of all."""
    choices = [{"index": i, "delta": {"content": "a"}, "finish_reason": None} for i in range(2)]
    counter = TokenCounter(CHAT, stream=True, choices=2)
    counter.take(event({**HEAD, "choices": choices, "usage": None}))
    assert (counter.prompt_tokens, counter.completion_tokens) == (0, 2)
    for number in (1, 2):
        counter.take(event({**HEAD, "choices": choices, "usage": usage(5, 2 * number)}))
        assert (counter.prompt_tokens, counter.completion_tokens) == (5, 2 * number)


@pytest.mark.parametrize(
    "told",
    [
        b'{"usage":[],"choices":[]}',
        b'{"usage":{"prompt_tokens":3},"choices":3}',
        b'{"usage":{"prompt_tokens":3},"choices":[3]}',
        b'{"usage":{"prompt_tokens":3},"choices":[{"index":"x","finish_reason":[]}]}',
        b'{"usage":null,"choices":[null,{}]}',
        b'{"usage":{"prompt_tokens":3},"choices":[}',
        b'[{"usage":{}}]',
    ],
)
def test_an_event_that_is_none_of_openais_upsets_nothing(told: bytes) -> None:
    for shown in (True, False):
        counter = TokenCounter(CHAT, stream=True, show_usage=shown)
        assert through(counter, [b"data: " + told + b"\n\n", DONE]).endswith(DONE)


MESSAGES = [
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],"usage":{"input_tokens":8,'
    b'"output_tokens":0,"cache_read_input_tokens":2}}}\n\n',
    b'event: content_block_start\ndata: {"index":0,"type":"content_block_start"}\n\n',
    *[b'event: content_block_delta\ndata: {"delta":{"text":" \\"usage\\":{}"},"type":"content_block_delta"}\n\n'] * 3,
    b'event: content_block_stop\ndata: {"type":"content_block_stop"}\n\n',
    b'event: message_delta\ndata: {"delta":{"stop_reason":"max_tokens"},"type":"message_delta",'
    b'"usage":{"input_tokens":8,"output_tokens":5,"cache_read_input_tokens":2}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]
RESPONSES = [
    b'event: response.created\ndata: {"response":{"id":"r","tools":[{"usage":{"input_tokens":99}}],"usage":null},'
    b'"type":"response.created"}\n\n',
    *[b'event: response.output_text.delta\ndata: {"delta":" a","type":"response.output_text.delta"}\n\n'] * 3,
    b'event: response.completed\ndata: {"response":{"id":"r","output":[{"usage":{"input_tokens":7}}],"usage":'
    b'{"input_tokens":11,"input_tokens_details":{"cached_tokens":0},"output_tokens":4,"total_tokens":15},'
    b'"metadata":{"usage":{"input_tokens":1}}},"type":"response.completed"}\n\n',
]


@pytest.mark.parametrize(
    ("route", "events", "counts"),
    [
        ("/v1/messages", MESSAGES, [(10, 0), (10, 0), (10, 1), (10, 2), (10, 3), (10, 3), (10, 5), (10, 5)]),
        ("/v1/responses", RESPONSES, [(0, 0), (0, 1), (0, 2), (0, 3), (11, 4)]),
    ],
)
def test_streams_of_events_are_counted_by_piece_until_they_tell(
    route: str, events: list[bytes], counts: list[tuple[int, int]]
) -> None:
    counter = TokenCounter(route, stream=True)
    seen = []
    for each in events:
        assert counter.take(each) == each
        seen.append((counter.prompt_tokens, counter.completion_tokens))
    assert seen == counts


@pytest.mark.parametrize(("route", "events"), [("/v1/messages", MESSAGES[:5]), ("/v1/responses", RESPONSES[:4])])
def test_streams_of_events_of_other_servers(route: str, events: list[bytes]) -> None:
    """With CRLF, and without the lines that name the event."""
    stream = b"".join(events)
    unnamed = b"".join(line for line in stream.splitlines(keepends=True) if not line.startswith(b"event:"))
    for each in (stream.replace(b"\n", b"\r\n"), unnamed):
        counter = TokenCounter(route, stream=True)
        assert counter.take(each) == each
        assert counter.completion_tokens == 3


@pytest.mark.parametrize("last", [b'"input_tokens":0,', b'"input_tokens":8,', b""])
def test_a_prompt_does_not_become_shorter_at_the_end(last: bytes) -> None:
    """Some servers of Messages tell what was cached, or the prompt at all, at the beginning only."""
    end = b'data: {"type":"message_delta","delta":{},"usage":{' + last + b'"output_tokens":5}}\n\n'
    counter = TokenCounter("/v1/messages", stream=True)
    through(counter, [*MESSAGES[:-2], end])
    assert (counter.prompt_tokens, counter.completion_tokens) == (10, 5)


@given(data=st.data())
def test_streams_of_events_in_any_blocks(data: st.DataObject) -> None:
    for route, events, counts in (("/v1/messages", MESSAGES, (10, 5)), ("/v1/responses", RESPONSES, (11, 4))):
        blocks = in_blocks(events, data.draw(st.sets(st.integers(0, 30))))
        counter = TokenCounter(route, stream=True)
        assert through(counter, blocks) == b"".join(events)
        assert (counter.prompt_tokens, counter.completion_tokens) == counts
