"""Whether the names in a configuration go together: models, their aliases, and what points to models by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from arena_server.config_file import Fault, shown


def name_faults(models: object, aliases: object) -> Iterator[Fault]:
    """What is wrong, in the values of `models` and `aliases` as they were written: so, a fault elsewhere hides none.

    What has not the form that it should have is passed over: the schema says so.
    """
    if not isinstance(models, Mapping):
        return
    taken = dict.fromkeys(models, "the name of a model")
    for name, model in models.items():
        for i, alias in _texts(model, "aliases"):
            if alias in taken:
                yield ("models", name, "aliases", i), f"{shown(alias)} is already {taken[alias]} (choose another)"
            else:
                taken[alias] = f"an alias of {shown(name)}"
    for alias, targets in aliases.items() if isinstance(aliases, Mapping) else ():
        if alias in taken:
            yield ("aliases", alias), f"is already {taken[alias]} (choose another)"
        taken.setdefault(alias, "an alias")
        yield from _target_faults(alias, targets, taken, models)
    for name, model in models.items():
        yield from _fallback_faults(name, model, taken, models)


def _texts(model: object, key: str) -> Iterator[tuple[int, str]]:
    found = model.get(key) if isinstance(model, Mapping) else None
    for i, text in enumerate(found if isinstance(found, list | tuple) else ()):
        if isinstance(text, str):
            yield i, text


def _target_faults(
    alias: str, targets: object, taken: Mapping[str, str], models: Mapping[str, object]
) -> Iterator[Fault]:
    if isinstance(targets, str) and targets not in models:
        yield ("aliases", alias), f"{shown(targets)} {_no_model(targets, taken, models)}"
    if not isinstance(targets, Mapping):
        return
    for target in targets:
        if isinstance(target, str) and target not in models:
            yield ("aliases", alias, target), _no_model(target, taken, models)
    if targets and not any(not isinstance(weight, int | float) or weight for weight in targets.values()):
        yield ("aliases", alias), "all its weights are 0, so no model would get its requests (raise one)"


def _fallback_faults(
    name: str, model: object, taken: Mapping[str, str], models: Mapping[str, object]
) -> Iterator[Fault]:
    before: set[str] = set()
    for i, target in _texts(model, "fallback"):
        where = ("models", name, "fallback", i)
        if target == name:
            yield where, f"{shown(target)} is the model itself (remove it)"
        elif target in before:
            yield where, f"{shown(target)} is given twice (keep one)"
        elif target not in models:
            yield where, f"{shown(target)} {_no_model(target, taken, models)}"
        before.add(target)


def _no_model(name: str, taken: Mapping[str, str], models: Mapping[str, object]) -> str:
    if name in taken:
        return f"is {taken[name]}, and has to be the name of a model"
    near = get_close_matches(name[:80], map(str, models), n=1, cutoff=0.75)
    return "is not a configured model" + (f" (did you mean {shown(near[0])}?)" if near else "")
