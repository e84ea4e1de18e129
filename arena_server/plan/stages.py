"""How a model's weights are split over the devices of a pipeline. Pure.

As vLLM 0.32 does it (`distributed/utils.py`, `get_pp_indices`): whole layers, evenly; of those that are left over the
next to last device gets one, then the one before it, and so on, since the first has the embedding and the last the
head. Where these two are one, both devices have it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from arena_server.plan.architecture import Architecture

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|lm_head|output|embed_out)\.weight$")
HEAD = re.compile(r"(?:^|\.)lm_head\.weight$")
AT_THE_END = re.compile(r"(?:^|\.)(?:lm_head|output|embed_out|norm|ln_f|final_layernorm)\.(?:weight|bias)$")


@dataclass(frozen=True, slots=True)
class Split:
    """Over how many devices a model is split, and in which way."""

    tensor: int = 1
    pipeline: int = 1


def layers_on_each(layers: int, devices: int) -> list[int]:
    """How many layers each device of a pipeline gets."""
    each, left = divmod(layers, devices)
    counts = [each] * devices
    for i in range(left):
        counts[-2 - i] += 1
    return counts


def largest_stage(sizes: Sequence[tuple[str, float]], architecture: Architecture | None, devices: int) -> int:
    """Bytes on the device with the most; `sizes` are tensors' names and bytes. Without an architecture: evenly."""
    if devices == 1 or architecture is None:
        return int(sum(size for _, size in sizes) / devices)
    counts = layers_on_each(architecture.layer_count, devices)
    home = [device for device, count in enumerate(counts) for _ in range(count)]
    stages = [0.0] * devices
    for name, size in sizes:
        layer = LAYER.search(name)
        if layer is not None and int(layer[1]) < len(home) and "vis" not in name:
            stages[home[int(layer[1])]] += size
            continue
        at_the_end = AT_THE_END.search(name) is not None
        stages[-1 if at_the_end else 0] += size
        if architecture.tied and not at_the_end and EMBEDDING.search(name):
            stages[-1] += size
    return int(max(stages))


def rough_stage(total: float, architecture: Architecture | None, float_bytes: int, split: Split) -> int:
    """The same of a checkpoint of which only the size is known; `float_bytes` for each number of the embedding."""
    if split.pipeline == 1 or architecture is None:
        return int(total / split.tensor / split.pipeline)
    table = min(architecture.vocab_size * architecture.hidden_size * float_bytes, total)
    layer = max(total - table * (1 if architecture.tied else 2), 0) / architecture.layer_count
    counts = layers_on_each(architecture.layer_count, split.pipeline)
    ends = max(counts[0], counts[-1]) * layer + table
    return int(max(ends, max(counts) * layer) / split.tensor)
