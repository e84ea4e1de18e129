"""The command line's part for what comes before serving: planning, and fetching weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_plan(commands: Any) -> None:
    """Add the commands."""
    plan = commands.add_parser(
        "plan",
        help="work out what fits on a card: weights, KV cache, fractions, who can be awake together",
        description="Works out, from each model's own files and without loading it, what it needs of a card. "
        "Status 1 if some model cannot work, 2 if the configuration cannot be used.",
    )
    plan.add_argument("--config", "-c", type=Path, required=True, metavar="FILE", help="the configuration (YAML)")
    plan.add_argument(
        "--gpu",
        default="auto",
        metavar="CARD",
        help="16GiB, T4, A10G, 2xL4, or as nvidia-smi names it; auto: this machine's (the default)",
    )
    plan.add_argument(
        "--write",
        action="store_true",
        help="put the recommended numbers into the configuration (not while a model cannot be looked at)",
    )
    plan.add_argument("--json", action="store_true", help="print it as JSON")
    plan.set_defaults(run=_plan)

    pull = commands.add_parser(
        "pull",
        help="fetch models' weights ahead of time",
        description="Fetches what vLLM would fetch when it loads the models, into the same place: below HF_HOME, or "
        "where `download_dir` says. What is there already is not fetched again. Status 1 if some model failed.",
    )
    pull.add_argument("names", nargs="*", metavar="NAME", help="models of the configuration (all of them)")
    pull.add_argument("--config", "-c", type=Path, required=True, metavar="FILE", help="the configuration (YAML)")
    pull.set_defaults(run=_pull)


# The commands import what they need themselves: the others need not wait for it.


def _plan(args: argparse.Namespace) -> int:
    from arena_server.plan.command import run_plan

    return run_plan(args.config, args.gpu, json_wanted=args.json, write=args.write)


def _pull(args: argparse.Namespace) -> int:
    from arena_server.plan.pull import run_pull

    return run_pull(args.config, args.names)
