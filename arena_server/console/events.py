"""`arena-server events`: what happens in the pool, a line each, as it happens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from arena_server.console.api import Api, NoAnswer
from arena_server.console.key import ApiKey
from arena_server.console.picture import Decision, QueueChange, Transition
from arena_server.console.shape import WrongShape, read
from arena_server.console.words import clean, moment, took


def follow_events(url: str, key: ApiKey | None = None) -> int:
    """Print them until the daemon ends the stream, which is an error, or the reader leaves."""
    with Api(url, key=key).events() as lines:
        for name, data in messages(lines):
            print(told(name, data), flush=True)
    raise NoAnswer(f"{url} has ended the stream of events (has the daemon stopped?)")


def messages(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names and data of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")  # a comment has an empty field
        if field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))


def told(name: str, data: str) -> str:
    """An event as a line; one that is not known, or not understood, as it came."""
    try:
        return TELLERS[name](json.loads(data))
    except (KeyError, ValueError, RecursionError, WrongShape):
        return clean(f"{name} {data}")


def _transition(value: Any) -> str:
    e = read(Transition, value)
    return f"{moment(e.at)} {clean(e.model)}: {clean(e.was)} -> {clean(e.to)} ({clean(e.why)})"


def _queue(value: Any) -> str:
    e = read(QueueChange, value)
    waiters = [f"{clean(' + '.join(w.models))} {took(w.waited_s)} {clean(w.phase)}".rstrip() for w in e.queue]
    return f"{moment(e.at)} queue: {'; '.join(waiters) or 'empty'}"


def _decision(value: Any) -> str:
    e = read(Decision, value)
    what = clean(" ".join(filter(None, (e.what, e.model))))
    return f"{moment(e.at)} {what}: {clean(e.why)}" + ("" if e.cost_s is None else f" ({took(e.cost_s)})")


TELLERS: Mapping[str, Callable[[Any], str]] = {"transition": _transition, "queue": _queue, "decision": _decision}
