"""The picture of the pool as lines of text for a terminal of any size. Nothing here asks or waits for anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from arena_server.console import bars, model_table, processes
from arena_server.console.picture import Decision, Device, Picture, Waiter
from arena_server.console.rates import Rates
from arena_server.console.words import clean, count, cut, gib, left, moment, took

QUEUE_AT_MOST = 8
DECISIONS_AT_MOST = 8
MODELS_AT_LEAST = 7
DECISIONS_AT_LEAST = 3  # with their title
LABEL_WIDTH = 7
BAR_AT_MOST = 100


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a screen shows. `rates` are None where only one look is taken; `notice` is what is wrong."""

    url: str
    picture: Picture
    decisions: tuple[Decision, ...]
    rates: Rates | None = None
    notice: str | None = None


def screen(scene: Scene, width: int, height: int | None) -> list[Text]:
    """The lines, none wider than `width`, at most `height` of them (None: as many as there are)."""
    for detail, gap in ((2, 1), (1, 1), (0, 1), (0, 0)):
        blocks = [
            _header(scene, width) + _memory(scene.picture, width, height, detail),
            _models(scene, width, None),
            _queue(scene.picture, width),
            _decisions(scene.decisions, width),
        ]
        needed = sum(len(block) + gap for block in blocks[:3] if block) + min(len(blocks[3]), DECISIONS_AT_LEAST)
        if height is None or needed <= height:
            break
    if height is not None:
        blocks = _fitted(blocks, scene, width, height, gap)
    lines = _joined(blocks, gap)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _fitted(blocks: list[list[Text]], scene: Scene, width: int, height: int, gap: int) -> list[list[Text]]:
    """The blocks in that height: the models first, but where there is room for a few of them, the queue and the
    decisions keep a title and two lines each."""
    top, table, queue, decisions = blocks
    free = height - len(top) - gap
    least = [min(len(block), 3) + gap if block else 0 for block in (queue, decisions)]
    while any(least) and free - sum(least) < min(len(table), MODELS_AT_LEAST):
        least[1 if least[1] else 0] = 0
    if len(table) > (room := max(free - sum(least), 2)):
        table = _models(scene, width, room)
    free -= len(table) + gap
    queue = _queue(scene.picture, width, free - least[1])
    decisions = decisions[: max(free - (len(queue) + gap if queue else 0), 0)]
    return [top, table, queue, decisions if len(decisions) > 1 else []]


def _joined(blocks: Sequence[list[Text]], gap: int) -> list[Text]:
    """The blocks that are there, with empty lines between."""
    result: list[Text] = []
    for block in filter(None, blocks):
        result += [*(Text() for _ in range(gap if result else 0)), *block]
    return result


def _models(scene: Scene, width: int, height: int | None) -> list[Text]:
    picture = scene.picture
    measured = {m.name: size for m in picture.models if (size := picture.measured_bytes(m.name)) is not None}
    return model_table.lines(picture.models, measured, scene.rates, width, height)


def _header(scene: Scene, width: int) -> list[Text]:
    picture = scene.picture
    first = Text.assemble((f"arena-server {clean(picture.version)}", "bold"), f"  up {took(picture.uptime_s)}  ")
    if picture.status != "healthy":
        first.append(clean(picture.status) + "  ", "bold red")
    hint = "  q quits" if scene.rates is not None else ""
    first.append(cut(scene.url, max(width - len(first) - len(hint), 10)), "cyan")
    if hint and len(first) + len(hint) <= width:
        first.append(hint.rjust(width - len(first)), "dim")
    result = [first, _counts(scene)]
    if scene.notice:
        result.append(Text(clean(scene.notice), style="bold red"))
    return result


def _counts(scene: Scene) -> Text:
    picture = scene.picture
    counts = Counter(m.residency for m in picture.models)
    always = {name: counts.pop(name, 0) for name in ("awake", "asleep", "cold")}
    line = Text(", ".join(f"{n} {name}" for name, n in [*always.items(), *counts.items()]))
    if scene.rates is None:
        line.append(f"  {count(sum(m.requests_total for m in picture.models), 'request')}")
    else:
        rate = scene.rates.overall()
        line.append(f"  {'-' if rate is None else format(rate, ',.1f')} requests/min")
    return line.append(f"  {count(picture.swaps_total, 'swap')}")


def _memory(picture: Picture, width: int, height: int | None, detail: int) -> list[Text]:
    """The devices and, where models sleep in it, the host's RAM.

    One line per device, with `detail` two, and with more of it another for each process that has some of it.
    """
    result: list[Text] = []
    for device in picture.devices:
        result += _device(device, picture, width, detail)
    if any(m.sleep_level == 1 for m in picture.models):
        result.append(_host(picture, width))
    most = max(height // 3, 3) if not detail and height is not None else len(result)
    if len(result) <= most:
        return result
    return [*result[: most - 1], Text(f"    … {len(result) - most + 1} more lines", style="dim")]


def _device(device: Device, picture: Picture, width: int, detail: int) -> list[Text]:
    parts = _parts(device, picture)
    used = "?" if device.used_bytes is None else gib(device.used_bytes)
    tail = f" {used} of {gib(device.total_bytes)} GiB used"
    if not detail:
        tail = " " + " ".join(f"{p.letter}{gib(p.size)}" for p in parts) + f" used {used} of {gib(device.total_bytes)}"
    # Where there is no GPU the daemon takes the host's RAM for device 0, and names it so.
    label = "CPU" if device.name == "host RAM" else f"GPU {device.index}"
    result = [_bar_line(label, parts, device.total_bytes, tail, width)]
    if detail:
        result.append(_legend(device, parts, named=detail < 2 or device.processes is None))
    if detail > 1:
        result += processes.lines(device, LABEL_WIDTH, width)
    if device.blocked is not None:
        result[0].stylize("bold red", 0, LABEL_WIDTH)
        result.append(Text(" " * LABEL_WIDTH + "blocked: " + clean(device.blocked), style="bold red"))
    return result


def _parts(device: Device, picture: Picture) -> list[bars.Part]:
    """Whose the device's memory is. What lies above the budget is nobody's."""
    asleep = sum(
        share.reserved_bytes
        for model in picture.models
        if model.residency == "asleep"
        for share in model.memory.devices
        if share.index == device.index
    )
    return [
        bars.Part("awake", max(device.reserved_bytes - asleep, 0), "█", "green"),
        bars.Part("asleep", asleep, "▒", "blue"),
        bars.Part("others", device.outside_bytes, "#", "magenta"),
        bars.Part("free", max(device.budget_bytes - device.reserved_bytes - device.outside_bytes, 0), "·", "dim"),
    ]


def _legend(device: Device, parts: Sequence[bars.Part], *, named: bool) -> Text:
    """What the bar's letters mean, and, if they are to be `named`, who the others are."""
    line = Text(" " * LABEL_WIDTH)
    for part in parts:
        line.append(part.letter, part.style).append(f" {part.name} {gib(part.size)}  ")
    line.append(clean(device.name), "dim")
    if device.outside and named:
        who = ", ".join(f"{clean(o.name)} {o.pid} {gib(o.bytes)}" for o in device.outside)
        line.append(f"  others: {who}", "magenta")
    return line


def _host(picture: Picture, width: int) -> Text:
    host = picture.host
    tail = f" sleepers {gib(host.sleep_reserved_bytes)} of {gib(host.sleep_budget_bytes)} GiB, "
    tail += f"RAM {gib(host.used_bytes)} of {gib(host.total_bytes)} used"
    free = max(host.sleep_budget_bytes - host.sleep_reserved_bytes, 0)
    parts = [bars.Part("asleep", host.sleep_reserved_bytes, "▒", "blue"), bars.Part("free", free, "·", "dim")]
    return _bar_line("RAM", parts, host.sleep_budget_bytes, tail, width)


def _bar_line(label: str, parts: Sequence[bars.Part], total: int, tail: str, width: int) -> Text:
    room = min(max(width - LABEL_WIDTH - len(tail), 5), BAR_AT_MOST)
    line = Text(label.ljust(LABEL_WIDTH), style="").append_text(bars.shares(parts, total, room))
    return line.append(tail)


def _queue(picture: Picture, width: int, height: int | None = None) -> list[Text]:
    """The first of those who wait, and how many more there are."""
    if not picture.queue or (height is not None and height < 2):
        return []
    limits = picture.limits
    title = f"QUEUE  {len(picture.queue)} of at most {limits.max_queue}, each {took(limits.max_wait_s)} at most"
    shown = min(QUEUE_AT_MOST, len(picture.queue))
    if height is not None and 1 + shown + (shown < len(picture.queue)) > height:
        shown = height - 2
    result = [Text(title, style="bold"), *(_waiter(w, width) for w in picture.queue[:shown])]
    if more := len(picture.queue) - shown:
        result.append(Text(f"    … {more} more", style="dim"))
    return result


def _waiter(waiter: Waiter, width: int) -> Text:
    names = clean(" + ".join(waiter.models))
    words = ", ".join(filter(None, (clean(waiter.phase), left(waiter.eta_s))))
    line = Text(f"{waiter.place:>3} {took(waiter.waited_s):>5}  ", style="")
    line.append(cut(names, max(width - len(line) - len(words) - 2, 24)))
    return line.append("  " + words, "yellow")


def _decisions(decisions: Sequence[Decision], width: int) -> list[Text]:
    """The last ones, the newest first."""
    if not decisions:
        return []
    newest = list(reversed(decisions[-DECISIONS_AT_MOST:]))
    return [Text("DECISIONS", style="bold"), *(_decision(d, width) for d in newest)]


def _decision(decision: Decision, width: int) -> Text:
    line = Text.assemble((moment(decision.at), "dim"), f" {clean(decision.what)}")
    if decision.model is not None:
        line.append(" " + cut(clean(decision.model), max(width // 3, 16)), "cyan")
    line.append(f": {clean(decision.why)}")
    return line if decision.cost_s is None else line.append(f" ({took(decision.cost_s)})", "dim")
