"""A stand-in for an engine: no model, but streams chat chunks like vLLM's, at a set pace, over a socket or a TCP port.

A tiny model on a few cores measures those cores; this measures what is in front of an engine. It decodes
as vLLM does: one step for all running streams, each of which gets one chunk per step. Chunks, headers and their
splitting into writes are those of vLLM 0.32. `max_tokens` in a request sets the number of chunks.

    python -m bench.stand_in --uds /tmp/engine.sock --pace 100 --first-token-ms 10
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
from dataclasses import dataclass

import uvloop

from arena_server.engine.parent_death import die_with_parent
from bench.http_connection import HttpConnection

MODEL = "stand-in"
CHUNKS = 100  # of an answer to a request without max_tokens
WORDS = (" the", " harbour", " was", " quiet", " and", " a", " lamp", " burned", " over", " it")

HEAD = f'{{"id":"chatcmpl-b1f37aa1578beb6e","object":"chat.completion.chunk","created":1795255560,"model":"{MODEL}",'
PLAIN = '"logprobs":null,"finish_reason":null,"token_ids":null'


def _chunk(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


HEADERS = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 10:06:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\ntransfer-encoding: chunked\r\n\r\n"
)
FINGERPRINT = ',"system_fingerprint":"vllm-0.32.0-42aaffcd"'
PROMPT_TOKENS = 31


def _role(usage: str) -> bytes:
    return _chunk(
        HEAD + '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        f'{usage},"prompt_token_ids":null,"prompt_text":null}}'
    )


def _token(word: str, usage: str) -> bytes:
    return _chunk(HEAD + f'"choices":[{{"index":0,"delta":{{"content":"{word}"}},{PLAIN}}}]{usage}}}')


def _last(more: str) -> bytes:
    end = '"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null'
    return _chunk(HEAD + f'"choices":[{{"index":0,"delta":{{"content":" end"}},{end}}}]{more}}}')


def _usage(tokens: int) -> str:
    return (
        f',"usage":{{"prompt_tokens":{PROMPT_TOKENS},"total_tokens":{PROMPT_TOKENS + tokens},'
        f'"completion_tokens":{tokens},"completion_tokens_details":null}}'
    )


def answer(chunks: int, counted: bool) -> tuple[list[bytes], list[bytes]]:
    """What is written: one after the other, and in the end; `counted`: with the tokens so far in each event."""
    said = [_usage(n) if counted else "" for n in range(chunks + 1)]
    steps = [_role(said[0]), *(_token(WORDS[(chunks - n) % len(WORDS)], said[n]) for n in range(1, chunks))]
    if not counted:
        return steps, [_last(FINGERPRINT), DONE]
    sums = _chunk(f'{HEAD}"choices":[]{said[-1]}{FINGERPRINT}}}')
    return steps, [_last(said[-1]), sums, DONE]


DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
HEALTHY = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 0\r\n\r\n"
LIST = b'{"object":"list","data":[{"id":"%b","object":"model"}]}' % MODEL.encode()
MODELS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(LIST), LIST)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nserver: uvicorn\r\ncontent-length: 0\r\n\r\n"


@dataclass(eq=False, slots=True)
class _Stream:
    transport: asyncio.Transport
    steps: list[bytes]
    end: list[bytes]
    done: int = 0

    def step(self) -> bool:
        """Send one chunk; False after the last."""
        if self.done < len(self.steps):
            self.transport.write(self.steps[self.done])
            self.done += 1
            return True
        for chunk in self.end:
            self.transport.write(chunk)
        return False


class StandIn:
    """Decodes all running streams in step."""

    def __init__(self, pace: float, first_token_s: float = 0.0) -> None:
        self._step_s = 1 / pace
        self._first_token_s = first_token_s
        self._streams: set[_Stream] = set()
        self._answers: dict[tuple[int, bool], tuple[list[bytes], list[bytes]]] = {}  # made once
        self._next: asyncio.TimerHandle | None = None

    def answer(self, chunks: int, counted: bool) -> tuple[list[bytes], list[bytes]]:
        """See `answer`; a stand-in for another program writes something else."""
        return answer(chunks, counted)

    def respond(self, transport: asyncio.Transport, path: bytes, body: bytes) -> None:
        """Answer a request; see HttpConnection."""
        if path == b"/health":
            transport.write(HEALTHY)
        elif path == b"/v1/models":
            transport.write(MODELS)
        elif path == b"/v1/chat/completions":
            asked = json.loads(body)
            counted = bool((asked.get("stream_options") or {}).get("continuous_usage_stats"))
            self.start(transport, asked.get("max_tokens", CHUNKS), counted)
        else:
            transport.write(NOT_FOUND)

    def start(self, transport: asyncio.Transport, chunks: int, counted: bool) -> None:
        """Answer one request with that many chunks; `counted`: with the tokens so far in each."""
        if (chunks, counted) not in self._answers:
            self._answers[chunks, counted] = self.answer(chunks, counted)
        transport.write(HEADERS)
        stream = _Stream(transport, *self._answers[chunks, counted])
        if self._first_token_s > 0:
            asyncio.get_running_loop().call_later(self._first_token_s, self._prefilled, stream)
        else:
            self._prefilled(stream)

    def _prefilled(self, stream: _Stream) -> None:
        if stream.transport.is_closing():
            return
        stream.step()
        if stream.step():
            self._streams.add(stream)
            if self._next is None:
                loop = asyncio.get_running_loop()
                self._next = loop.call_at(loop.time() + self._step_s, self._step, loop.time() + self._step_s)

    def _step(self, due: float) -> None:
        for stream in list(self._streams):
            if stream.transport.is_closing() or not stream.step():
                self._streams.discard(stream)
        # Counted from when it was due: a late step does not slow the pace.
        loop = asyncio.get_running_loop()
        self._next = loop.call_at(due + self._step_s, self._step, due + self._step_s) if self._streams else None


def end_signal() -> asyncio.Event:
    """Set from SIGTERM or SIGINT on."""
    ended = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, ended.set)
    return ended


async def serve(uds: str | None, port: int | None, engine: StandIn) -> None:
    """Answer on the socket, the port of 127.0.0.1 or both until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = end_signal()
    if port is not None:
        await loop.create_server(lambda: HttpConnection(engine.respond), "127.0.0.1", port, backlog=2048)
    if uds is not None:
        await loop.create_unix_server(lambda: HttpConnection(engine.respond), uds, backlog=2048)
    await ended.wait()
    if uds is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(uds)


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser(description="A stand-in engine that streams at a set pace.")
    parser.add_argument("--uds", help="path of the Unix socket")
    parser.add_argument("--port", type=int, help="TCP port on 127.0.0.1, instead or as well")
    parser.add_argument("--pace", type=float, default=100.0, help="chunks per second of each stream (100)")
    parser.add_argument("--first-token-ms", type=float, default=0.0, help="milliseconds before the first chunk (0)")
    args = parser.parse_args()
    if args.uds is None and args.port is None:
        parser.error("needs --uds, --port or both")
    die_with_parent(os.getppid())
    uvloop.run(serve(args.uds, args.port, StandIn(args.pace, args.first_token_ms / 1000)))


if __name__ == "__main__":
    main()
