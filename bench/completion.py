"""A completion, asked for in one piece: of an engine on its socket as of the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from bench.processes import BenchError

ONE_TOKEN: Mapping[str, Any] = {"prompt": "The sea", "max_tokens": 1}


async def complete(client: aiohttp.ClientSession, model: str, body: Mapping[str, Any] = ONE_TOKEN) -> Any:
    """The answer. Raises BenchError."""
    async with client.post("/v1/completions", json={"model": model, **body}) as response:
        if response.status != 200:
            raise BenchError(f"{model} answered {response.status}: {await response.text()}")
        return await response.json()
