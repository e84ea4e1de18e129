"""The processes that have memory of a device: the driver's figure of each, beside the ledger's for its model."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from arena_server.console.picture import Device, Process
from arena_server.console.words import clean, cut, gib

AT_MOST = 12
LONGEST_NAME = 24


def lines(device: Device, indent: int, width: int) -> list[Text]:
    """A line for each, or one that says why they are not known."""
    margin = " " * indent
    if device.processes is None:
        return [Text(f"{margin}by process: not known, {clean(device.processes_unknown or 'it was not said')}", "dim")]
    shown = device.processes[:AT_MOST]
    names = {p.pid: cut(clean(p.name), LONGEST_NAME) for p in shown}
    longest = max(map(cell_len, names.values()), default=0)
    digits = max((len(str(p.pid)) for p in shown), default=0)
    result = []
    for process in shown:
        name = names[process.pid]
        line = Text(f"{margin}{process.pid:>{digits}} {name}" + " " * (longest - cell_len(name)))
        line.append(f"  NVML {gib(process.bytes):>5}  ")
        result.append(line.append_text(_whose(process, max(width - len(line) - 18, 8))))
    if more := len(device.processes) - len(shown):
        result.append(Text(f"{margin}… {more} more processes", "dim"))
    return result


def _whose(process: Process, width: int) -> Text:
    if process.model is None:
        return Text("none of this server's", "magenta")
    reserved = "nothing" if process.ledger_bytes is None else gib(process.ledger_bytes)
    return Text(f"{reserved:>5} reserved ").append(cut(clean(process.model), width), "cyan")
