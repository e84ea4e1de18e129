"""The door: every request passes it before anything looks at it.

It finds out who asks (RFC 6750's Bearer, or `x-api-key`, which Anthropic's clients send), whether they may have that
route, and whether their limits let them in now. A middleware of plain ASGI: nothing is buffered, no body is read, and
the chunks of an answer pass by untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arena_server.access.address import counted
from arena_server.access.key import Key, sha256_of
from arena_server.access.keyring import Keyring
from arena_server.access.limits import Limits, Ticket
from arena_server.access.refusals import OverLimit
from arena_server.access.routes import Need, Routes
from arena_server.access.site import refuse_other_hosts, refuse_other_origins, refuse_other_sites
from arena_server.access.tries import Tries
from arena_server.api.errors import error_response
from arena_server.caller import Caller
from arena_server.config import Config
from arena_server.errors import ArenaError, NoKey, NotAllowed
from arena_server.request_id import Origin, origin, set_origin
from arena_server.store.errors import StoreUnavailable

logger = logging.getLogger(__name__)

BEARER = b"bearer"
RATELIMIT = b"x-ratelimit-"


class NoRoute(ArenaError):
    """There is no such route."""

    status = 404
    kind = "invalid_request_error"


class Door:
    """Lets requests through to the application, or answers them itself."""

    def __init__(
        self,
        keyring: Keyring,
        limits: Limits,
        tries: Tries,
        routes: Routes,
        opened: Callable[[], Awaitable[None]],
        refused: Callable[[str], None],
        *,
        any_host: bool = False,
    ) -> None:
        """`opened` returns when the keys are known; it raises ArenaError if they cannot be had now. `refused` is told
        the code of each refusal. `any_host`: other machines are meant to come, by whatever name this one has there.
        """
        self._keyring = keyring
        self._limits = limits
        self._tries = tries
        self._routes = routes
        self._opened = opened
        self._refused = refused
        self._any_host = any_host

    def before(self, app: ASGIApp) -> ASGIApp:
        """The application, behind this door."""
        return partial(self._answer, app)

    def configure(self, config: Config) -> None:
        """Put a new configuration into force. Raises ConfigError if its keys cannot be had; then nothing changes."""
        self._keyring.configure(config)
        self._limits.configure(config.access)
        self._tries.per_minute = config.access.failed_tries_per_minute

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # no route speaks it
            return
        try:
            need = self._routes.need(scope["method"], scope["path"])
            caller, ticket = await self._let_in(scope, need)
        except ArenaError as e:
            self._refused(e.code or "not_found")
            await _refusal(e)(scope, receive, send)
            return
        asker = origin()
        set_origin(Origin(asker.request_id, asker.traceparent, caller))
        if need.probed and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server takes the body off the answer: it knows what was asked
        if ticket is None:
            await app(scope, receive, send)
            return
        with ticket:
            await app(scope, receive, _telling(send, ticket) if ticket.limited else send)

    async def _let_in(self, scope: Scope, need: Need) -> tuple[Caller, Ticket | None]:
        """Who asks; with a ticket if that is limited. Raises ArenaError."""
        client = scope.get("client")
        address = counted(client[0]) if client else ""
        if need.scopes is None:
            return Caller(None, address, frozenset()), None
        await self._keys_read()
        key = None
        if self._keyring.is_open:
            self._check_page(scope)
            caller = Caller(None, address)
        elif (token := _token(scope)) is None:
            caller = Caller(None, address, frozenset(self._keyring.access.anonymous))
            if caller.scopes.isdisjoint(need.scopes):
                raise NoKey("You need an API key for this. Send it in a header, as `Authorization: Bearer KEY`.")
        else:
            key = self._key(token, address)
            caller = key.caller(address)
            if caller.scopes.isdisjoint(need.scopes):
                scopes = " or ".join(f"`{scope}`" for scope in sorted(need.scopes))
                raise NotAllowed(f"This needs an API key with the scope {scopes}; this one has not got it.")
        if need.orders:
            refuse_other_sites(scope["headers"])
        if not need.known:
            raise NoRoute(f"Not Found: {scope['method']} {scope['path']}")
        if not need.limited:
            return caller, None
        return caller, self._limits.enter(caller, key.limits if key is not None else None)

    async def _keys_read(self) -> None:
        try:
            await self._opened()
        except ArenaError as e:  # it tells of the database, to whoever asks
            raise StoreUnavailable("The server cannot read its keys now; its log has the reason.") from e

    def _check_page(self, scope: Scope) -> None:
        """Where nobody shows a key, a page in a browser here could do all that its visitor can. Raises CrossSite."""
        headers = scope["headers"]
        if not self._any_host:
            server = scope.get("server")
            refuse_other_hosts(headers, server[1] if server and server[1] else 0)
        refuse_other_origins(headers)
        if scope["method"] not in ("GET", "HEAD"):
            refuse_other_sites(headers)

    def _key(self, token: str, address: str) -> Key:
        sha256 = sha256_of(token)
        self._tries.check(address, sha256)
        key = self._keyring.verify(sha256)
        if key is not None:
            self._tries.accepted(address, sha256)
            return key
        shut = self._tries.failed(address, sha256)
        logger.log(
            logging.WARNING if shut else logging.INFO,
            "A wrong API key from %s%s",
            address or "an unknown address",
            ", one too many: it gets 429 for a while" if shut else "",
        )
        raise NoKey("This API key is not known, or it has expired or was revoked.")


def _token(scope: Scope) -> str | None:
    """The key as it was shown, None if none was. What is no Bearer (a proxy's Basic, say) is not for the daemon."""
    other = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == BEARER and (shown := _text(token)):
                return shown
        elif name == b"x-api-key":
            other = _text(value)
    return other or None


def _text(token: bytes) -> str:
    return token.strip().decode("utf-8", "surrogateescape")  # as Python reads the environment, whose keys it must equal


def _refusal(error: ArenaError) -> ASGIApp:
    response = error_response(error)
    if isinstance(error, OverLimit):
        response.raw_headers.extend(error.left)
    return response


def _telling(send: Send, ticket: Ticket) -> Send:
    """`send`, which adds to an answer's head what is left of the limits."""

    async def send_with_limits(message: Message) -> None:
        if message["type"] == "http.response.start":
            # A remote model's answer may tell of the limits that the daemon has there.
            of_answer = (h for h in message.get("headers", ()) if not h[0].lower().startswith(RATELIMIT))
            message["headers"] = [*of_answer, *ticket.headers()]
        await send(message)

    return send_with_limits
