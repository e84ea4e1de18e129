"""Reads what vLLM prints of memory during a load: what it has, and that it has too little. Pure functions."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from arena_server.engine.base import LoadFacts

GIB = 1 << 30

# GPU; CPU. Where the size was asked for ("Explicitly set", "reserved ... as specified by") it is only repeated: to
# read it there, and round it down again, would make a remembered size smaller with every load.
_KV_CACHE = re.compile(r"Available KV cache memory: (\d+(?:\.\d+)?) GiB|Auto set \((\d+(?:\.\d+)?)/[\d.]+\) GiB for KV")
_WEIGHTS = re.compile(r"Model loading took (\d+(?:\.\d+)?) GiB")

# vLLM's own texts, PyTorch's, CUDA's and NCCL's. Not any "out of memory": advice on how to avoid it says so too.
_OUT_OF_MEMORY = re.compile(
    r"(?i:\b(?:CUDA|HIP|XPU)(?: error:)? out of memory)"
    r"|\bOutOfMemoryError\b"
    r"|Cuda failure \d+ '?out of memory"
    r"|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
    r"|Free memory on device .* is less than"
    r"|Available memory on node .* is less than"
    r"|No available memory for the cache blocks"
    r"|larger than the available KV cache"
    r"|[Nn]ot enough (?:GPU )?memory"
    r"|DefaultCPUAllocator: can't allocate memory"
)


def facts_with(facts: LoadFacts, line: str) -> LoadFacts:
    """`facts`, and what one more line tells. Of several devices, the least room for the cache and the most weights.

    vLLM prints rounded numbers: room is taken as the least that would be printed so, weights as the most.
    """
    if found := _KV_CACHE.search(line):
        room = _bytes(found.group(1) or found.group(2), -1)
        if room > 0:
            known = facts.kv_cache_bytes
            return replace(facts, kv_cache_bytes=room if known is None else min(known, room))
    if found := _WEIGHTS.search(line):
        return replace(facts, weights_bytes=max(facts.weights_bytes or 0, _bytes(found.group(1), +1)))
    return facts


def tells_of_lack(text: str) -> bool:
    """Whether a log line, or an error's text, says that a device's memory was not enough."""
    return _OUT_OF_MEMORY.search(text) is not None


def _bytes(gib: str, direction: int) -> int:
    """The bytes that are printed as `gib`: the least of them (`direction` -1), or the most (+1)."""
    value = Decimal(gib)
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)  # digits only: no infinity
    value += direction * Decimal(5).scaleb(exponent - 1)
    return int((value * GIB).to_integral_value(ROUND_FLOOR if direction < 0 else ROUND_CEILING))
