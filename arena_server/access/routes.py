"""Which route is for whom: a table. What is not in it does not exist, whatever the application has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arena_server.caller import Scope


@dataclass(frozen=True, slots=True)
class Need:
    """What a route asks of its caller: one of `scopes`; None: nothing, it is public.

    `limited`: limits apply, as it asks models. `known` is False where no route has that path. `orders`: never for pages
    of other sites. `probed`: programs look with HEAD whether it is there.
    """

    scopes: frozenset[Scope] | None
    limited: bool = False
    known: bool = True
    orders: bool = False
    probed: bool = False

    @property
    def public(self) -> bool:
        """Whether everybody may have it."""
        return self.scopes is None


PUBLIC = Need(None)
HEALTH = Need(None, probed=True)
ANY = Need(frozenset(Scope))
ARENA = Need(frozenset({Scope.ARENA}))
ADMIN = Need(frozenset({Scope.ADMIN}), orders=True)
METRICS = Need(frozenset({Scope.METRICS}))
MODELS = Need(frozenset({Scope.INFERENCE, Scope.ARENA}), probed=True)
INFERENCE = Need(frozenset({Scope.INFERENCE}))
ASKING = Need(frozenset({Scope.INFERENCE}), limited=True)
ASKING_ARENA = Need(frozenset({Scope.ARENA}), limited=True)
# 404 to everybody who has a key, administrators too: a route that was forgotten here is shut, and not open.
NOWHERE = Need(frozenset(Scope), known=False)

EXACT: Mapping[str, Need] = {
    # A browser sends no header when it goes to a page; nothing in the page's files is secret.
    "/": PUBLIC,
    "/health": HEALTH,
    "/v1/models": MODELS,
    "/metrics": METRICS,
    "/stats": ANY,
    "/openapi.json": ANY,
}

UNDER: tuple[tuple[str, Need], ...] = (
    ("/web/", PUBLIC),
    ("/v1/models/", MODELS),
    ("/v1/arena/", ARENA),
    ("/admin/", ADMIN),
)

# Of the arena's, by POST, those that ask models.
ASKS_ARENA = re.compile(r"/v1/arena/(compare|battles|battles/[^/]+/turns)")


class Routes:
    """The table, with the inference routes, which are not written down twice."""

    def __init__(self, inference: Iterable[str]) -> None:
        """`inference` are the paths of the routes that are relayed to engines."""
        self._inference = frozenset(inference)

    def need(self, method: str, path: str) -> Need:
        """What this request's route asks for. `path` is as it is matched against routes: decoded, without query."""
        if not path.isprintable():
            # Starlette's own patterns let a line end after a route's path pass, and this table would not know it.
            return NOWHERE
        if path in self._inference:
            return ASKING if method == "POST" else INFERENCE
        if method == "POST" and ASKS_ARENA.fullmatch(path):
            return ASKING_ARENA
        if (exact := EXACT.get(path)) is not None:
            return exact
        return next((need for prefix, need in UNDER if path.startswith(prefix)), NOWHERE)
