"""A request's id goes from the client through the daemon into vLLM, and back."""

from __future__ import annotations

import aiohttp

from tests.vllm.daemon import Daemon
from tests.vllm.test_serving import LLAMA


async def test_vllm_takes_a_requests_id_for_its_own(daemon: Daemon) -> None:
    body = {"model": LLAMA, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    async with (
        aiohttp.ClientSession(daemon.url) as client,
        client.post("/v1/chat/completions", json=body, headers={"X-Request-ID": "from-my-proxy-1"}) as response,
    ):
        assert response.headers.getall("X-Request-ID") == ["from-my-proxy-1"]
        assert (await response.json())["id"] == "chatcmpl-from-my-proxy-1"
