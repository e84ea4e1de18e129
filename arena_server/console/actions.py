"""The commands that have the daemon do something."""

from __future__ import annotations

import sys
from difflib import get_close_matches

from arena_server.console.api import Api, Refused
from arena_server.console.follow import follow
from arena_server.console.key import ApiKey
from arena_server.console.picture import Model
from arena_server.console.words import clean
from arena_server.errors import ArenaError

# What to say of an action that has no end to wait for.
DONE = {"pin": "pinned", "unpin": "no longer pinned", "reset": "its failures are forgotten"}


def act(url: str, name: str, action: str, *, wait: bool, key: ApiKey | None = None) -> int:
    """Have something done with a model, and wait for its end where it has one."""
    api = Api(url, key=key)
    try:
        model = api.act(name, action)
    except Refused as e:
        if e.http_status == 404 and (near := _closest(api, name)):
            raise Refused(f"{e.message}\nDid you mean `{near}`?", e.http_status, e.error_code) from e
        raise
    if action in DONE:
        print(f"{clean(model.name)}: {DONE[action]} ({model.residency})")
        return 0
    if not wait:
        print(f"{clean(model.name)}: {_now(model)}")
        return 0
    try:
        return follow(api, action, model)
    except KeyboardInterrupt:
        print(f"arena-server: no longer waiting; the {action} goes on (arena-server status)", file=sys.stderr)
        return 130


def reload(url: str, key: ApiKey | None = None) -> int:
    """Have the configuration read again, and say what changed."""
    done = Api(url, key=key).reload()
    for what, names in (("added", done.added), ("removed", done.removed), ("changed", done.changed)):
        if names:
            print(f"{what}: {', '.join(map(clean, names))}")
    if not (done.added or done.removed or done.changed or done.needs_restart):
        print("no model has changed")
    if done.needs_restart:
        print(f"changed, but only a restart of the daemon will apply it: {', '.join(map(clean, done.needs_restart))}")
    return 0


def _now(model: Model) -> str:
    return model.residency if model.draining is None else f"{model.residency}, draining: {clean(model.draining)}"


def _closest(api: Api, name: str) -> str | None:
    """The configured name most like this one, if the daemon can be asked and any is."""
    try:
        models = api.pool().models
    except ArenaError:
        return None
    known = [n for m in models for n in (m.name, *m.aliases)]
    folded = {n.casefold(): n for n in known}
    near = get_close_matches(name.casefold()[:80], folded, n=1)
    return clean(folded[near[0]]) if near else None
