"""LiteLLM's proxy in front of the engine, as its own documentation advises for production."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from bench.client import Target
from bench.peers.door import Door, program, until_answers
from bench.peers.engine import Engine
from bench.peers.ports import free_ports
from bench.stand_in import MODEL

NAME = "litellm"
VERSION = "1.106.2"
REQUIREMENTS = (f"litellm[proxy]=={VERSION}", "uvloop==0.23.0", "uvicorn==0.54.0")
# All words of the stand-in begin with a space, and LiteLLM's chunks that bring none have no text or an empty one.
TOKEN_MARK = b'"content":" '
# `hosted_vllm` is its provider for a vLLM server. json_logs is off, for nobody reads them here.
CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: hosted_vllm/{model}
      api_base: http://127.0.0.1:{port}/v1
      api_key: none
litellm_settings:
  request_timeout: 600
  set_verbose: false
  json_logs: false
"""
ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    # Its list of prices, from the package instead of the network.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    # No key is asked for: neither do the other front doors here. It refuses to start so without being told.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


def config(port: int) -> str:
    """config.yaml with one model, at the engine's TCP port."""
    return CONFIG.format(model=MODEL, port=port)


@contextlib.asynccontextmanager
async def front_door(home: Path, engine: Engine, directory: Path) -> AsyncIterator[Door]:
    """The proxy from the environment in `home`, up; `directory` is for its files."""
    [port] = free_ports(1)
    settings = directory / "config.yaml"
    settings.write_text(config(engine.port))
    target = Target(NAME, port, token_mark=TOKEN_MARK)
    options = ("--config", str(settings), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    async with program(directory, NAME, str(home / "bin" / "litellm"), *options, env=ENVIRONMENT) as proxy:
        await until_answers(target, proxy)
        about = f"LiteLLM proxy {VERSION}, one worker, no database, no key asked for, to the engine's TCP port"
        yield Door(about, [proxy.side(target)])
