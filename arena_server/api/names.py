"""The models as clients know them: names, aliases, and what the configuration says of each."""

from __future__ import annotations

import math
from collections.abc import ItemsView, Mapping, Sequence
from hashlib import blake2b

from arena_server.caller import ANYBODY, Caller
from arena_server.config import Config
from arena_server.errors import ModelNotAllowed, ModelNotFound


class Catalogue:
    """Configured models and their aliases. Replaced as a whole when the configuration changes."""

    def __init__(self, config: Config, homes: Mapping[str, Sequence[int]]) -> None:
        """`homes` are each model's device indices."""
        self.replace(config, homes)

    def replace(self, config: Config, homes: Mapping[str, Sequence[int]]) -> None:
        """Be this from now on."""
        self.models = config.models
        self.homes = homes
        self._weights: dict[str, dict[str, float]] = {name: {name: 1.0} for name in config.models}
        for name, model in config.models.items():
            self._weights.update({alias: {name: 1.0} for alias in model.aliases})
        for alias, weights in config.aliases.items():
            self._weights[alias] = {name: weight for name, weight in weights.items() if weight > 0}
        self._targets = {
            name: tuple(sorted(weights, key=weights.__getitem__, reverse=True))
            for name, weights in self._weights.items()
        }

    def items(self) -> ItemsView[str, tuple[str, ...]]:
        """Every name that clients may use, with the configured names it stands for: those of most weight first."""
        return self._targets.items()

    def resolve(self, name: str, sticky: str = "", caller: Caller = ANYBODY) -> str:
        """The configured name that `name` stands for. Raises ModelNotFound, naming what `caller` may see, and
        ModelNotAllowed.

        Where an alias is split between several, each gets its part of all the values of `sticky`, and a value always
        the same one. Weights that change move no more values than they must (weighted rendezvous hashing: Schindelhauer
        and Schomaker, "Weighted Distributed Hash Tables", 2005).
        """
        self._check(name, caller)
        weights = self._weights[name]
        if len(weights) == 1:
            return next(iter(weights))
        return max(weights, key=lambda target: weights[target] / _exponential(name, sticky, target))

    def fallbacks(self, name: str) -> tuple[str, ...]:
        """The configured models that may answer in place of the configured one called `name`, in their order."""
        model = self.models.get(name)
        return () if model is None else model.fallback

    def targets(self, name: str, caller: Caller = ANYBODY) -> tuple[str, ...]:
        """The configured names that `name` stands for: those of most weight first. Raises as `resolve`."""
        self._check(name, caller)
        return self._targets[name]

    def visible(self, caller: Caller) -> list[str]:
        """The names by which `caller` may ask a model."""
        return [name for name in self._targets if self._may_ask(caller, name)]

    def allowed(self, caller: Caller) -> dict[str, str]:
        """The configured models that `caller` may ask, each with a name by which it may: its own, or else an alias."""
        names: dict[str, str] = {}
        for name, models in self._targets.items():
            for model in models:
                if caller.may_ask(name) and (model not in names or name == model):
                    names[model] = name
        return names

    def _may_ask(self, caller: Caller, name: str) -> bool:
        """Who may ask an alias gets whichever of its models: by its name, or by those of all of them.

        By some of them it could be asked now and then, and refused to the same caller in another session.
        """
        return caller.may_ask(name) or all(caller.may_ask(target) for target in self._targets[name])

    def _check(self, name: str, caller: Caller) -> None:
        if name not in self._targets:
            raise ModelNotFound(name, self.visible(caller))
        if not self._may_ask(caller, name):
            raise ModelNotAllowed(name)


def _exponential(*texts: str) -> float:
    """A number from the exponential distribution that the texts alone determine, in every process."""
    digest = blake2b("\0".join(texts).encode(errors="surrogatepass"), digest_size=8).digest()
    # 52 bits of it: with more, the quotient could be rounded to 1, and its logarithm to 0.
    return -math.log(((int.from_bytes(digest) >> 12) + 0.5) / 2**52)
