"""`arena-server pull`: models' files ahead of time, where vLLM will look for them."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from arena_server.config import Config, load_config
from arena_server.config_model import ModelConfig
from arena_server.errors import ConfigError
from arena_server.log import complain
from arena_server.plan.errors import HubGone, PlanError
from arena_server.plan.fetch import MOST_BYTES, fetch_blobs, fetch_rest
from arena_server.plan.files import PATTERNS, beside_files
from arena_server.plan.hub import Hub
from arena_server.plan.origin import Repository, local_path, repositories
from arena_server.plan.place import Wanted, cache_of, cached, partial_bytes
from arena_server.plan.progress import Progress, open_progress, size_text
from arena_server.plan.sight import is_whole

# So that the file system is not filled to its last byte.
SPARE_BYTES = 256 << 20
CONSOLIDATED_FILE = "consolidated.safetensors"
# vLLM fetches these on its own ways.
NOT_FETCHED = frozenset({"gguf", "tensorizer", "sharded_state", "runai_streamer_sharded"})


@dataclass(frozen=True, slots=True)
class Order:
    """One repository to fetch for the model `name`: its files, and those of them that are not there yet."""

    name: str
    repository: Repository
    commit: str
    weights: Sequence[Wanted]
    beside: Sequence[Wanted]
    missing: Sequence[Wanted] = field(default_factory=tuple)

    @property
    def total_bytes(self) -> int:
        """All its files."""
        return sum(wanted.size for wanted in (*self.weights, *self.beside))

    @property
    def missing_bytes(self) -> int:
        """What is still to come, less what an interrupted run has left."""
        return sum(wanted.size - partial_bytes(self.repository, wanted) for wanted in self.missing)


def run_pull(file: Path, names: Sequence[str]) -> int:
    """Fetch the named models of a configuration, or all. Returns 0, or 1 if one of them failed; all are tried.

    Raises ConfigError (2) for a wrong configuration or an unknown name.
    """
    config = load_config(file)
    models = _chosen(config, names)
    _hint(config)
    failed: list[str] = []
    orders = _orders(models, failed)
    refused = without_room(orders)
    for line in refused:
        complain(line)
    if refused:
        return 1
    for order in orders:
        try:
            _fetch(order)
        except PlanError as e:
            failed.append(order.name)
            complain(e.message)
    return 1 if failed else 0


def _chosen(config: Config, names: Sequence[str]) -> Mapping[str, ModelConfig]:
    """The models of those names or aliases; all if there are none."""
    by_name = {alias: name for name, model in config.models.items() for alias in (name, *model.aliases)}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        known = ", ".join(config.models)
        raise ConfigError(f"{config.file}: there is no model {name!r} (it has: {known})" for name in unknown)
    chosen = dict.fromkeys(by_name[name] for name in names) or dict.fromkeys(config.models)
    return {name: config.models[name] for name in chosen}


def _hint(config: Config) -> None:
    """Say so if the service would look elsewhere: its unit sets HF_HOME, and a root shell does not."""
    place = config.state_dir / "huggingface"
    if not any(os.environ.get(key) for key in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")) and place.is_dir():
        complain(f"HF_HOME is not set, but there is {place}: if the service uses that, run this with HF_HOME={place}")


def _orders(models: Mapping[str, ModelConfig], failed: list[str]) -> list[Order]:
    """What is to be fetched. Whatever needs no fetching is said at once; those that fail are put into `failed`."""
    orders = []
    for name, model in models.items():
        if model.remote:
            print(f"{name}: on another server, nothing to fetch ({model.backend_url})", flush=True)
            continue
        try:
            if (path := local_path(model)) is not None:
                _say_local(name, path)
            found = [_found(name, repository) for repository in repositories(model)]
            orders += [order for order in found if order is not None]
        except PlanError as e:
            failed.append(name)
            complain(e.message)
    return orders


def _found(name: str, repository: Repository) -> Order | None:
    """What is to be fetched of one repository; None if the cache has it whole and there is no hub to compare with."""
    if _offline(name, repository):
        return None
    try:
        return _order(name, repository)
    except HubGone as e:
        if not is_whole(repository):
            raise
        complain(f"{name}: whole in the cache, not compared with the hub: {e.message.removeprefix(f'{name}: ')}")
        return None


def _say_local(name: str, path: Path) -> None:
    if not path.exists():
        raise PlanError(f"{name}: {path}: there is nothing (check `model`)")
    print(f"{name}: local, nothing to fetch ({path})", flush=True)


def _offline(name: str, repository: Repository) -> bool:
    """Whether the hub must not be asked, and need not be; says so."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE or not is_whole(repository):
        return False
    print(f"{name}: in the cache, not compared with the hub (HF_HUB_OFFLINE) ({repository.id})", flush=True)
    return True


def _order(name: str, repository: Repository) -> Order:
    if repository.load_format in NOT_FETCHED:
        what = f"load_format {repository.load_format}"
        raise PlanError(f"{name}: cannot be fetched ahead of time with {what}: vLLM fetches it when it loads it")
    hub = Hub(name, repository)
    sizes = hub.files()
    weights = hub.weight_files() if repository.weights else []
    if repository.weights and not weights and PATTERNS.get(repository.load_format) != ():
        raise PlanError(f"{name}: `{repository.id}` has no weights that vLLM reads (load_format?)")
    if repository.load_format == "auto" and CONSOLIDATED_FILE in weights and len(weights) < _safetensors(sizes):
        # Offline it cannot list the hub's files, takes the other format, and then lacks that one's files.
        print(f"{name}: in Mistral's own format, as vLLM prefers; with HF_HUB_OFFLINE it needs load_format: mistral")
    order = Order(
        name,
        repository,
        hub.commit or "",
        [Wanted(file, sizes[file], hub.blob(file)) for file in weights],
        [Wanted(file, sizes[file], hub.cache_name(file)) for file in beside_files(sizes) if file not in weights],
    )
    missing = [
        *(w for w in order.weights if not cached(repository, w, order.commit, repository.weights_dir)),
        *(w for w in order.beside if not cached(repository, w, order.commit, repository.cache_dir)),
    ]
    return Order(name, repository, order.commit, order.weights, order.beside, missing)


def _safetensors(names: Iterable[str]) -> int:
    return sum(name.endswith(".safetensors") for name in names)


def without_room(orders: Sequence[Order]) -> list[str]:
    """A line for each file system that has not the room for all that is to come, with the numbers."""
    wanted: dict[int, list[tuple[Order, Path]]] = defaultdict(list)
    for order in {order.repository: order for order in orders}.values():  # two models may share one
        place = cache_of(order.repository)
        wanted[place.stat().st_dev].append((order, place))
    refused = []
    for group in wanted.values():
        place = group[0][1]
        needed = sum(order.missing_bytes for order, _ in group)
        free = shutil.disk_usage(place).free
        if needed and needed + SPARE_BYTES > free:
            each = ", ".join(f"{o.name} {size_text(o.missing_bytes)}" for o, _ in group if o.missing_bytes)
            refused.append(
                f"{place}: {size_text(needed)} are to be fetched ({each}) and {size_text(free)} are free, of which "
                f"{size_text(SPARE_BYTES)} stay so: nothing was fetched (make room, or name fewer models)"
            )
    return refused


def _fetch(order: Order) -> None:
    """Fetch what is missing, and let the cache say that all is there."""
    name, repository = order.name, order.repository
    if not order.missing:
        fetch_rest(name, repository, order.weights, order.beside)
        print(f"{name}: complete, {size_text(order.total_bytes)} ({repository.id})", flush=True)
        return
    with open_progress(f"{name} ({repository.id})", order.missing_bytes) as progress:
        _fetch_missing(order, progress)
    print(f"{name}: fetched, {size_text(order.total_bytes)} in {cache_of(repository)}", flush=True)


def _fetch_missing(order: Order, progress: Progress) -> None:
    weights = [w for w in order.missing if w in order.weights and w.blob and w.size <= MOST_BYTES]
    fetch_blobs(order.name, order.repository, order.commit, weights, progress)
    fetch_rest(order.name, order.repository, order.weights, order.beside)
    progress.add(sum(wanted.size for wanted in order.missing if wanted not in weights))
