"""The GPUs that are planned for: this machine's, or ones that are named or sized."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from arena_server.devices import DeviceInfo
from arena_server.gpu.probe import MemoryProbe, Telemetry
from arena_server.plan.errors import UsageError

MIB = 1 << 20
UNITS = MappingProxyType({"": 1 << 30, "g": 1 << 30, "gib": 1 << 30, "gb": 10**9, "mib": MIB, "mb": 10**6, "m": MIB})
AT_LEAST_BYTES = 1 << 30
NOT_IN_NAMES = re.compile(
    r"nvidia|tesla|quadro|geforce|sxm\d?|pcie|hbm\d?e?|generation|blackwell|(?:server|workstation) edition|[\s_-]"
)
AT_MOST_CARDS = 64

Capability = tuple[int, int]

# Memory in MiB as nvidia-smi shows it, and the compute capability (https://developer.nvidia.com/cuda-gpus).
KNOWN: Mapping[str, tuple[int, Capability]] = MappingProxyType(
    {
        "P100": (16384, (6, 0)),
        "P40": (23040, (6, 1)),
        "V100": (16384, (7, 0)),
        "V100-32GB": (32768, (7, 0)),
        "T4": (15360, (7, 5)),
        "RTX 2080 Ti": (11264, (7, 5)),
        "RTX 6000": (24576, (7, 5)),
        "A100": (40960, (8, 0)),
        "A100-40GB": (40960, (8, 0)),
        "A100-80GB": (81920, (8, 0)),
        "A30": (24576, (8, 0)),
        "A2": (15356, (8, 6)),
        "A10": (23028, (8, 6)),
        "A10G": (23028, (8, 6)),
        "A16": (15356, (8, 6)),
        "A40": (46068, (8, 6)),
        "RTX A4000": (16376, (8, 6)),
        "RTX A5000": (24564, (8, 6)),
        "RTX A6000": (49140, (8, 6)),
        "RTX 3060": (12288, (8, 6)),
        "RTX 3080": (10240, (8, 6)),
        "RTX 3090": (24576, (8, 6)),
        "L4": (23034, (8, 9)),
        "L40": (46068, (8, 9)),
        "L40S": (46068, (8, 9)),
        "RTX 4000 Ada": (20475, (8, 9)),
        "RTX 6000 Ada": (49140, (8, 9)),
        "RTX 4080": (16376, (8, 9)),
        "RTX 4090": (24564, (8, 9)),
        "H100": (81559, (9, 0)),
        "H100 NVL": (95830, (9, 0)),
        "GH200": (97871, (9, 0)),
        "GH200 480GB": (97871, (9, 0)),
        "H200": (143771, (9, 0)),
        "B200": (183359, (10, 0)),
        "RTX 5090": (32607, (12, 0)),
        "RTX PRO 6000": (97887, (12, 0)),
    }
)


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU. `capability` is CUDA's compute capability, None where only the size is known."""

    device: DeviceInfo
    capability: Capability | None = None


class PlannedProbe:
    """The cards as a `MemoryProbe` on which nothing is in use."""

    gpu = True

    def __init__(self, cards: Sequence[Card]) -> None:
        self.devices: Sequence[DeviceInfo] = tuple(card.device for card in cards)

    def used_bytes(self, index: int) -> int:
        """See `MemoryProbe`."""
        return 0

    def processes(self, index: int) -> Mapping[int, int]:
        """See `MemoryProbe`."""
        return {}

    def telemetry(self, index: int) -> Telemetry:
        """See `MemoryProbe`."""
        return Telemetry()


def parse_cards(text: str) -> list[Card]:
    """`16GiB`, `T4`, `"A100-80GB"`, `2xL4` -> the cards, numbered from 0. Raises UsageError."""
    match = re.fullmatch(r"(?:(\d{1,3})\s*[x×*]\s*)?(.+)", text.strip(), re.IGNORECASE)
    count, what = (int(match[1] or 1), match[2]) if match else (0, text)
    if not 1 <= count <= AT_MOST_CARDS:
        raise UsageError(f"--gpu {text!r}: 1 to {AT_MOST_CARDS} cards, such as 2xL4")
    name, size_bytes, capability = _known(what) or _sized(what)
    return [Card(DeviceInfo(index, name, size_bytes), capability) for index in range(count)]


def _known(what: str) -> tuple[str, int, Capability] | None:
    key = _key(what)
    with_size = {f"{_key(name)}{round(mib / 1024)}gb": name for name, (mib, _) in KNOWN.items()}
    name = {_key(name): name for name in KNOWN}.get(key) or with_size.get(key)
    return None if name is None else (f"NVIDIA {name}", KNOWN[name][0] * MIB, KNOWN[name][1])


def _key(name: str) -> str:
    """Without the words that nvidia-smi and others put around a card's name, and without its spaces."""
    return NOT_IN_NAMES.sub("", name.lower())


def _sized(what: str) -> tuple[str, int, None]:
    match = re.fullmatch(r"(\d{1,7}(?:\.\d{1,6})?)\s*([a-z]*)", what.strip().lower())
    unit = UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        known = ", ".join(KNOWN)
        raise UsageError(f"--gpu {what!r}: not a size such as 16GiB, not `auto`, and not a known card ({known})")
    size_bytes = int(Decimal(match[1]) * unit)
    if size_bytes < AT_LEAST_BYTES:
        raise UsageError(f"--gpu {what!r}: under 1 GiB")
    return f"{what.strip()} card", size_bytes, None


def own_cards(probe: MemoryProbe) -> list[Card]:
    """This machine's GPUs. Raises UsageError where there is none."""
    if not probe.gpu:
        raise UsageError("no GPU on this machine: say which one to plan for, such as --gpu 80GiB or --gpu L4")
    return [Card(device, _capability(device)) for device in probe.devices]


def _capability(device: DeviceInfo) -> Capability | None:
    """The driver's word, else the table's."""
    import pynvml

    try:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(pynvml.nvmlDeviceGetHandleByIndex(device.index))
        return int(major), int(minor)
    except pynvml.NVMLError:
        known = _known(device.name)
        return known[2] if known else None
