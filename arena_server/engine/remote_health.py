"""A look at a remote server: whether it is there, lets this daemon in, and has the model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic_core import from_json

from arena_server.engine.client import EngineLost, EngineUnreachable
from arena_server.engine.remote_text import one_line
from arena_server.engine.remote_url import BackendUrl

if TYPE_CHECKING:
    from arena_server.engine.remote_client import RemoteAnswer, RemoteClient

PATH = "/v1/models"
TIMEOUT_S = 10.0
LONGEST_LIST_BYTES = 4 << 20
MOST_SHOWN = 10


class Unhealthy(Exception):
    """The server cannot answer; `surely` where looking again would be of no use. The text is one line."""

    def __init__(self, reason: str, *, surely: bool) -> None:
        super().__init__(reason)
        self.surely = surely


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Asks for the server's list of models, which every OpenAI-compatible one has and none charges for."""

    url: BackendUrl
    model: str  # its name there
    key_variable: str | None

    async def look(self, client: RemoteClient) -> str | None:
        """None if all is well; or what is odd, though it may be. Raises Unhealthy."""
        try:
            async with asyncio.timeout(TIMEOUT_S), client.get(PATH) as answer:
                if (fault := self._fault(answer)) is not None:
                    raise fault
                if answer.status != 200:
                    return None  # it is too busy for this, and so is there
                return self._oddity(await answer.beginning(LONGEST_LIST_BYTES, TIMEOUT_S))
        except EngineUnreachable as e:
            raise Unhealthy(str(e), surely=True) from e
        except EngineLost as e:
            raise Unhealthy(str(e), surely=False) from e
        except TimeoutError:
            raise Unhealthy(f"{self.url.origin} does not answer within {TIMEOUT_S:g} s", surely=False) from None

    def _fault(self, answer: RemoteAnswer) -> Unhealthy | None:
        status, asked = answer.status, self.url.at(PATH)
        if status in (200, 429):
            return None
        if status in (401, 403):
            return Unhealthy(f"{self.url.origin} {self._key_refused} (status {status})", surely=True)
        if 300 <= status < 400:
            # Not followed: the key would go wherever it says.
            there = one_line(answer.header("location") or "nowhere")
            return Unhealthy(f"{asked} redirects to {there}: `backend_url` has to be what it stands for", surely=True)
        if status == 404:
            what = f"there is no {asked} (status 404): `backend_url` has to be the API's base, up to its /v1"
            return Unhealthy(what, surely=True)
        return Unhealthy(f"{asked} answers with status {status}", surely=False)

    @property
    def _key_refused(self) -> str:
        if self.key_variable is None:
            return "wants an API key: `api_key_env` has to name the environment variable that holds it"
        return f"refuses the API key in {self.key_variable}"

    def _oddity(self, body: bytes) -> str | None:
        """Some servers know more names than they list: that it is not there is no failure yet."""
        listed = names_in(body)
        if not listed or self.model in listed:
            return None
        shown = ", ".join(f"`{one_line(name)}`" for name in listed[:MOST_SHOWN])
        return f"{self.url.origin} does not list the model `{self.model}`, but {shown}"


def names_in(body: bytes) -> list[str]:
    """The ids in OpenAI's list of models; none if it is something else."""
    try:
        parsed = from_json(body)
    except ValueError:
        return []
    entries = parsed.get("data") if isinstance(parsed, dict) else None
    found = [e.get("id") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return [name for name in found if isinstance(name, str)]
