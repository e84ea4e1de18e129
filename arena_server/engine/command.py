"""What a model's engine is started with: vLLM's command line and environment. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arena_server.config_model import ModelConfig
from arena_server.vllm_arguments import engine_argv

# Variables that vLLM and CUDA read when they are used, not when they are imported: a forked engine sees them.
# Any other may have been read by the zygote's imports, so a model that sets one gets a fresh interpreter.
_READ_LATE = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HF_TOKEN", "NCCL_", "VLLM_")
_READ_EARLY = (
    "VLLM_LOGGING_",
    "VLLM_CONFIGURE_LOGGING",
    "VLLM_PLUGINS",
    "VLLM_TARGET_DEVICE",
    "VLLM_CACHE_ROOT",
)

KV_CACHE_FLAG = "--kv-cache-memory-bytes"


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """`argv` follows `vllm serve`; `env` is added to the environment; `fresh` asks for a new interpreter.

    `model` is the hub's name for the model, or an absolute path.
    """

    model: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    fresh: bool


def sleep_level(model: ModelConfig, *, gpu: bool) -> int:
    """How deep the model's engine sleeps when it is evicted (vLLM's levels); 0: it does not, it is stopped."""
    if model.sleep_level == "auto":
        return 1 if gpu else 0
    return model.sleep_level


def with_kv_cache(command: EngineCommand, kv_cache_bytes: int | None) -> EngineCommand:
    """The command, with the size of the KV cache unless it has one; vLLM then need not measure what is free."""
    if kv_cache_bytes is None or any(token.startswith(KV_CACHE_FLAG) for token in command.argv):
        return command
    return replace(command, argv=(*command.argv, f"{KV_CACHE_FLAG}={kv_cache_bytes}"))


def engine_command(
    name: str, model: ModelConfig, devices: Sequence[int], directory: Path, *, gpu: bool
) -> EngineCommand:
    """The command for one model.

    `devices` are the model's GPU indices as NVML counts them (unused where `gpu` is false); `directory` is
    private to this engine and holds its sockets.
    """
    argv = [
        f"--model={model.model}",
        "--served-model-name", name,  # and no aliases: those come and go while it runs
        f"--uds={directory / 'http.sock'}",
        f"--gpu-memory-utilization={model.gpu_memory_utilization}",
        "--disable-uvicorn-access-log",
        *engine_argv(model.engine_args),
    ]  # fmt: skip
    env = {
        # ZeroMQ's sockets, and vLLM's other temporary files, which it does not remove when it is killed
        "VLLM_RPC_BASE_PATH": str(directory),
        "TMPDIR": str(directory),
        # Engines are ended by SIGKILL; Python's resource tracker then cleans up, which is no leak to warn of.
        "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",
    }
    if gpu:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's order; CUDA's own puts the fastest card first
    else:
        # vLLM would bind the OpenMP threads of every engine to the same first cores, where they fight.
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    if sleep_level(model, gpu=gpu) != 0:
        # The routes for sleeping; among them is one that runs code. Only the daemon reaches them: the socket is
        # private, and the relay passes on the routes of its own table alone. vLLM reads it when it makes its routes.
        env["VLLM_SERVER_DEV_MODE"] = "1"
        if gpu:  # elsewhere vLLM refuses the flag; there the routes answer, and free nothing
            argv.append("--enable-sleep-mode")
    env.update(model.env)
    return EngineCommand(model.model, tuple(argv), env, fresh=any(_read_at_import(key) for key in model.env))


def _read_at_import(variable: str) -> bool:
    return variable.startswith(_READ_EARLY) or not variable.startswith(_READ_LATE)
