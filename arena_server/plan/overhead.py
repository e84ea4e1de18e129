"""What an engine takes of a device beside weights and KV cache: a rough formula. Pure.

vLLM measures it at each load, by running the model once on a full batch; that is the truth, and is used once the
ledger has it. Until then, from what makes it up in vLLM 0.32 (`v1/worker/gpu_worker.py`,
`v1/worker/gpu_model_runner.py`):

    context      0.5 GiB   the CUDA context and libraries' workspaces; vLLM counts the context outside of its share,
                           but takes that share of CUDA's total, which is up to 3% below the driver's
    activations  tokens of a batch x (3 x intermediate + 4 x hidden) x bytes of a number: gate, up and their product in
                 the widest layer (of experts: of as many as a token goes through), and the residual stream
    sampling     sequences of a batch x vocabulary x 16 bytes: the logits in 16 and in 32 bits, sorted, and summed up
    graphs       16 MiB for each layer, none with `enforce_eager`

For Qwen 2.5 7B at 2,048 tokens and 256 sequences this gives 0.8 GiB of activations and sampling; a published log (vLLM
issue 13882) says 1.4 GiB with an older sampler. vLLM does not say what it will be before it has measured, and an engine
with too little does not start: so `smallest` fractions are rounded up, and recommended ones leave more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arena_server.plan.architecture import Architecture

GIB = 1 << 30
CONTEXT_BYTES = GIB // 2
GRAPH_BYTES_PER_LAYER = 16 << 20
SAMPLING_BYTES = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """The most that one step of the engine handles."""

    tokens: int
    sequences: int


def batch(engine_args: Mapping[str, Any], card_bytes: int, card_name: str) -> Batch:
    """As vLLM's server chooses it (`EngineArgs.get_batch_defaults`), unless it is configured."""
    if card_bytes >= 160 * GIB:
        default = Batch(16384, 1024)
    elif card_bytes >= 70 * GIB and "a100" not in card_name.lower():
        default = Batch(8192, 1024)
    else:
        default = Batch(2048, 256)
    tokens, sequences = engine_args.get("max_num_batched_tokens"), engine_args.get("max_num_seqs")
    asked = tokens if type(tokens) is int and tokens > 0 else default.tokens
    most = sequences if type(sequences) is int and sequences > 0 else min(default.sequences, asked)
    return Batch(asked, most)


def overhead_bytes(architecture: Architecture, of: Batch, number_bytes: int, tensor_parallel: int, eager: bool) -> int:
    """Bytes on each device. `number_bytes` is the size of a number in the format the model runs in."""
    wide = 3 * architecture.intermediate_size // tensor_parallel
    activations = of.tokens * (wide + 4 * architecture.hidden_size) * number_bytes
    sampling = of.sequences * architecture.vocab_size * SAMPLING_BYTES
    graphs = 0 if eager else architecture.layer_count * GRAPH_BYTES_PER_LAYER
    return CONTEXT_BYTES + activations + sampling + graphs
