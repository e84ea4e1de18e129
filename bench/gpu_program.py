"""What the programs for a GPU do alike: their options, what they need first, and what they say of the machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu_setup import Setup, make_setup, set_environment, why_no_gpu
from bench.processes import run
from bench.report import machine, print_skipped, step


@dataclass(frozen=True, slots=True)
class Prepared:
    """The models are there; `directory` is for all else, and `host` what the report says of the machine."""

    setup: Setup
    directory: Path
    host: Mapping[str, Any]

    @property
    def about(self) -> dict[str, Any]:
        """What the figures say of it."""
        return {"dry_run": not self.setup.gpu, "size": self.setup.size}


@contextlib.asynccontextmanager
async def prepared(args: argparse.Namespace) -> AsyncIterator[Prepared]:
    """Write the models unless they are there. Raises BenchError."""
    host = machine()
    with tempfile.TemporaryDirectory(prefix="arena-bench-") as directory:
        async with step("the models"):
            setup = await asyncio.to_thread(make_setup, args.models or Path(directory, "models"), args.size)
        yield Prepared(setup, Path(directory), {**host, **about_device(setup)})


def about_device(setup: Setup) -> dict[str, Any]:
    """The device, and the versions that the figures depend on beside vLLM's."""
    device, driver = setup.probe.devices[0], None
    if setup.gpu:
        import pynvml

        driver = str(pynvml.nvmlSystemGetDriverVersion())
    about = {"device": device.name, "device_gib": round(device.total_bytes / 2**30, 1)}
    return {**about, "torch": importlib.metadata.version("torch"), "driver": driver}


def about_lines(host: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    """The same in words."""
    return [
        f"On {host['device']}, {host['device_gib']} GiB; model size {figures['size']}; torch {host['torch']}, "
        f"driver {host['driver']}",
        *(["A dry run on the CPU, to try the program: these figures say nothing of a GPU."] * figures["dry_run"]),
    ]


def goal_of(text: str, figures: Mapping[str, Any]) -> str:
    """The goal in words, with why a dry run does not meet it."""
    return f"{text} (of a GPU: a dry run cannot meet it)" if figures["dry_run"] else text


def main(
    name: str, parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Coroutine[Any, Any, None]]
) -> int:
    """Add the options that all have, and measure; without a GPU only if told to. Returns the exit status."""
    parser.add_argument("--size", help="of the models, as make_model.py has them, or demo (8b or 1b; tiny on a CPU)")
    parser.add_argument("--models", type=Path, metavar="DIR", help="where the models are, or are kept")
    parser.add_argument("--cpu", action="store_true", help="where there is no GPU, try the program on the CPU")
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    reason = why_no_gpu()
    if reason is not None and not args.cpu:
        print_skipped(name, reason, "--cpu tries the program without", as_json=args.json)
        return 0
    set_environment(gpu=reason is None)
    return run(lambda: measure(args))
