"""The names clients may call models by."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping

from arena_server.config import ModelConfig
from arena_server.errors import ModelNotFound


class ModelNames:
    """Configured names and their aliases."""

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
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
