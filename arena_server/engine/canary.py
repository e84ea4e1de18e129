"""The canary: one short question, whose answer must not change while the engine sleeps.

Weights that came back wrong show in no status: vLLM would go on, and answer garbage (vLLM issue #29341).
"""

from __future__ import annotations

import json

from arena_server.engine.base import EngineError
from arena_server.engine.client import EngineClient

# In every tokenizer less than a block of the KV cache (16 tokens or more): no cached prefix takes part in the answer.
PROMPT = "One, two,"
TOKENS = 8

NO_COMPLETIONS_STATUS = 501  # beside all of 4xx


async def canary_answer(client: EngineClient, model: str) -> str | None:
    """The engine's answer, chosen greedily; None if the model does not complete text.

    No log probabilities are asked for: for those vLLM compiles a function first, which took 11 s.
    Raises EngineError, EngineUnreachable and EngineLost. The caller bounds the time.
    """
    request = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    headers = [(b"content-type", b"application/json")]
    async with client.post("/v1/completions", headers, json.dumps(request).encode()) as answer:
        body = await answer.read()
    if 400 <= answer.status < 500 or answer.status == NO_COMPLETIONS_STATUS:
        return None
    try:
        return str(json.loads(body)["choices"][0]["text"])
    except (ValueError, LookupError, TypeError):
        raise EngineError(f"the engine answered {answer.status}: {shown(body)}") from None


def shown(body: bytes) -> str:
    """The beginning of an answer, on one line."""
    return " ".join(body[:300].decode(errors="replace").split()) or "nothing"
