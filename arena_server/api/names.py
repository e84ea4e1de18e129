"""The models as clients know them: names, aliases, and what the configuration says of each."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, Sequence

from arena_server.config import ModelConfig
from arena_server.errors import ModelNotFound


class Catalogue:
    """Configured models and their aliases. Replaced as a whole when the configuration changes."""

    def __init__(self, models: Mapping[str, ModelConfig], homes: Mapping[str, Sequence[int]]) -> None:
        """`homes` are each model's device indices."""
        self.replace(models, homes)

    def replace(self, models: Mapping[str, ModelConfig], homes: Mapping[str, Sequence[int]]) -> None:
        """Be this from now on."""
        self.models = models
        self.homes = homes
        self._names = {name: name for name in models}
        for name, model in models.items():
            self._names.update(dict.fromkeys(model.aliases, name))

    def items(self) -> ItemsView[str, str]:
        """Every name that clients may use, with the configured name it stands for."""
        return self._names.items()

    def resolve(self, name: str) -> str:
        """The configured name that `name` stands for. Raises ModelNotFound."""
        try:
            return self._names[name]
        except KeyError:
            raise ModelNotFound(name, self._names) from None
