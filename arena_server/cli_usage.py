"""The command line's part for usage and cost."""

from __future__ import annotations

import argparse
from datetime import date
from typing import Any

from arena_server.console.key import key_of


def add_usage(commands: Any, daemon: argparse.ArgumentParser) -> None:
    """Add the command; `daemon` has the options of those that talk to a running daemon."""
    usage = commands.add_parser("usage", parents=[daemon], help="show requests, tokens and cost by key, model or day")
    usage.add_argument("--by", choices=("key", "model", "day"), default="key", help="what is summed up (key)")
    usage.add_argument("--since", type=_day, metavar="DAY", help="from this day on (UTC), as 2026-11-21")
    usage.add_argument("--until", type=_day, metavar="DAY", help="to the end of this day (UTC)")
    usage.add_argument("--key", metavar="ID", help="only of this key, or `anonymous`")
    usage.add_argument("--model", "-m", metavar="NAME", help="only of this model")
    form = usage.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print it as CSV, for a spreadsheet")
    form.add_argument("--json", action="store_true", help="print it as JSON")
    usage.set_defaults(run=_usage)


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: not a day such as 2026-11-21") from None


def _usage(args: argparse.Namespace) -> int:
    from arena_server.console.usage import Form, show_usage

    form = Form.CSV if args.csv else Form.JSON if args.json else Form.TABLE
    asked = {name: getattr(args, name) for name in ("by", "since", "until", "key", "model")}
    return show_usage(args.url, asked, form, key=key_of(args))
