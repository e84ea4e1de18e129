"""`/admin/models` and `/admin/aliases`, asked by hand."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tests.support.raw_client import Answer, once


async def order(port: int, method: str, path: str, body: object = None) -> Answer:
    """One request with a JSON body, or none."""
    data = b"" if body is None else json.dumps(body).encode()
    return await once(port, method, f"/admin/{path}", data, [("Content-Type", "application/json")])


async def done(port: int, method: str, path: str, body: object = None) -> Any:
    """The JSON of an answer that must be a good one."""
    answer = await order(port, method, path, body)
    assert answer.status in (200, 201), answer.body
    return answer.json()


async def refused(port: int, method: str, path: str, body: object = None) -> tuple[int, str, str]:
    """Status, code and message of an answer that must be an error."""
    answer = await order(port, method, path, body)
    assert answer.status >= 400, answer.body
    error = answer.error()
    return answer.status, str(error["code"]), str(error["message"])


async def add(port: int, name: str, **settings: Any) -> Any:
    """Add a model."""
    return (await done(port, "POST", "models", {"name": name, **settings}))["model"]


def named(name: str) -> str:
    """A model's or alias's name in a path."""
    return quote(name, safe="")
