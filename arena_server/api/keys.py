"""`/admin/keys`: the keys of this daemon. No answer has a key's text but the one that made it, and none its hash."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from arena_server.access.issuer import Issuer
from arena_server.access.key_card import IssuedKey, KeyCard
from arena_server.access.keyring import Keyring
from arena_server.api.chat_fields import parse
from arena_server.api.key_body import KeyBody, RotationBody
from arena_server.api.upload import read_body
from arena_server.errors import ArenaError

logger = logging.getLogger(__name__)

MOST_BODY_BYTES = 1 << 20


def keys_router(issuer: Issuer, keyring: Keyring) -> APIRouter:
    """The routes; what they change is in force in `keyring` when they answer."""
    router = APIRouter(prefix="/admin/keys", tags=["admin"])

    async def put_into_force() -> None:
        try:
            await keyring.load()
        except ArenaError as e:  # it is done nevertheless, and a new key's text must not be lost: it is told once
            logger.warning("A changed API key comes into force later: %s", e)

    @router.get("", summary="All keys, without their texts")
    async def get_keys() -> dict[str, Any]:
        return {"keys": [asdict(card) for card in await issuer.cards()]}

    @router.post("", status_code=201, summary="Make a key; its text is told this once")
    async def post_key(request: Request) -> JSONResponse:
        asked = parse(KeyBody, await read_body(request.receive, MOST_BODY_BYTES))
        card, issued = await issuer.create(asked.order())
        await put_into_force()
        return _told(card, issued, 201)

    @router.delete("/{key_id:path}", summary="Revoke a key")
    async def delete_key(key_id: str) -> dict[str, Any]:
        card = await issuer.revoke(key_id, keep_admin=True)
        await put_into_force()
        return asdict(card)

    @router.post("/{key_id:path}/rotate", summary="Give a key a new text; it is told this once")
    async def rotate_key(request: Request, key_id: str) -> JSONResponse:
        raw = await read_body(request.receive, MOST_BODY_BYTES)
        asked = parse(RotationBody, raw or b"{}")
        card, issued = await issuer.rotate(key_id, asked.grace_s)
        await put_into_force()
        return _told(card, issued, 200)

    return router


def _told(card: KeyCard, issued: IssuedKey, status: int) -> JSONResponse:
    # A secret: no cache on the way is to keep it (RFC 9111, 5.2.2.5).
    return JSONResponse({**asdict(card), **asdict(issued)}, status, {"cache-control": "no-store"})
