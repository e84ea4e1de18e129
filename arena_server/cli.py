"""The command line."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena_server import __version__
from arena_server.cli_access import add_access
from arena_server.cli_arena import add_arena
from arena_server.cli_plan import add_plan
from arena_server.cli_registry import add_registry
from arena_server.cli_usage import add_usage
from arena_server.console.key import add_key_file, key_of
from arena_server.errors import ArenaError, ConfigError
from arena_server.log import complain

if TYPE_CHECKING:
    from arena_server.config_model import ModelConfig

ACTIONS = {
    "load": "load or wake a model",
    "sleep": "put a model to sleep",
    "stop": "stop a model's engine",
    "pin": "keep a model from being evicted",
    "unpin": "let a model be evicted again",
    "reset": "forget a model's failures, so that it may be tried again at once",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 well, 1 failed, 2 a wrong command line or configuration."""
    args = _parser().parse_args(argv)
    try:
        return _quietly(lambda: args.run(args))
    except ConfigError as e:
        for line in e.lines:
            complain(line)
        return 2
    except ArenaError as e:
        for line in str(e).splitlines():
            complain(line)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="arena-server",
        description="Serve more vLLM models than fit in GPU memory behind one OpenAI-compatible port.",
    )
    parser.add_argument("--version", action="version", version=f"arena-server {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the daemon")
    serve.add_argument("--config", "-c", type=Path, required=True, metavar="FILE", help="the configuration (YAML)")
    serve.add_argument(
        "--insecure", action="store_true", help="let other machines in although there is no API key: for everything"
    )
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

    add_plan(commands)
    _add_console(commands)
    return parser


def _add_console(commands: Any) -> None:
    """The commands that talk to a running daemon."""
    daemon = argparse.ArgumentParser(add_help=False)
    default = os.environ.get("ARENA_URL") or "http://127.0.0.1:8000"
    daemon.add_argument(
        "--url", type=_url, default=default, help="where the daemon answers ($ARENA_URL, else http://127.0.0.1:8000)"
    )
    add_key_file(daemon)

    status = commands.add_parser("status", parents=[daemon], help="watch the models, the memory and the queue")
    status.add_argument("--once", action="store_true", help="print it once, as plain text")
    status.add_argument("--json", action="store_true", help="print once what the daemon knows, as JSON")
    status.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between two looks (1)")
    status.set_defaults(run=_status)

    for action, does in ACTIONS.items():
        act = commands.add_parser(action, parents=[daemon], help=does)
        act.add_argument("name", metavar="NAME", help="the model")
        act.add_argument("--no-wait", action="store_true", help="do not wait until it is done")
        act.set_defaults(run=_act, action=action)

    reload = commands.add_parser("reload", parents=[daemon], help="have the daemon read its configuration again")
    reload.set_defaults(run=_reload)

    events = commands.add_parser("events", parents=[daemon], help="follow what happens, a line each")
    events.set_defaults(run=_events)
    add_arena(commands, daemon)
    add_access(commands, daemon)
    add_usage(commands, daemon)
    add_registry(commands, daemon)


def _url(text: str) -> str:
    from arena_server.console.api import checked_url

    try:
        return checked_url(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r}: {e}") from e


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: not from 0.1 to 3600 seconds")
    return seconds


# The commands import what they need themselves: `serve` answers within a second, and the others need not wait for it.


def _serve(args: argparse.Namespace) -> int:
    gc.disable()  # while the daemon comes up: nearly all of what is made then stays. The server enables it again
    try:
        from arena_server.config import load_config
        from arena_server.serve import serve
        from arena_server.systemd import Notifier

        notifier = Notifier.from_environment()
        try:
            return serve(load_config(args.config), notifier, insecure=args.insecure)
        except ArenaError as e:
            notifier.status(f"not started: {str(e).splitlines()[0]}")
            raise
    finally:
        gc.enable()


def _check_config(args: argparse.Namespace) -> int:
    from arena_server.access.key import config_keys
    from arena_server.config import load_config
    from arena_server.config_devices import check_devices
    from arena_server.gpu.probe import open_probe

    config = load_config(args.config)
    homes = check_devices(config, open_probe().devices)
    for name, devices in homes.items():
        if (url := config.models[name].backend_url) is not None:
            print(f"{name}: {config.models[name].model}, remote: {url}{_key_note(config.models[name])}")
            continue
        where = "device " + ", ".join(map(str, devices))
        print(f"{name}: {config.models[name].model}, {config.models[name].gpu_memory_utilization:g} of {where}")
    # The service may well have them in its environment, so it is no fault of the file's.
    for fault in config_keys(config.access.keys, os.environ)[1]:
        complain(f"{args.config}: {fault} (here, where it is checked)")
    print(f"{args.config}: OK, {len(homes)} models")
    return 0


def _key_note(model: ModelConfig) -> str:
    """Of a key that is not in this environment; it may well be in the daemon's."""
    missing = model.api_key_env is not None and not os.environ.get(model.api_key_env)
    return f" ({model.api_key_env} is not set here: the daemon needs it)" if missing else ""


def _demo(args: argparse.Namespace) -> int:
    from arena_server.demo.show import run_demo

    return run_demo(args.directory, check=args.check, port=args.port)


def _make_demo_models(args: argparse.Namespace) -> int:
    from arena_server.demo.models import make_demo_models

    make_demo_models(args.directory, report=print)
    return 0


def _status(args: argparse.Namespace) -> int:
    from arena_server.console.live import show_status

    return show_status(args.url, once=args.once, as_json=args.json, interval_s=args.interval, key=key_of(args))


def _act(args: argparse.Namespace) -> int:
    from arena_server.console.actions import act

    return act(args.url, args.name, args.action, wait=not args.no_wait, key=key_of(args))


def _reload(args: argparse.Namespace) -> int:
    from arena_server.console.actions import reload

    return reload(args.url, key_of(args))


def _events(args: argparse.Namespace) -> int:
    from arena_server.console.events import follow_events

    return follow_events(args.url, key_of(args))


def _quietly(run: Callable[[], int]) -> int:
    """Run a command; Ctrl-C and a reader that has left (`| head`) are ends like others."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter must not be an error
    try:
        status = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 141
    return status
