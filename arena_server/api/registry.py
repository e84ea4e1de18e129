"""`/admin/models` and `/admin/aliases`: the models that are served, and those that are added while the daemon runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Optional, Protocol

from fastapi import APIRouter, Request
from pydantic import Field, create_model
from pydantic_core import from_json

from arena_server.api.chat_fields import Body
from arena_server.api.upload import read_body
from arena_server.composition import State
from arena_server.config_model import ModelConfig
from arena_server.config_types import ModelName
from arena_server.errors import BadRequest, ModelNotFound
from arena_server.registry_entry import AliasEntry, ModelEntry

MOST_BODY_BYTES = 64 << 10


class ModelRegistry(Protocol):
    """Knows and changes the models and aliases; see `arena_server.registry`."""

    def models(self) -> list[ModelEntry]:
        """Those of the file, and those that were added."""
        ...

    def aliases(self) -> list[AliasEntry]:
        """Those of the file, and those that were added."""
        ...

    async def add(self, name: str, settings: Mapping[str, Any]) -> None:
        """A new model."""
        ...

    async def change(self, name: str, patch: Mapping[str, Any]) -> None:
        """Change these settings of a model that was added."""
        ...

    async def disable(self, name: str, disabled: bool) -> None:
        """Serve a model that was added no longer, or again."""
        ...

    async def remove(self, name: str) -> None:
        """Forget a model that was added."""
        ...

    async def put_alias(self, name: str, targets: object) -> None:
        """Set an alias."""
        ...

    async def remove_alias(self, name: str) -> None:
        """Forget an alias that was added."""
        ...


class ModelBody(ModelConfig):
    """POST /admin/models, for the description of the route: the registry checks it as it does the file."""

    name: ModelName


# PATCH /admin/models/NAME, likewise: null is the default.
_OPTIONAL: dict[str, Any] = {name: (Optional[f.annotation], None) for name, f in ModelConfig.model_fields.items()}  # noqa: UP045 - what is not known to be a type
ModelPatch = create_model("ModelPatch", __base__=Body, **_OPTIONAL)


class AliasBody(Body):
    """PUT /admin/aliases/NAME: a model, or several with their weights."""

    targets: ModelName | Annotated[dict[ModelName, Annotated[float, Field(ge=0, le=1_000_000)]], Field(min_length=1)]


def registry_router(registry: ModelRegistry, residency: Callable[[str], str | None]) -> APIRouter:
    """The routes; `residency` says where the model of a name is, None if it is not served."""
    router = APIRouter(prefix="/admin", tags=["admin"])

    def card(entry: ModelEntry) -> dict[str, Any]:
        served = entry.state is State.ACTIVE
        return {**entry.shown(), "residency": residency(entry.name) if served else None}

    def model(name: str, *, added: bool) -> dict[str, Any]:
        """One that serves under this name comes before one that does not, unless the one that was `added` is meant."""
        found = [entry for entry in registry.models() if entry.name == name]
        if not found:
            raise ModelNotFound(name, dict.fromkeys(entry.name for entry in registry.models()))
        return {"model": card(found[-1 if added else 0])}

    def alias(name: str) -> dict[str, Any]:
        return {"alias": next(entry.shown() for entry in reversed(registry.aliases()) if entry.name == name)}

    async def fields(request: Request) -> dict[str, Any]:
        return _object(await read_body(request.receive, MOST_BODY_BYTES))

    @router.get("/models", summary="All models: the configuration file's, and those that were added")
    async def get_models() -> dict[str, Any]:
        return {"models": [card(entry) for entry in registry.models()]}

    @router.get("/models/{name:path}", summary="One model")
    async def get_model(name: str) -> dict[str, Any]:
        return model(name, added=False)

    @router.post("/models", status_code=201, summary="Add a model")
    async def post_model(request: Request) -> dict[str, Any]:
        settings = await fields(request)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise BadRequest("`name` must be the model's name.", param="name")
        await registry.add(name, settings)
        return model(name, added=True)

    @router.patch("/models/{name:path}", summary="Change settings of a model that was added (RFC 7396)")
    async def patch_model(request: Request, name: str) -> dict[str, Any]:
        await registry.change(name, await fields(request))
        return model(name, added=True)

    @router.delete("/models/{name:path}", summary="Remove a model that was added")
    async def delete_model(name: str) -> dict[str, Any]:
        await registry.remove(name)
        return {"removed": name}

    @router.post("/models/{name:path}/disable", summary="Serve a model that was added no longer")
    async def disable_model(name: str) -> dict[str, Any]:
        await registry.disable(name, True)
        return model(name, added=True)

    @router.post("/models/{name:path}/enable", summary="Serve it again")
    async def enable_model(name: str) -> dict[str, Any]:
        await registry.disable(name, False)
        return model(name, added=True)

    @router.get("/aliases", summary="All aliases that stand on their own: the configuration file's, and those added")
    async def get_aliases() -> dict[str, Any]:
        return {"aliases": [entry.shown() for entry in registry.aliases()]}

    @router.put("/aliases/{name:path}", summary="Have a name stand for a model, or for several by weight")
    async def put_alias(request: Request, name: str) -> dict[str, Any]:
        body = await fields(request)
        if body.keys() != {"targets"}:
            raise BadRequest('The body must be {"targets": ...}: a model, or weights by model.', param="targets")
        await registry.put_alias(name, body["targets"])
        return alias(name)

    @router.delete("/aliases/{name:path}", summary="Remove an alias that was added")
    async def delete_alias(name: str) -> dict[str, Any]:
        await registry.remove_alias(name)
        return {"removed": name}

    return router


def _object(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadRequest."""
    try:
        read = from_json(raw, allow_inf_nan=False)
    except ValueError as e:
        raise BadRequest(f"We could not parse the JSON body of your request: {e}") from None
    if not isinstance(read, dict):
        raise BadRequest("The JSON body of your request must be an object.")
    if b"\\u0000" in raw:
        raise BadRequest("A text holds a NUL, which no command line takes.")
    return read
