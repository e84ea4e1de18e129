"""The command line's part for API keys."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena_server.caller import Scope
from arena_server.console.key import key_of

if TYPE_CHECKING:
    from arena_server.console.key_desk import Desk

LIMITS = (
    ("requests-per-minute", "requests a minute"),
    ("tokens-per-minute", "prompt and completion tokens a minute"),
    ("concurrent-requests", "requests at the same time"),
    ("tokens-per-day", "prompt and completion tokens a day (UTC)"),
)


def add_access(commands: Any, daemon: argparse.ArgumentParser) -> None:
    """Add the commands; `daemon` has the options of those that talk to a running daemon."""
    keys = commands.add_parser("keys", help="make, list, rotate and revoke API keys")
    kinds = keys.add_subparsers(metavar="COMMAND", required=True)
    where = argparse.ArgumentParser(add_help=False, parents=[daemon])
    where.add_argument(
        "--config",
        "-c",
        type=Path,
        metavar="FILE",
        help="not over HTTP, but in the database of this configuration (YAML); the daemon need not run",
    )

    create = kinds.add_parser("create", parents=[where], help="make a key; it alone is printed to standard output")
    create.add_argument("name", metavar="NAME", help="what to call it, for people")
    create.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in Scope],
        dest="scopes",
        help="what it is for (inference); may be repeated; admin is all of them",
    )
    create.add_argument(
        "--model", "-m", action="append", dest="models", metavar="NAME", help="the only models it may use; repeated"
    )
    create.add_argument("--expires", type=_moment, metavar="WHEN", help="30d, or 2027-01-31: to that day's end, UTC")
    for limit, of in LIMITS:
        create.add_argument(f"--{limit}", type=_positive, metavar="N", help=f"at most so many {of}")
    create.add_argument("--force", action="store_true", help="also if then no key has the scope admin")
    create.add_argument("--json", action="store_true", help="print the key and all about it, as JSON")
    create.set_defaults(run=_create)

    listed = kinds.add_parser("list", parents=[where], help="show the keys that there are and were")
    listed.add_argument("--json", action="store_true", help="print them as JSON")
    listed.set_defaults(run=_list)

    revoke = kinds.add_parser("revoke", parents=[where], help="end a key at once")
    revoke.add_argument("key", metavar="ID|NAME", help="the key")
    revoke.set_defaults(run=_revoke)

    rotate = kinds.add_parser("rotate", parents=[where], help="give a key a new text, printed to standard output")
    rotate.add_argument("key", metavar="ID|NAME", help="the key")
    rotate.add_argument(
        "--grace", type=_span, default="24h", metavar="TIME", help="how long the one before stays good (24h); 0: not"
    )
    rotate.add_argument("--json", action="store_true", help="print the key and all about it, as JSON")
    rotate.set_defaults(run=_rotate)


def _moment(text: str) -> datetime:
    from arena_server.console.moments import moment_of

    try:
        return moment_of(text, datetime.now(UTC))
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r}: {e}") from None


def _span(text: str) -> int:
    from arena_server.console.moments import span_s

    try:
        return span_s(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r}: {e}") from None


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**53):
        raise argparse.ArgumentTypeError(f"{text!r}: not a number from 1 on")
    return int(text)


# The commands import what they need themselves: the others need not wait for it.


def _desk(args: argparse.Namespace) -> Desk:
    from arena_server.console.key_desk import DaemonDesk, StoreDesk

    if args.config is None:
        from arena_server.console.api import Api

        return DaemonDesk(Api(args.url, key=key_of(args)))
    from arena_server.config import load_config

    return StoreDesk(load_config(args.config))


def _create(args: argparse.Namespace) -> int:
    from arena_server.access.key_card import KeyLimits
    from arena_server.console.key_desk import NewKey
    from arena_server.console.keys import create_key

    scopes: Sequence[str] = args.scopes or [Scope.INFERENCE.value]
    names = [limit.replace("-", "_") for limit, _ in LIMITS]
    limits = KeyLimits(**{name: getattr(args, name) for name in names})
    new = NewKey(args.name, scopes, args.models, limits, args.expires, args.force)
    return create_key(_desk(args), new, as_json=args.json)


def _list(args: argparse.Namespace) -> int:
    from arena_server.console.keys import list_keys

    return list_keys(_desk(args), as_json=args.json)


def _revoke(args: argparse.Namespace) -> int:
    from arena_server.console.keys import revoke_key

    return revoke_key(_desk(args), args.key)


def _rotate(args: argparse.Namespace) -> int:
    from arena_server.console.keys import rotate_key

    return rotate_key(_desk(args), args.key, args.grace, as_json=args.json)
