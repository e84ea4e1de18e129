"""`arena-server plan`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from arena_server.config import load_config
from arena_server.config_file import read_config_file
from arena_server.config_model import ModelConfig
from arena_server.gpu.probe import open_probe
from arena_server.log import complain
from arena_server.plan.as_json import as_json
from arena_server.plan.card import Card, own_cards, parse_cards
from arena_server.plan.change import Change, changes, not_to_be_written
from arena_server.plan.edit import edited
from arena_server.plan.measured import open_measurements
from arena_server.plan.plan import make_plan, without_remote
from arena_server.plan.report import fitted, lines
from arena_server.plan.sight import Sight, look_at
from arena_server.plan.warn import fails
from arena_server.plan.write import diff, replace_config

PLAIN_WIDTH = 120
AUTO = "auto"
DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def run_plan(file: Path, gpu: str, *, json_wanted: bool, write: bool) -> int:
    """Print the plan, and write what it recommends. Returns 0, or 1 if some model cannot work so.

    Raises ConfigError and UsageError (2), and PlanError where the file cannot be edited.
    """
    config, remote = without_remote(load_config(file))
    cards = _cards(gpu)
    store, unread = open_measurements(config.state_dir)
    if unread is not None:
        print(f"arena-server: {unread} (estimates are shown instead)", file=sys.stderr)
    plan = make_plan(config, cards, _looking, store)
    wanted = changes(plan)
    if json_wanted:
        print(json.dumps({**as_json(plan, wanted), "remote": remote}, indent=2))
    else:
        show(lines(plan, _width()) if plan.models else [])
        show([Text(f"{name}: remote, and so takes nothing here") for name in remote])
    obstacle = not_to_be_written(plan)
    if write and obstacle is not None:
        complain(f"{file}: nothing was written: {obstacle}")
    elif write:
        _write(file, wanted, [m.name for m in plan.models if not m.works], quiet=json_wanted)
    elif wanted and not json_wanted:
        show([Text(), *fitted(_to_write(wanted, obstacle), _width())])
    return 1 if fails(plan) else 0


def _cards(gpu: str) -> list[Card]:
    return own_cards(open_probe()) if gpu == AUTO else parse_cards(gpu)


def _looking(name: str, model: ModelConfig) -> Sight:
    """Look at a model; where that may take the network's time, say so meanwhile."""
    console = Console(stderr=True)
    if not console.is_terminal or Path(model.model).is_absolute():
        return look_at(name, model)
    with console.status(f"looking at {name} ({model.model})"):
        return look_at(name, model)


def _to_write(wanted: Sequence[Change], obstacle: str | None) -> list[Text]:
    title = Text("WITH --write", style="bold")
    if obstacle is not None:
        return [title.append(f"  nothing would be written: {obstacle}", "not bold")]
    title.append("  the configuration would get", "not bold")
    return [title, *(Text(f"  {change}") for change in wanted)]


def _write(file: Path, wanted: Sequence[Change], failing: Sequence[str], *, quiet: bool) -> None:
    """Change the file, and show what was changed (with `--json` on standard error, to leave that alone)."""
    out = sys.stderr if quiet else sys.stdout
    left = f"; left as they are: {', '.join(failing)} (see `fails` above)" if failing else ""
    if not wanted:
        print(f"{file}: nothing to write{left}", file=out)
        return
    # Line ends are part of the layout.
    before = read_config_file(file).decode()
    after = edited(before, wanted, file)
    note = replace_config(file, before, after)
    show([Text(), *(Text(line, style=DIFF_STYLES.get(line[:1], "")) for line in diff(file, before, after))], quiet)
    if note is not None:
        complain(f"{file}: {note}")
    print(f"{file}: written ({len(wanted)} changes){left}", file=out)


def show(shown: Sequence[Text], on_stderr: bool = False) -> None:
    """Print lines: with colours on a terminal, as they are in a pipe."""
    console = Console(highlight=False, stderr=on_stderr)
    if console.is_terminal and not console.is_dumb_terminal:
        for line in shown:
            console.print(line, no_wrap=True, crop=False)
    else:
        for line in shown:
            print(line.plain.rstrip(), file=console.file)
    console.file.flush()


def _width() -> int:
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return console.width
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) else PLAIN_WIDTH
