"""What a fake engine answers: vLLM's routes in small, with text made of the prompt's own words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from arena_server.api.body import ask_of

Header = tuple[str, str]


@dataclass(slots=True)
class Received:
    """One request, as the engine got it. Header names in lower case."""

    method: str
    path: str
    headers: list[Header]
    body: bytes
    sent: int = 0  # chunks of the answer that have left
    finished: bool = False
    aborted: bool = False  # the client hung up before the end of the answer

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((v for n, v in self.headers if n == name), None)

    def json(self) -> dict[str, Any]:
        """The body."""
        value: dict[str, Any] = json.loads(self.body)
        return value

    def as_asked(self) -> Received:
        """The same as a client sent it that asked for no counts of tokens: the daemon asks for them in its place."""
        asked = {name: value for name, value in self.json().items() if name != "stream_options"}
        return replace(self, body=json.dumps(asked).encode())


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its chunks leave one by one, through the engine's gate.

    `length` declares a Content-Length; None means that the answer is chunked.
    """

    chunks: Sequence[bytes]
    status: str = "200 OK"
    headers: Sequence[Header] = field(default=(("content-type", "application/json"),))
    length: int | None = None

    def head(self) -> bytes:
        """Status line and headers, in the order and with the company they have in vLLM's answers."""
        framing = ("transfer-encoding", "chunked") if self.length is None else ("content-length", str(self.length))
        lines = [f"{n}: {v}" for n, v in (("date", "Sat, 21 Nov 2026 10:06:00 GMT"), ("server", "uvicorn"))]
        lines += [f"{n}: {v}" for n, v in (*self.headers, framing)]
        return "\r\n".join([f"HTTP/1.1 {self.status}", *lines, "", ""]).encode("latin-1")

    def framed(self, chunk: bytes) -> bytes:
        """One chunk as it goes over the wire."""
        return chunk if self.length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk)


EVENT_STREAM = (("content-type", "text/event-stream; charset=utf-8"),)


def whole(value: Any, status: str = "200 OK") -> Reply:
    """A JSON answer in one piece."""
    body = json.dumps(value).encode()
    return Reply([body], status, length=len(body))


def stream(events: Sequence[bytes]) -> Reply:
    """Server-sent events, one a chunk."""
    return Reply(events, headers=EVENT_STREAM)


def data(value: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(value)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def reply_to(request: Received) -> Reply:
    """What vLLM would answer, in form."""
    path = request.path.partition("?")[0]
    if path == "/health":
        return Reply([], length=0)
    if path == "/v1/audio/transcriptions":
        model = ask_of(request.body, request.header("content-type") or "").model
        return whole({"text": f"{len(request.body)} bytes for {model}"})
    dialects = {
        "/v1/messages": _messages,
        "/v1/responses": _responses,
    }
    if request.method != "POST" or path not in {*dialects, *OPENAIS}:
        return whole({"object": path})
    asked = request.json()
    words = str(asked.get("prompt") or asked.get("input") or asked["messages"][-1]["content"]).split() or [""]
    texts = [f"{words[i % len(words)]} " for i in range(asked.get("max_tokens") or 3)]
    if path in OPENAIS:
        return OPENAIS[path](asked, texts)
    return dialects[path](asked["model"], texts, bool(asked.get("stream")))


def _completions(asked: dict[str, Any], texts: list[str]) -> Reply:
    def event(text: str, end: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "finish_reason": end}
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": asked["model"], "choices": [choice]}

    if not asked.get("stream"):
        return whole({**event("".join(texts), "length"), "usage": _usage(len(texts))})
    events = [*(event(t, None) for t in texts[:-1]), event(texts[-1], "length")]
    return stream([*map(data, _counted(asked, events)), DONE])


def _chat(asked: dict[str, Any], texts: list[str]) -> Reply:
    about = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
    last = "length" if asked.get("max_tokens") else "stop"

    def event(kind: str, key: str, text: str, end: str | None) -> dict[str, Any]:
        choice = {"index": 0, key: {"role": "assistant", "content": text}, "finish_reason": end}
        return {**about, "object": kind, "choices": [choice]}

    if not asked.get("stream"):
        return whole({**event("chat.completion", "message", "".join(texts), last), "usage": _usage(len(texts))})
    ends = [None] * (len(texts) - 1) + [last]
    events = [event("chat.completion.chunk", "delta", t, e) for t, e in zip(texts, ends, strict=True)]
    return stream([*map(data, _counted(asked, events)), DONE])


PROMPT_TOKENS = 3


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS + tokens, "completion_tokens": tokens}


def _counted(asked: dict[str, Any], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chunks, a token each, with the counts that were asked for."""
    options = asked.get("stream_options") or {}
    if not options.get("include_usage"):
        return events
    last = {**events[-1], "choices": [], "usage": _usage(len(events))}
    if options.get("continuous_usage_stats"):
        events = [{**event, "usage": _usage(n)} for n, event in enumerate(events, 1)]
    return [*events, last]


def _messages(model: str, texts: list[str], streaming: bool) -> Reply:
    message: dict[str, Any] = {
        "id": "msg-1", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    if not streaming:
        return whole({**message, "content": [{"type": "text", "text": "".join(texts)}], "stop_reason": "max_tokens"})
    start = data({"type": "message_start", "message": message}, "message_start")
    delta = "content_block_delta"
    parts = [data({"type": delta, "index": 0, "delta": {"type": "text_delta", "text": t}}, delta) for t in texts]
    return stream([start, *parts, data({"type": "message_stop"}, "message_stop")])


def _responses(model: str, texts: list[str], streaming: bool) -> Reply:
    content = [{"type": "output_text", "text": "".join(texts), "annotations": []}]
    output = [{"id": "m-1", "type": "message", "role": "assistant", "status": "completed", "content": content}]
    about = {"id": "resp-1", "object": "response", "created_at": 1, "model": model}
    response = {**about, "status": "completed", "output": output}
    started = {**about, "status": "in_progress", "output": []}
    if not streaming:
        return whole(response)
    begin, kind, end = "response.created", "response.output_text.delta", "response.completed"
    parts = [data({"type": kind, "delta": t, "sequence_number": i}, kind) for i, t in enumerate(texts, 1)]
    return stream(
        [
            data({"type": begin, "response": started, "sequence_number": 0}, begin),
            *parts,
            data({"type": end, "response": response, "sequence_number": len(parts) + 1}, end),
        ]
    )


OPENAIS = {"/v1/chat/completions": _chat, "/v1/completions": _completions}
