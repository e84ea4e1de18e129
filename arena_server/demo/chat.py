"""One streamed chat, followed as it arrives."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(slots=True)
class Chat:
    """What has come of one answer so far. Moments are `time.monotonic()` seconds; `error` is the server's message."""

    model: str
    text: str = ""
    asked_at: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    done_at: float | None = None
    tokens: int = 0
    error: str | None = None

    async def run(self, client: aiohttp.ClientSession, messages: Sequence[dict[str, str]], **options: Any) -> None:
        """Ask, and fill in this object as the answer comes; returns at its end, whatever end that is."""
        self.asked_at = time.monotonic()
        body = {"model": self.model, "messages": list(messages), "stream": True, **options}
        try:
            async with client.post("/v1/chat/completions", json=body) as response:
                if response.status != 200:
                    self.error = (await response.json())["error"]["message"]
                    return
                async for line in response.content:
                    self._take(line.decode().strip())
        except aiohttp.ClientError as e:
            self.error = str(e) or type(e).__name__
        finally:
            self.done_at = time.monotonic()

    def _take(self, line: str) -> None:
        if not line.startswith("data: ") or line == "data: [DONE]":
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            self.error = event["error"]["message"]
            return
        for choice in event["choices"]:
            if content := choice["delta"].get("content"):
                self.first_at = self.first_at or time.monotonic()
                self.text += content
                self.tokens += 1
