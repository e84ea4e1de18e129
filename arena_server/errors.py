"""Everything that can go wrong for a caller, one tree: each error knows its HTTP status.

The wire form is OpenAI's: `{"error": {"message", "type", "param", "code"}}`
(https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class ArenaError(Exception):
    """Base of all errors that reach a caller.

    `status` is the HTTP status, `kind` OpenAI's `error.type`, `code` OpenAI's `error.code`,
    `param` the request field at fault, `retry_after_s` the seconds after which a retry may succeed. `headers` go with
    the answer.
    """

    status: int = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    headers: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON body in OpenAI's form."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class ConfigError(ArenaError):
    """The configuration cannot be used. One line per fault in `lines`, each naming the file and the key."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_configuration"

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class BadRequest(ArenaError):
    """The request cannot be understood."""

    status = 400
    kind = "invalid_request_error"


class NoKey(ArenaError):
    """No API key was shown, or none that is known, or one that is over."""

    headers = MappingProxyType({"www-authenticate": "Bearer"})  # RFC 9110, 11.6.1
    status = 401
    kind = "invalid_request_error"
    code = "invalid_api_key"


class NotAllowed(ArenaError):
    """The API key is good, but not for this."""

    status = 403
    kind = "invalid_request_error"
    code = "insufficient_scope"


class ModelNotAllowed(NotAllowed):
    """The API key is not for this model."""

    code = "model_not_allowed"

    def __init__(self, name: str) -> None:
        super().__init__(f"This API key may not use the model `{name}`.", param="model")


class ModelNotFound(ArenaError):
    """No configured model has this name or alias."""

    status = 404
    kind = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, name: str, available: Iterable[str]) -> None:
        known = ", ".join(f"`{n}`" for n in available)
        super().__init__(f"The model `{name}` does not exist. Available models: {known}.", param="model")


class BodyTooLarge(ArenaError):
    """The request body is over `server.max_body_bytes`."""

    status = 413
    kind = "invalid_request_error"
    code = "body_too_large"


class ModelsDoNotFitTogether(ArenaError):
    """The models asked for can never be awake at the same time."""

    status = 409
    kind = "invalid_request_error"
    code = "models_do_not_fit_together"


class CrossSite(ArenaError):
    """A web page of another site has its visitor's browser give an order."""

    status = 403
    kind = "invalid_request_error"
    code = "cross_site"


class Conflict(ArenaError):
    """What is asked of a model cannot be done in the state it is in."""

    status = 409
    kind = "invalid_request_error"
    code = "conflict"


class QueueFull(ArenaError):
    """Too many requests wait for a model already."""

    status = 429
    kind = "rate_limit_error"
    code = "queue_full"


class WaitLimit(ArenaError):
    """The request waited `pool.max_wait_s` for its models in vain."""

    status = 503
    kind = "service_unavailable_error"
    code = "wait_limit"


class ModelUnavailable(ArenaError):
    """The model's engine cannot start, or keeps failing; the message carries the engine's own reason."""

    status = 503
    kind = "service_unavailable_error"
    code = "model_unavailable"


class ShuttingDown(ArenaError):
    """The daemon is stopping."""

    status = 503
    kind = "service_unavailable_error"
    code = "shutting_down"


class EngineDied(ArenaError):
    """The engine ended or hung up while it answered."""

    status = 502
    kind = "server_error"
    code = "engine_died"


class EngineRefused(ArenaError):
    """The engine answered with an error, in its own words, where a stream of events had begun already."""

    code = "engine_refused"

    def __init__(self, message: str, engines_own: dict[str, Any] | None = None, status: int = 500) -> None:
        super().__init__(message)
        self._engines_own = engines_own
        self.status = status if 400 <= status <= 599 else 500

    def body(self) -> dict[str, Any]:
        """The engine's `error` object as it came, if it is one."""
        return super().body() if self._engines_own is None else {"error": self._engines_own}
