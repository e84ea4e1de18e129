"""What real engines say of themselves."""

from __future__ import annotations

import aiohttp

from tests.vllm.daemon import Daemon


async def running_in_vllm(daemon: Daemon, model: str) -> float:
    """vLLM's own count of running requests, read from the engine's private socket."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemon.socket_of(model)))) as engine,
        engine.get("http://engine/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))
