"""The KV cache's arithmetic, as vLLM does it. Pure.

After vLLM 0.32's `v1/core/kv_cache_utils.py` and `v1/kv_cache_interface.py`: the cache is a pool of blocks, each for 16
tokens of a group of layers. Layers of one kind are one group. Where kinds are mixed, groups of equally many layers are
made (as many as the rarest kind has, or the commonest if that is under 1.5 times as many), each with blocks of its own
out of the same pool; so a request takes the sum over the groups of what each has to keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from arena_server.plan.layers import Layer, Reach

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class KvCache:
    """One device's cache. `layers` counts its attention layers by kind; `entry_bytes` is a token's entry in one layer.

    `in_flight` are the tokens that are under way at most: a windowed layer keeps them on top of its window.
    """

    layers: Mapping[Layer, int]
    entry_bytes: int
    in_flight: int
    block_tokens: int = BLOCK_TOKENS

    @property
    def token_bytes(self) -> int:
        """What one token takes in all layers together, before any window has passed it."""
        return self.entry_bytes * sum(self.layers.values())

    @property
    def block_bytes(self) -> int:
        """One block of the pool."""
        return self.block_tokens * self.entry_bytes * self._group_layers

    @property
    def bounded(self) -> bool:
        """Whether some layer forgets: then tokens do not cost the same at every length."""
        return any(kind.reach is not Reach.FULL for kind in self.layers)

    def request_bytes(self, length: int) -> int:
        """The most that one request of `length` tokens takes."""
        return self._request_blocks(length) * self.block_bytes

    def requests_in(self, cache_bytes: int, length: int) -> float:
        """How many requests of `length` tokens fit: vLLM's "Maximum concurrency"."""
        blocks = self._request_blocks(length)
        return max(cache_bytes, 0) // self.block_bytes / blocks if self.block_bytes and blocks else math.inf

    def tokens_in(self, cache_bytes: int, length: int) -> int:
        """How many tokens fit, where requests may have `length`: vLLM's "KV cache size"."""
        requests = self.requests_in(cache_bytes, length)
        return 0 if math.isinf(requests) else int(requests * length)

    def longest_in(self, cache_bytes: int) -> int:
        """The length of the longest request that fits, up to 16 million tokens (0: none does)."""
        low, high = 0, 1 << 24
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.request_bytes(middle) <= cache_bytes else (low, middle - 1)
        return low

    @property
    def _group_layers(self) -> int:
        counts = self.layers.values()
        least, most = min(counts, default=0), max(counts, default=0)
        return most if most < 1.5 * least else least

    def _request_blocks(self, length: int) -> int:
        return sum(-(-n // self._group_layers) * self._kept_blocks(kind, length) for kind, n in self.layers.items())

    def _kept_blocks(self, kind: Layer, length: int) -> int:
        match kind.reach:
            case Reach.WINDOW:
                # One more: the window may begin within a block.
                return _ceil(min(kind.tokens - 1 + self.in_flight, length), self.block_tokens) + 1
            case Reach.CHUNK:
                return _ceil(min(kind.tokens + self.in_flight, length), self.block_tokens)
            case Reach.FULL:
                return _ceil(length, self.block_tokens)


def _ceil(n: int, size: int) -> int:
    return -(-n // size)


def entry_bytes(kv_heads: int, head_dim: int, latent_dim: int, dtype_bytes: int, tensor_parallel: int = 1) -> int:
    """A token's entry in one layer, in bytes per device.

    Grouped-query attention keeps a key and a value per head; heads are split over the devices, at least one each.
    MLA keeps one compressed entry, whole on every device.
    """
    if latent_dim:
        return latent_dim * dtype_bytes
    return 2 * max(1, kv_heads // tensor_parallel) * head_dim * dtype_bytes
