"""A stand-in for FastChat's worker: its protocol, and the text of bench/stand_in.py at the same pace.

It speaks as fastchat/serve/vllm_worker.py does: an answer is JSON objects, each with all of the text so far and ended
by a zero byte, the last one sent twice (the second time with why it ended). Prints its port once it is registered.

    python -m bench.peers.fastchat_worker --controller http://127.0.0.1:21001 --pace 100
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any

import aiohttp
import uvloop

from arena_server.engine.parent_death import die_with_parent
from bench.http_connection import HttpConnection
from bench.stand_in import MODEL, PROMPT_TOKENS, WORDS, StandIn, end_signal

CONTEXT_TOKENS = 4096
STATUS = {"model_names": [MODEL], "speed": 1, "queue_length": 0}
# What fastchat/conversation.py calls one_shot, without its example.
CONVERSATION = {
    "name": "stand-in",
    "system_template": "{system_message}",
    "system_message": "",
    "roles": ["Human", "Assistant"],
    "messages": [],
    "offset": 0,
    "sep_style": 1,  # ADD_COLON_SINGLE
    "sep": "\n### ",
    "sep2": None,
    "stop_str": "###",
    "stop_token_ids": None,
}
REPLIES: dict[bytes, Any] = {
    b"/worker_get_status": STATUS,
    b"/worker_get_conv_template": {"conv": CONVERSATION},
    b"/model_details": {"context_length": CONTEXT_TOKENS},
    b"/count_token": {"count": PROMPT_TOKENS, "error_code": 0},
}
END = b"0\r\n\r\n"


def answer(chunks: int, counted: bool = False) -> tuple[list[bytes], list[bytes]]:
    """What is written for so many tokens: one after the other, and in the end. See bench.stand_in.answer.

    `counted` has no meaning here: FastChat's worker always tells the tokens so far.
    """
    text = ""
    steps = [b""]  # the stand-in's chunk with the role, which comes with the first token; here it has no counterpart
    for n in range(1, chunks):
        text += WORDS[(chunks - n) % len(WORDS)]
        steps.append(_chunk(text, n, None))
    text += " end"
    return steps, [_chunk(text, chunks, None), _chunk(text, chunks, "length"), END]


def _chunk(text: str, tokens: int, finish_reason: str | None) -> bytes:
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens}
    said = {"text": text, "error_code": 0, "usage": usage, "cumulative_logprob": [], "finish_reason": finish_reason}
    data = json.dumps(said).encode() + b"\0"
    return b"%x\r\n%b\r\n" % (len(data), data)


class Worker(StandIn):
    """Decodes as the stand-in engine does; only what it writes differs."""

    def answer(self, chunks: int, counted: bool) -> tuple[list[bytes], list[bytes]]:
        """See StandIn."""
        return answer(chunks, counted)

    def respond(self, transport: asyncio.Transport, path: bytes, body: bytes) -> None:
        """See StandIn."""
        if path == b"/worker_generate_stream":
            self.start(transport, json.loads(body)["max_new_tokens"], False)
            return
        known = path in REPLIES
        reply = json.dumps(REPLIES[path] if known else {"detail": "Not Found"}).encode()
        status = b"200 OK" if known else b"404 Not Found"
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(reply))
        transport.write(head + reply)


async def listen(worker: Worker) -> asyncio.Server:
    """Answer on any free port of 127.0.0.1."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: HttpConnection(worker.respond), "127.0.0.1", backlog=2048)


def port_of(server: asyncio.Server) -> int:
    """Where it listens."""
    return int(server.sockets[0].getsockname()[1])


async def register(controller: str, port: int) -> None:
    """Tell the controller of it. Without heart beats: the benchmark looks after its processes itself."""
    known = {"worker_name": f"http://127.0.0.1:{port}", "check_heart_beat": False, "worker_status": STATUS}
    async with (
        aiohttp.ClientSession(raise_for_status=True) as client,
        client.post(f"{controller}/register_worker", json=known),
    ):
        return


async def serve(controller: str, worker: Worker) -> None:
    """Answer until SIGTERM or SIGINT."""
    ended = end_signal()
    port = port_of(await listen(worker))
    await register(controller, port)
    print(port, flush=True)
    await ended.wait()


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser(description="A stand-in for FastChat's worker.")
    parser.add_argument("--controller", required=True, help="address of FastChat's controller")
    parser.add_argument("--pace", type=float, default=100.0, help="tokens per second of each stream (100)")
    args = parser.parse_args()
    die_with_parent(os.getppid())
    uvloop.run(serve(args.controller, Worker(args.pace)))


if __name__ == "__main__":
    main()
