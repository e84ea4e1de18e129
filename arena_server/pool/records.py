"""What is remembered of each model from one daemon to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from arena_server.measurements import Measured, MeasurementStore
from arena_server.pool.events import Times


class Records:
    """The models' measurements by name; `keys` say under what they are kept."""

    def __init__(self, store: MeasurementStore, keys: Mapping[str, str]) -> None:
        self._store = store
        self._keys = dict(keys)

    def of(self, model: str) -> Measured:
        """What is known of the model."""
        return self._store.get(self._keys[model])

    def note(self, model: str, **changes: Any) -> None:
        """Keep these fields of `Measured` from now on."""
        self._store.put(self._keys[model], model, replace(self.of(model), **changes))

    def rename(self, model: str, key: str) -> None:
        """Keep the model's measurements under another key: its engine is another one now."""
        self._keys[model] = key

    def forget(self, model: str) -> None:
        """The model is known no more (what was measured stays)."""
        self._keys.pop(model, None)

    def close(self) -> None:
        """Close the file."""
        self._store.close()


def times_of(measured: Measured) -> Times:
    """The part of the measurements that the core decides by."""
    return Times(measured.load_s, measured.wake_s, measured.sleep_s, measured.stop_s)
