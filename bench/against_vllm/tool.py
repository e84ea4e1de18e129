"""vLLM's own `vllm bench serve`, one round after another in a process that imports it once.

It takes the path of a plan (JSON) as its only argument and prints one line of JSON for each round. All that vLLM says
goes to standard error. Its command line is used: that changes less from version to version than what is behind it.

It only knows TCP. For an engine's socket aiohttp's TCPConnector is replaced by aiohttp's own UnixConnector, and
everything else is as vLLM has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import psutil

from bench.own_cpu import own_cpu_s


@dataclass(frozen=True, slots=True)
class Round:
    """One run of the tool: `requests` chat answers of `tokens` tokens or so, by `clients` that each take the next."""

    way: str
    address: str | int  # the path of a socket, or a port on this machine
    clients: int
    requests: int
    prompt_tokens: int
    tokens: int
    seed: int

    def argv(self, model: str, tokenizer: str) -> list[str]:
        """The tool's command line. The same seed makes the same requests."""
        port = self.address if isinstance(self.address, int) else 80
        options = {
            "backend": "openai-chat", "base-url": f"http://127.0.0.1:{port}", "endpoint": "/v1/chat/completions",
            "model": model, "tokenizer": tokenizer, "dataset-name": "random", "random-input-len": self.prompt_tokens,
            "random-output-len": self.tokens, "random-range-ratio": 0.5, "temperature": 0, "seed": self.seed,
            "num-prompts": self.requests, "max-concurrency": self.clients, "num-warmups": self.clients,
            "ready-check-timeout-sec": 0,
        }  # fmt: skip
        return [*(f"--{name}={value}" for name, value in options.items()), "--disable-tqdm", "--save-detailed"]


@dataclass(frozen=True, slots=True)
class Result:
    """What the tool found in a round."""

    way: str
    clients: int
    failed: int
    tokens: int  # of all answers, those that only warm up included
    tokens_per_s: float  # these not included, as in what follows
    first_token_ms: list[float]  # of each answer
    per_token_ms: float  # median over the answers of the time between two tokens
    daemon_cpu_s: float  # of the daemon itself meanwhile, without its engine
    busy_cores: float  # of the machine meanwhile, the tool itself and its preparations included


@contextlib.contextmanager
def speaking_to(address: str | int) -> Iterator[None]:
    """Have the tool's connections go to that socket, if it is one."""

    def connector(limit: int = 100, limit_per_host: int = 0, **_: object) -> aiohttp.BaseConnector:
        assert isinstance(address, str)
        # The other options are the tool's for TCP, and 60 s that an idle connection is kept: longer than any round.
        return aiohttp.UnixConnector(address, limit=limit, limit_per_host=limit_per_host)

    if isinstance(address, str):
        with mock.patch.object(aiohttp, "TCPConnector", connector):
            yield
    else:
        yield


def result_of(round_: Round, found: Mapping[str, Any], daemon_cpu_s: float, busy_cores: float) -> Result:
    """From what the tool would save."""
    return Result(
        way=round_.way,
        clients=round_.clients,
        failed=found["num_prompts"] - found["completed"],
        # The tool warms up with the first request, once for each client.
        tokens=found["total_output_tokens"] + round_.clients * found["output_lens"][0],
        tokens_per_s=found["output_throughput"],
        first_token_ms=[s * 1000 for s in found["ttfts"]],
        per_token_ms=found["median_tpot_ms"],
        daemon_cpu_s=daemon_cpu_s,
        busy_cores=busy_cores,
    )


def _machine_busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def main() -> None:
    """Entry of the process."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.environ["NO_PROXY"] = "127.0.0.1"  # the tool would use a proxy that the environment names
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    for fields in plan["rounds"]:
        round_ = Round(**fields)
        args = parser.parse_args(round_.argv(plan["model"], plan["tokenizer"]))
        began, busy, used_s = time.perf_counter(), _machine_busy_s(), own_cpu_s(plan["daemon"])
        with speaking_to(round_.address):
            found = asyncio.run(serve.main_async(args))
        took_s, daemon_s = time.perf_counter() - began, own_cpu_s(plan["daemon"]) - used_s
        result = result_of(round_, found, daemon_s, (_machine_busy_s() - busy) / took_s)
        print(json.dumps(asdict(result)), file=results, flush=True)


if __name__ == "__main__":
    main()
