"""The arena's part of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from arena_server.console.key import key_of


def add_arena(commands: Any, daemon: argparse.ArgumentParser) -> None:
    """Add the commands; `daemon` has the options of those that talk to a running daemon."""
    asking = _asking()
    compare = commands.add_parser("compare", parents=[daemon, asking], help="ask several models, side by side")
    compare.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to ask; - or nothing: standard input")
    compare.add_argument(
        "--model", "-m", action="append", required=True, dest="models", metavar="NAME", help="two to four times"
    )
    compare.add_argument("--require", action="store_true", help="fail if they cannot all be awake together")
    compare.add_argument("--json", action="store_true", help="print all of it at the end, as JSON")
    compare.set_defaults(run=_compare, refuse=compare.error)

    chat = commands.add_parser("chat", parents=[daemon, asking], help="talk to a model")
    chat.add_argument("prompt", nargs="?", metavar="PROMPT", help="ask this only; -: standard input")
    chat.add_argument("--model", "-m", metavar="NAME", help="needed if there are several")
    chat.set_defaults(run=_chat)

    leaderboard = commands.add_parser("leaderboard", parents=[daemon], help="show the ranking by all votes")
    leaderboard.add_argument("--json", action="store_true", help="print it as JSON")
    leaderboard.set_defaults(run=_leaderboard)

    votes = commands.add_parser("votes", help="get at the votes").add_subparsers(metavar="COMMAND", required=True)
    export = votes.add_parser("export", help="write all votes, a JSON object a line; the daemon need not run")
    export.add_argument("--config", "-c", type=Path, required=True, metavar="FILE", help="the configuration (YAML)")
    export.add_argument("--output", "-o", type=Path, metavar="FILE", help="where to (standard output)")
    export.set_defaults(run=_export)


def _asking() -> argparse.ArgumentParser:
    """How a model is asked."""
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument("--system", metavar="TEXT", help="the system prompt")
    asking.add_argument("--temperature", type=float, metavar="T", help="0 to 2 (the model's own default)")
    asking.add_argument("--max-tokens", type=int, metavar="N", help="at most so many tokens of an answer")
    asking.add_argument("--seed", type=int, metavar="N", help="the same answer to the same seed")
    return asking


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    asked = {name: getattr(args, name) for name in ("system", "temperature", "max_tokens", "seed")}
    return {**asked, "key": key_of(args)}


# The commands import what they need themselves: the others need not wait for it.


def _compare(args: argparse.Namespace) -> int:
    from arena_server.console.compare import run_compare

    if not 2 <= len(args.models) <= 4:
        args.refuse("two to four models: -m NAME -m NAME")
    return run_compare(args.url, args.prompt, args.models, as_json=args.json, require=args.require, **_asked(args))


def _chat(args: argparse.Namespace) -> int:
    from arena_server.console.chat import run_chat

    return run_chat(args.url, args.model, prompt=args.prompt, **_asked(args))


def _leaderboard(args: argparse.Namespace) -> int:
    from arena_server.console.leaderboard import show_leaderboard

    return show_leaderboard(args.url, as_json=args.json, key=key_of(args))


def _export(args: argparse.Namespace) -> int:
    from arena_server.config import load_config
    from arena_server.console.votes import export
    from arena_server.store.url import store_url

    config = load_config(args.config)
    return export(store_url(config.arena.database, config.state_dir), args.output)
