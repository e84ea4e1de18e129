"""Who has memory of a device, process by process: the driver's word, beside the ledger's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from arena_server.engine.base import Engine
from arena_server.gpu.device_memory import DeviceMemory, process_name
from arena_server.pool.core import PoolCore
from arena_server.pool.residency import Residency

HOST = "host RAM is shared between processes"
UNSAID = "the driver does not say what each process has"
ELSEWHERE = "the driver lists processes by other numbers than this daemon's (a container?)"


@dataclass(frozen=True, slots=True)
class DeviceProcess:
    """A process that has `bytes` of a device.

    `model` is whose engine it belongs to, None for one that is none of this daemon's; `ledger_bytes` is what the pool
    reserves there for that model.
    """

    pid: int
    name: str
    model: str | None
    bytes: int
    ledger_bytes: int | None


@dataclass(frozen=True, slots=True)
class DeviceProcesses:
    """Those of one device, the largest first; or why they are not known."""

    processes: list[DeviceProcess] | None
    why: str | None = None


def device_processes(
    core: PoolCore, engines: Mapping[str, Engine], memory: DeviceMemory, device: int, *, gpu: bool
) -> DeviceProcesses:
    """As they are now; what has no `gpu` is host RAM."""
    if not gpu:
        return DeviceProcesses(None, HOST)
    use = memory.use(device)
    if use is None or use.processes is None:
        return DeviceProcesses(None, UNSAID)
    at_rest = [m.name for m in core.models.values() if m.residency in (Residency.AWAKE, Residency.ASLEEP)]
    reserved = {name: holding.device_bytes.get(device) for name, holding in core.ledger.held.items()}
    if not all(use.listed(memory.pids_of(name)) for name in at_rest if reserved.get(name)):
        return DeviceProcesses(None, ELSEWHERE)
    owners = dict(_owners(core, engines, memory))
    found = [
        DeviceProcess(pid, process_name(pid), owner := owners.get(pid), bytes_, reserved.get(owner) if owner else None)
        for pid, bytes_ in use.processes.items()
    ]
    return DeviceProcesses(sorted(found, key=lambda p: -p.bytes))


def _owners(core: PoolCore, engines: Mapping[str, Engine], memory: DeviceMemory) -> Iterator[tuple[int, str]]:
    """The daemon's own processes, with the model of each."""
    for model in core.models.values():
        pids = memory.pids_of(model.name)
        if model.residency is Residency.LOADING:
            # Nobody has noted them yet. Not asked of all: an engine looks through all processes of the host for it.
            pids = engines[model.name].pids
        for pid in pids:
            yield pid, model.name
