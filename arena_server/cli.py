"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from arena_server import __version__
from arena_server.errors import ArenaError, ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 well, 1 failed, 2 a wrong command line or configuration."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except ConfigError as e:
        for line in e.lines:
            print(f"arena-server: {line}", file=sys.stderr)
        return 2
    except ArenaError as e:
        print(f"arena-server: {e}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arena-server",
        description="Serve more vLLM models than fit in GPU memory behind one OpenAI-compatible port.",
    )
    parser.add_argument("--version", action="version", version=f"arena-server {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the daemon")
    serve.add_argument("--config", "-c", type=Path, required=True, metavar="FILE", help="the configuration (YAML)")
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check-config", help="check a configuration and exit; 2 if it cannot be used")
    check.add_argument("config", type=Path, metavar="FILE")
    check.set_defaults(run=_check_config)

    make = commands.add_parser("make-demo-models", help="write three tiny models to try things with")
    make.add_argument("directory", type=Path, metavar="DIR")
    make.set_defaults(run=_make_demo_models)

    demo = commands.add_parser("demo", help="serve three tiny models and show two of them side by side")
    demo.add_argument("--directory", type=Path, default=Path(".demo"), metavar="DIR", help="where its files go (.demo)")
    demo.add_argument("--port", type=int, default=8000, help="port to serve on, if it is free (8000)")
    demo.add_argument("--check", action="store_true", help="end after the show, with status 0 if all was well, else 1")
    demo.set_defaults(run=_demo)
    return parser


# The commands import what they need themselves: `serve` answers within a second, and the others need not wait for it.


def _serve(args: argparse.Namespace) -> int:
    from arena_server.app import serve
    from arena_server.config import load_config

    return serve(load_config(args.config))


def _check_config(args: argparse.Namespace) -> int:
    from arena_server.config import load_config
    from arena_server.config_devices import check_devices
    from arena_server.gpu.probe import open_probe

    config = load_config(args.config)
    homes = check_devices(config, open_probe().devices)
    for name, devices in homes.items():
        where = "device " + ", ".join(map(str, devices))
        print(f"{name}: {config.models[name].model}, {config.models[name].gpu_memory_utilization:g} of {where}")
    print(f"{args.config}: OK, {len(homes)} models")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from arena_server.demo.show import run_demo

    return run_demo(args.directory, check=args.check, port=args.port)


def _make_demo_models(args: argparse.Namespace) -> int:
    from arena_server.demo.models import make_demo_models

    make_demo_models(args.directory, report=print)
    return 0
