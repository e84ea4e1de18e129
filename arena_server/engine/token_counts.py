"""The counts of tokens that servers tell in an object `usage`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# More is no count of tokens, but a server's mistake; it shall not spoil the sums.
MOST_TOKENS = 1_000_000_000


class Usage(NamedTuple):
    """Tokens; None where the answer does not say."""

    prompt_tokens: int | None
    completion_tokens: int | None


def usage_of(found: Mapping[str, Any]) -> Usage:
    """The counts of an object `usage`, in OpenAI's or Anthropic's terms."""
    prompt = token_count(found.get("prompt_tokens"))
    if prompt is None and (prompt := token_count(found.get("input_tokens"))) is not None:
        # Anthropic's do not include those that were cached; OpenAI's have no such fields.
        prompt += sum(token_count(found.get(f"cache_{how}_input_tokens")) or 0 for how in ("read", "creation"))
    completion = token_count(found.get("completion_tokens"))
    return Usage(prompt, token_count(found.get("output_tokens")) if completion is None else completion)


def token_count(value: object) -> int | None:
    """A count of tokens; None of what is none."""
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
