"""What engines hold on the devices and what others do there, as the devices themselves see it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeVar

import psutil

from arena_server.gpu.device_use import DeviceUse
from arena_server.gpu.probe import MemoryProbe, ProbeError

logger = logging.getLogger(__name__)

T = TypeVar("T")

SAMPLE_S = 0.25
POLL_S = 0.05
LIMIT_S = 10.0
# Other processes' use may have grown a little meanwhile: so much may be missing, or this part of what was held.
SLACK_BYTES = 256 << 20
SLACK = 0.1


@dataclass(frozen=True, slots=True)
class Readings:
    """What was last measured of one model, each as bytes by device; a device that was not measured is missing."""

    load_peak_bytes: Mapping[int, int]
    awake_bytes: Mapping[int, int]
    asleep_bytes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """A process that is not ours, and the bytes it has on a device. The name is "?" if it cannot be had."""

    pid: int
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Outside:
    """Bytes in use on a device that no engine of ours accounts for.

    `processes` are those known to have some of them, the largest first. The rest is the driver's own (0.5 GiB on a
    large GPU), of processes that the driver does not list, or was never given back.
    """

    bytes: int
    processes: tuple[ProcessUse, ...]


@dataclass(slots=True)
class _Tenant:
    """What an engine that is awake or asleep holds, by device (None: not known), and its processes."""

    pids: Set[int] = frozenset()
    held: dict[int, int | None] = field(default_factory=dict)


class DeviceMemory:
    """Remembers what each engine took from its devices, and waits for that after its end.

    The driver gives memory back some time (0.5 to 1.5 s is common) after the process is gone; the next engine measures
    free memory when it starts, and would size its KV cache wrongly or refuse to start. Only one engine at a time is in
    transition on a device, so a difference there is that engine's. What is in use is noted when transitions end, not
    when a stop begins: the memory of an engine that died may be back before anybody looks.

    Where the driver says what each process has, that counts; it does not in every container and not under MIG, and
    then differences have to do. Host RAM is not accounted for at all: every call returns at once and notes nothing.
    A device that cannot be asked is one of which nothing is known until it answers again.
    """

    def __init__(self, probe: MemoryProbe) -> None:
        self._probe = probe
        self._settled: dict[int, DeviceUse] = {}  # by device, after its last transition
        self._tenants: dict[str, _Tenant] = {}
        self._load_peaks: dict[str, dict[int, int]] = defaultdict(dict)
        self._awake: dict[str, dict[int, int]] = defaultdict(dict)
        self._asleep: dict[str, dict[int, int]] = defaultdict(dict)
        self._silent: set[tuple[str, int]] = set()  # what was not answered when it was last asked, by which device

    def settle(self, devices: Iterable[int]) -> None:
        """Note what is in use on devices where nothing is under way."""
        if self._probe.gpu:
            for device in devices:
                self._settle(device, self._use(device))

    @contextlib.asynccontextmanager
    async def load_peak(self, model: str, devices: Iterable[int]) -> AsyncIterator[None]:
        """While the block runs, see how far use rises above what was settled before; kept if it ends well.

        Other programs' growth during the block counts too: to ask for each process every time would take too long,
        and a peak that is too high costs room while one too low costs an engine.
        """
        before = {d: self._settled[d].used_bytes for d in devices if d in self._settled}
        peaks = dict(before)
        sampler = asyncio.get_running_loop().create_task(self._sample(peaks)) if before else None
        try:
            yield
        finally:
            if sampler is not None:
                sampler.cancel()
        self._raise(peaks)
        self._load_peaks[model].update({d: peak - before[d] for d, peak in peaks.items()})

    def note_awake(self, model: str, devices: Iterable[int], pids: Iterable[int]) -> None:
        """Note what the model holds, whose load or wake just ended.

        `pids` are all processes of its engine that may be on a device; none if they are not known.
        """
        self._note(self._awake[model], model, devices, frozenset(pids))

    def note_asleep(self, model: str, devices: Iterable[int], pids: Iterable[int]) -> None:
        """Note what the model still holds, which just fell asleep. `pids` as for `note_awake`."""
        self._note(self._asleep[model], model, devices, frozenset(pids))

    async def returned(self, model: str, devices: Iterable[int], limit_s: float | None = None) -> bool:
        """Wait until what the model held (or a load of it that failed took) is back, then forget that it held it.

        False if it is not back within `limit_s` (by default LIMIT_S). Host RAM is back when the process is gone.
        """
        if not self._probe.gpu:
            return True
        limit_s = LIMIT_S if limit_s is None else limit_s
        devices = tuple(devices)
        try:
            async with asyncio.timeout(limit_s):
                while not all(self._is_back(model, d) for d in devices):  # noqa: ASYNC110 (the driver tells nobody)
                    await asyncio.sleep(POLL_S)
            back = True
        except TimeoutError:
            back = False
        self._tenants.pop(model, None)
        self.settle(devices)
        if not back:
            in_use = {d: self._settled[d].used_bytes for d in devices if d in self._settled}
            logger.warning("%s ended %g s ago and its memory is not back; in use by device: %s", model, limit_s, in_use)
        return back

    def readings(self, model: str) -> Readings:
        """What was measured of the model since the daemon started; its end does not change that."""
        return Readings(
            load_peak_bytes=dict(self._load_peaks[model]),
            awake_bytes=dict(self._awake[model]),
            asleep_bytes=dict(self._asleep[model]),
        )

    def outside(self, devices: Iterable[int]) -> dict[int, Outside]:
        """What is in use on devices at rest, that no engine of ours accounts for.

        A device is missing where that is not known. Memory of an engine in transition would be counted too.
        """
        if not self._probe.gpu:
            return {}
        found = {d: self._outside(d) for d in devices}
        return {d: outside for d, outside in found.items() if outside is not None}

    def use(self, device: int) -> DeviceUse | None:
        """What is in use on a GPU now, and by whom; None where that is not known, and for host RAM."""
        return self._use(device) if self._probe.gpu else None

    def pids_of(self, model: str) -> Set[int]:
        """The processes of the model's engine, as they were at the end of its last transition."""
        return self._tenants[model].pids if model in self._tenants else frozenset()

    async def _sample(self, peaks: dict[int, int]) -> None:
        while True:
            self._raise(peaks)
            await asyncio.sleep(SAMPLE_S)

    def _raise(self, peaks: dict[int, int]) -> None:
        for device, peak in list(peaks.items()):
            del peaks[device]  # for good, if it does not answer: the peak may be what was missed
            if (used := self._ask(self._probe.used_bytes, device)) is not None:
                peaks[device] = max(peak, used)

    def _note(self, kind: dict[int, int], model: str, devices: Iterable[int], pids: Set[int]) -> None:
        if not self._probe.gpu:
            return
        tenant = self._tenants.setdefault(model, _Tenant())
        for device in devices:
            now = self._use(device)
            tenant.held[device] = held = self._holding(model, device, now, pids)
            if held is not None:
                kind[device] = held
            self._settle(device, now)
        tenant.pids = pids

    def _holding(self, model: str, device: int, now: DeviceUse | None, pids: Set[int]) -> int | None:
        """What the model holds after a transition. Where its processes are not listed, a difference has to do."""
        if now is None:
            return None
        if listed := now.listed(pids):
            return listed
        before, held = self._settled.get(device), self._tenants[model].held.get(device, 0)
        if before is None or held is None:
            return None
        return max(0, held + now.rise_since(before, self._others(model, device, before, now)))

    def _is_back(self, model: str, device: int) -> bool:
        before, now = self._settled.get(device), self._use(device)
        if before is None or now is None:
            return True  # not known; its models must not be blocked for ever
        tenant = self._tenants.get(model)
        held = (tenant.held.get(device) if tenant else None) or 0
        rise = now.rise_since(before, self._others(model, device, before, now))
        return rise <= max(SLACK_BYTES, int(SLACK * held)) - held

    def _others(self, model: str, device: int, before: DeviceUse, now: DeviceUse) -> Set[int]:
        """The processes whose use of the device surely has nothing to do with the model's transition."""
        was_there, is_there = (before.processes or {}).keys(), (now.processes or {}).keys()
        own = self._pids(m for m in self._tenants if m == model)
        if before.listed(own):
            return (was_there | is_there) - own  # all of the model's are known, so the rest are not
        if self._holds(model, device):
            # It may be listed under process ids that we do not know.
            return self._pids(m for m in self._tenants if m != model)
        return frozenset(was_there)  # it is new, and so may be what is new in the list

    def _outside(self, device: int) -> Outside | None:
        now = self._use(device)
        if now is None:
            return None
        tenants = [t for name, t in self._tenants.items() if self._holds(name, device)]
        if now.processes is None or not all(now.listed(t.pids) for t in tenants):
            held = [t.held[device] for t in tenants]
            known = [h for h in held if h is not None]
            return Outside(max(0, now.used_bytes - sum(known)), ()) if len(known) == len(held) else None
        ours = self._pids(self._tenants)
        others = {pid: bytes_ for pid, bytes_ in now.processes.items() if pid not in ours}
        return Outside(max(sum(others.values()), now.used_bytes - now.listed(ours)), _process_uses(others))

    def _holds(self, model: str, device: int) -> bool:
        """Whether the model holds, or may hold, anything on the device."""
        return model in self._tenants and self._tenants[model].held.get(device, 0) != 0

    def _pids(self, models: Iterable[str]) -> Set[int]:
        return frozenset(pid for model in models for pid in self._tenants[model].pids)

    def _settle(self, device: int, use: DeviceUse | None) -> None:
        if use is not None:
            self._settled[device] = use
        else:
            self._settled.pop(device, None)  # a difference to an older one would not be one transition's

    def _use(self, device: int) -> DeviceUse | None:
        used = self._ask(self._probe.used_bytes, device)
        return None if used is None else DeviceUse(used, self._ask(self._probe.processes, device))

    def _ask(self, question: Callable[[int], T | None], device: int) -> T | None:
        """The answer, or None. Logs the first of a series of failures: one for each sample would bury the log."""
        asked = (question.__name__, device)
        try:
            answer = question(device)
        except ProbeError as e:
            if asked not in self._silent:
                logger.warning("Device %d does not say what is in use: %s", device, e)
            self._silent.add(asked)
            return None
        self._silent.discard(asked)
        return answer


def _process_uses(uses: Mapping[int, int]) -> tuple[ProcessUse, ...]:
    largest_first: Sequence[tuple[int, int]] = sorted(uses.items(), key=lambda use: -use[1])
    return tuple(ProcessUse(pid, process_name(pid), bytes_) for pid, bytes_ in largest_first)


def process_name(pid: int) -> str:
    """As `ps` shows it; "?" if it cannot be had."""
    try:
        return psutil.Process(pid).name()
    except (psutil.Error, ValueError):  # it ended meanwhile, or lives outside this container
        return "?"
