"""`/v1/arena`: comparisons, blind battles, votes and the leaderboard. docs/arena.md describes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from arena_server.api.chat_fields import LETTERS, BattleBody, CompareBody, TurnBody, VoteBody, dumped, parse
from arena_server.api.names import Catalogue
from arena_server.api.question import session_of
from arena_server.api.upload import read_body
from arena_server.arena.battles import Ask, Battles
from arena_server.arena.compare import Comparison, Side
from arena_server.arena.stream import Event, events_of
from arena_server.clock import Clock
from arena_server.config import Config
from arena_server.course import Courses
from arena_server.errors import BadRequest
from arena_server.pool.pool import Pool
from arena_server.request_id import origin

KEEP_ALIVE_S = 15


def arena_router(
    pool: Pool,
    catalogue: Catalogue,
    battles: Battles,
    leaderboard: Callable[[], Awaitable[Mapping[str, Any]]],
    clock: Clock,
    config: Config,
    courses: Courses,
) -> APIRouter:
    """The routes; `leaderboard` gives the answer of that route."""
    router = APIRouter(prefix="/v1/arena", tags=["arena"])
    grace_s = config.server.shutdown_grace_s

    async def body(request: Request) -> bytes:
        return await read_body(request.receive)

    def named(request: Request, name: str) -> str:
        """The configured name for one that the caller gave. Raises ModelNotFound, ModelNotAllowed."""
        caller = origin().caller
        model = catalogue.resolve(name, session_of(request.headers.raw, caller), caller)
        caller.check_model(name, model)
        return model

    def drawable() -> list[str]:
        """The models that may be drawn for the caller."""
        allowed = catalogue.allowed(origin().caller)
        return [model for model in battles.drawable if model in allowed]

    @router.post("/compare", summary="Ask two to four models, side by side")
    async def compare(request: Request) -> Response:
        asked = parse(CompareBody, await body(request))
        names = [named(request, name) for name in asked.models]
        if len(set(names)) < len(names):
            raise BadRequest("`models` names one model twice.", param="models")
        sides = [Side(letter, name, asked.messages_of(letter)) for letter, name in zip(LETTERS, names, strict=False)]
        require = asked.co_residency == "require"
        comparison = Comparison(pool, clock, sides, asked.sampling(), courses, require=require)
        events = events_of(comparison.run)
        if asked.stream:
            return await streamed(events, grace_s)
        await run_out(events, request)
        return JSONResponse(comparison.body())

    @router.post("/battles", summary="Begin a blind battle")
    async def begin(request: Request) -> Response:
        raw = await body(request)
        asked = parse(BattleBody, raw)
        models = None if asked.models is None else [named(request, name) for name in asked.models]
        messages, owner = dumped(asked.messages), origin().caller.key
        ask = Ask(messages, asked.sampling(), models, len(raw), among=drawable(), owner=owner)
        return await streamed(battles.begin(ask), grace_s)

    @router.post("/battles/{battle_id}/turns", summary="Go on with both sides")
    async def go_on(request: Request, battle_id: str) -> Response:
        asked = parse(TurnBody, await body(request))
        caller = origin().caller
        events = battles.go_on(battle_id, asked.content, caller.key, among=catalogue.allowed(caller))
        return await streamed(events, grace_s)

    @router.get("/battles/{battle_id}", summary="A battle, as far as it may be seen")
    async def find(battle_id: str) -> dict[str, Any]:
        return battles.find(battle_id, origin().caller.key).seen()

    @router.post("/battles/{battle_id}/vote", summary="Vote, once, and learn who was who")
    async def vote(request: Request, battle_id: str) -> dict[str, Any]:
        asked = parse(VoteBody, await body(request))
        return (await battles.vote(battle_id, asked.vote, origin().caller.key)).seen()

    @router.get("/leaderboard", summary="The ranking by all votes")
    async def get_leaderboard() -> Mapping[str, Any]:
        return await leaderboard()

    @router.get("/settings", summary="What a page needs to know")
    async def settings() -> dict[str, Any]:
        models, names = drawable(), catalogue.allowed(origin().caller)
        return {
            "battles": len(models) >= 2,
            "models": list(dict.fromkeys(names[model] for model in models)),
            "paced": config.arena.paced,
            "store_texts": config.arena.store_texts,
        }

    return router


class EventStream(EventSourceResponse):
    """Events as they come; whatever becomes of the client, their maker ends with the response."""

    def __init__(self, first: Event, rest: AsyncGenerator[Event, None], grace_s: float) -> None:
        """`grace_s` is what a stream gets once the daemon is told to end."""
        self._events = rest

        async def written() -> AsyncIterator[dict[str, str]]:
            yield _written(first)
            async for event in rest:
                yield _written(event)

        # Without an event of its own the library would cut the stream at once then.
        super().__init__(
            written(), ping=KEEP_ALIVE_S, shutdown_event=anyio.Event(), shutdown_grace_period=grace_s, sep="\n"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `EventSourceResponse`."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


async def streamed(events: AsyncGenerator[Event, None], grace_s: float) -> EventStream:
    """The events as a response. Raises what the first of them raises: that is an answer of its own."""
    return EventStream(await anext(events), events, grace_s)


async def run_out(events: AsyncGenerator[Event, None], request: Request) -> None:
    """Let the events pass to the last. Raises ClientDisconnect, having ended their maker, if the client leaves."""

    async def pass_by() -> None:
        async with aclosing(events):
            async for _ in events:
                pass

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    passing, left = asyncio.create_task(pass_by()), asyncio.create_task(leaving())
    try:
        await asyncio.wait([passing, left], return_when=asyncio.FIRST_COMPLETED)
        if not passing.done():
            raise ClientDisconnect
        await passing
    finally:
        left.cancel()
        passing.cancel()
        await asyncio.wait([passing, left])


def _written(event: Event) -> dict[str, str]:
    return {"event": event.kind, "data": json.dumps(event.data)}
