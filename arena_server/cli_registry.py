"""The command line's part for models and aliases that are added while the daemon runs."""

from __future__ import annotations

import argparse
import json
import math
import os
from typing import TYPE_CHECKING, Any

from arena_server.console.key import key_of

if TYPE_CHECKING:
    from arena_server.console.models import Registry

# Settings that are lists, for which commas do.
LISTS = frozenset({"aliases", "fallback"})
# Settings that are text, also where they look like something else (a model called 2026).
TEXTS = frozenset({"model", "display_name", "backend_url", "api_key_env"})


def add_registry(commands: Any, daemon: argparse.ArgumentParser) -> None:
    """Add the commands; `daemon` has the options of those that talk to a running daemon."""
    models = commands.add_parser("models", help="list, add, change and remove models while the daemon runs")
    kinds = models.add_subparsers(metavar="COMMAND", required=True)
    settings = _settings()

    listed = kinds.add_parser("list", parents=[daemon], help="show all models and aliases, and where they stand")
    listed.add_argument("--json", action="store_true", help="print them as JSON")
    listed.set_defaults(run=_list)

    show = kinds.add_parser("show", parents=[daemon], help="show the settings of one model")
    show.add_argument("name", metavar="NAME", help="the model")
    show.add_argument("--json", action="store_true", help="print them as JSON")
    show.set_defaults(run=_show)

    add = kinds.add_parser("add", parents=[daemon, settings], help="add a model; it is kept, and survives restarts")
    add.add_argument("name", metavar="NAME", help="what requests will call it")
    add.add_argument("--model", required=True, type=_model, metavar="ID|PATH", help=MODEL_HELP)
    add.set_defaults(run=_add)

    change = kinds.add_parser("set", parents=[daemon, settings], help="change settings of a model that was added")
    change.add_argument("name", metavar="NAME", help="the model")
    change.add_argument(
        "pairs",
        nargs="*",
        type=_pair,
        metavar="KEY=VALUE",
        help="any key of `models.NAME`, as `engine_args.max_model_len=4096`; without a value: its default",
    )
    change.add_argument("--model", type=_model, metavar="ID|PATH", help=MODEL_HELP)
    change.set_defaults(run=_set, refuse=change.error)

    for order, does in (
        ("disable", "serve a model that was added no longer, and keep its settings"),
        ("enable", "serve it again"),
    ):
        switch = kinds.add_parser(order, parents=[daemon], help=does)
        switch.add_argument("name", metavar="NAME", help="the model")
        switch.set_defaults(run=_switch, order=order)

    remove = kinds.add_parser("remove", parents=[daemon], help="remove a model that was added")
    remove.add_argument("name", metavar="NAME", help="the model")
    remove.set_defaults(run=_remove)

    alias = kinds.add_parser("alias", parents=[daemon], help="have a name stand for a model, or for several by weight")
    alias.add_argument("name", metavar="NAME", help="the alias")
    alias.add_argument("targets", nargs="+", type=_target, metavar="MODEL[=WEIGHT]", help="llama-3.1=90 llama-3.2=10")
    alias.set_defaults(run=_alias, refuse=alias.error)

    unalias = kinds.add_parser("unalias", parents=[daemon], help="remove an alias that was added")
    unalias.add_argument("name", metavar="NAME", help="the alias")
    unalias.set_defaults(run=_unalias)


MODEL_HELP = "Hugging Face id, or a path on the daemon's host; a remote model's name there"


def _settings() -> argparse.ArgumentParser:
    """The settings of a model that have options of their own; each under its name in the file."""
    settings = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    settings.add_argument("--display-name", metavar="TEXT", help="its name for people")
    settings.add_argument("--gpu-memory-utilization", type=_number, metavar="F", help="fraction of its devices' memory")
    settings.add_argument("--input-cost", type=_number, metavar="PRICE", help="of a million prompt tokens")
    settings.add_argument("--output-cost", type=_number, metavar="PRICE", help="of a million completion tokens")
    settings.add_argument("--backend-url", metavar="URL", help="a server that runs it, OpenAI-compatible (.../v1)")
    settings.add_argument("--api-key-env", metavar="VAR", help="the daemon's variable with the API key for that server")
    settings.add_argument("--alias", action="append", dest="aliases", metavar="NAME", help="another name; repeated")
    settings.add_argument("--fallback", action="append", metavar="MODEL", help="who answers if it cannot; repeated")
    settings.add_argument(
        "--engine-arg", action="append", type=_pair, dest="engine_args", metavar="KEY=VALUE",
        help="an argument of `vllm serve`, as max_model_len=4096; repeated",
    )  # fmt: skip
    settings.add_argument(
        "--env", action="append", type=_variable, metavar="VAR=VALUE", help="a variable of its engine; repeated"
    )
    settings.add_argument("--devices", type=_devices, metavar="N[,N]", help="the GPUs it runs on, or `auto`")
    settings.add_argument("--idle-ttl-s", type=_number, metavar="S", help="seconds unused until it is evicted")
    settings.add_argument("--preload", action=argparse.BooleanOptionalAction, help="load it when the daemon starts")
    settings.add_argument("--pinned", action=argparse.BooleanOptionalAction, help="never evict it once it is loaded")
    return settings


SETTINGS = (
    "model", "display_name", "gpu_memory_utilization", "input_cost", "output_cost", "backend_url", "api_key_env",
    "aliases", "fallback", "engine_args", "env", "devices", "idle_ttl_s", "preload", "pinned",
)  # fmt: skip


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the options give."""
    found = {key: value for key in SETTINGS if (value := getattr(args, key, None)) is not None}
    return {key: dict(value) if key in ("engine_args", "env") else value for key, value in found.items()}


def _model(text: str) -> str:
    # Relative to where the command is given, and not to the daemon's configuration.
    is_path = text in (".", "..") or text.startswith(("./", "../", "~"))
    return os.path.abspath(os.path.expanduser(text)) if is_path else text


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: not KEY=VALUE")
    return key, _value(key, value)


def _value(key: str, text: str) -> Any:
    """JSON where it is some, else text; nothing is null, which stands for the default."""
    if not text:
        return None
    try:
        value = json.loads(text, parse_constant=_no_json)
    except ValueError:
        return text.split(",") if key in LISTS else text
    is_text = key in TEXTS or key.startswith("env.")
    return text if is_text and not isinstance(value, str) else value


def _no_json(text: str) -> Any:
    """Python takes NaN and Infinity for JSON. The daemon does not, and could not say which key it is about."""
    raise ValueError(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: not VAR=VALUE")
    return name, value


def _devices(text: str) -> str | list[int]:
    if text == "auto":
        return text
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: neither `auto` nor numbers such as 0,1") from None


def _target(text: str) -> tuple[str, float]:
    name, equals, weight = text.partition("=")
    try:
        return name, _number(weight) if equals else 1.0
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: {weight!r} is not a weight") from None


# The commands import what they need themselves: the others need not wait for it.


def _registry(args: argparse.Namespace) -> Registry:
    from arena_server.console.api import Api
    from arena_server.console.models import Registry

    return Registry(Api(args.url, key=key_of(args)))


def _list(args: argparse.Namespace) -> int:
    from arena_server.console.models import list_models

    return list_models(_registry(args), as_json=args.json)


def _show(args: argparse.Namespace) -> int:
    from arena_server.console.models import show_model

    return show_model(_registry(args), args.name, as_json=args.json)


def _add(args: argparse.Namespace) -> int:
    from arena_server.console.models import add_model

    return add_model(_registry(args), args.name, given(args))


def _set(args: argparse.Namespace) -> int:
    from arena_server.console.models import set_model

    patch = given(args)
    for key, value in args.pairs:
        *above, last = key.split(".") if key.startswith(("engine_args.", "env.")) else [key]
        place = patch
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                args.refuse(f"{part} is given as a whole, and {key} as a part of it: give one")
        place[last] = value
    if not patch:
        args.refuse("nothing to change: KEY=VALUE, or an option")
    return set_model(_registry(args), args.name, patch)


def _switch(args: argparse.Namespace) -> int:
    from arena_server.console.models import switch_model

    return switch_model(_registry(args), args.name, args.order)


def _remove(args: argparse.Namespace) -> int:
    from arena_server.console.models import remove_model

    return remove_model(_registry(args), args.name)


def _alias(args: argparse.Namespace) -> int:
    from arena_server.console.models import set_alias

    targets = dict(args.targets)
    if len(targets) < len(args.targets):
        names = [name for name, _ in args.targets]
        args.refuse(f"given twice: {', '.join(name for name in targets if names.count(name) > 1)}")
    return set_alias(_registry(args), args.name, targets)


def _unalias(args: argparse.Namespace) -> int:
    from arena_server.console.models import remove_alias

    return remove_alias(_registry(args), args.name)
