"""The least that a FastAPI service costs, to compare the daemon with: /health, and a stream that comes from nowhere.

python -m bench.bare_app --port 8100 --pace 100
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from arena_server.engine.parent_death import die_with_parent


class Beat:
    """Lets all streams take a step at the same moment, as an engine does."""

    def __init__(self, pace: float) -> None:
        self._step_s = 1 / pace
        self._next: asyncio.Future[None] | None = None

    def step(self) -> asyncio.Future[None]:
        """Done at the next step."""
        if self._next is None or self._next.done():
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            now = loop.time()
            # At whole multiples: a late step does not slow the pace.
            loop.call_at((now // self._step_s + 1) * self._step_s, self._next.set_result, None)
        return self._next


def bare_app(pace: float) -> FastAPI:
    """The application; `pace` in tokens per second of each stream."""
    app = FastAPI()
    beat = Beat(pace)
    answers: dict[int, Sequence[bytes]] = {}  # made once, by their tokens

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        tokens = json.loads(await request.body())["max_tokens"]
        if tokens not in answers:
            answers[tokens] = events_of(tokens)
        return StreamingResponse(_paced(answers[tokens], beat), media_type="text/event-stream")

    return app


def events_of(tokens: int) -> Sequence[bytes]:
    """What the stand-in engine sends, rid of HTTP's framing."""
    from bench.stand_in import answer  # here: what a start costs is measured, too

    steps, end = answer(tokens, False)
    chunks = [chunk.partition(b"\r\n")[2][:-2] for chunk in [*steps, end[0]]]
    return [*chunks, b"data: [DONE]\n\n"]


async def _paced(events: Sequence[bytes], beat: Beat) -> AsyncIterator[bytes]:
    """As the stand-in does: the role and the first token at once, a token each step, the end with the last one."""
    for number, event in enumerate(events):
        if 1 < number < len(events) - 1:
            await beat.step()
        yield event


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser(description="A bare FastAPI application.")
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--pace", type=float, default=100.0, help="tokens per second of each stream (100)")
    args = parser.parse_args()
    die_with_parent(os.getppid())
    uvicorn.run(
        bare_app(args.pace),
        host="127.0.0.1",
        port=args.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
