"""A plan as lines of text for a terminal, or a pipe. Nothing here looks at anything but the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.text import Text

from arena_server.console.words import clean, cut, gib
from arena_server.plan.figures import figures
from arena_server.plan.plan import ModelPlan, Plan, quantised, sleep_bytes
from arena_server.plan.warn import WORDS, Warning, Weight, warnings

NAME_AT_LEAST = 14
GAP = "  "
SETS_AT_MOST = 6
STYLES = {Weight.FAILS: "bold red", Weight.COSTS: "yellow", Weight.TELLS: "dim"}


def lines(plan: Plan, width: int) -> list[Text]:
    """All of it, no line wider than `width`."""
    told = warnings(plan)
    blocks = [_header(plan), _table(plan, width), _together(plan), _sleep(plan), _quantised(plan, width)]
    blocks.append(_warnings(told))
    result: list[Text] = []
    for block in filter(None, blocks):
        result += [*([Text()] if result else []), *fitted(block, width)]
    return result


def fitted(block: Sequence[Text], width: int) -> list[Text]:
    """The lines, those too long for `width` as several."""
    return [wrapped for line in block for wrapped in _wrapped(line, width)]


def _wrapped(line: Text, width: int) -> list[Text]:
    """A long sentence goes on below, indented."""
    if cell_len(line.plain) <= width:
        return [line]
    indent = min(len(line.plain) - len(line.plain.lstrip()) + 4, max(width - 20, 0))
    words = line.split(" ")
    rows: list[Text] = [Text(style=line.style)]
    for i, word in enumerate(words):
        if i and cell_len(rows[-1].plain) + 1 + cell_len(word.plain) > width and rows[-1].plain.strip():
            rows.append(Text(" " * indent, style=line.style).append_text(word))
        else:
            rows[-1] = Text.assemble(rows[-1], " " if i else "", word, style=line.style)
    for row in rows:
        row.truncate(width, overflow="ellipsis")
    return rows


def _header(plan: Plan) -> list[Text]:
    cards = [(name, [*group]) for name, group in groupby(plan.cards, key=lambda card: card.device.name)]
    named = ", ".join(
        f"{f'{len(group)} x ' if len(group) > 1 else ''}{clean(name)}, {gib(group[0].device.total_bytes)} GiB"
        for name, group in cards
    )
    first = Text.assemble(("PLAN", "bold"), f"  {plan.config.file} on {named}")
    total = plan.cards[0].device.total_bytes
    budget = f"of each card the pool gives out {plan.budget:.10g}, {gib(int(total * plan.budget))} GiB"
    return [first, Text(budget + " (1 - pool.memory_reserve)", style="dim")]


@dataclass(frozen=True, slots=True)
class _Column:
    """Figures, right-aligned. The narrower the terminal, the more of low `worth` are left out."""

    title: str
    worth: int
    figure: Callable[[ModelPlan, Plan], str]


def _size(model: ModelPlan, which: str) -> str:
    if model.needs is None or (model.architecture is None and which == "overhead"):
        return "?"
    figure = model.needs.weights if which == "weights" else model.needs.overhead
    return gib(figure.bytes) + ("*" if figure.measured else "")


def _token(model: ModelPlan, _: Plan) -> str:
    cache = model.needs.cache if model.needs else None
    return "?" if cache is None else f"{cache.token_bytes / 1024:.1f}"


def _length(model: ModelPlan, _: Plan) -> str:
    return "?" if model.proposal is None else f"{model.proposal.length:,}"


def _fraction(value: int | None) -> str:
    return "-" if value is None else f"{value / 100:.2f}"


def _tokens(model: ModelPlan, plan: Plan) -> str:
    found = figures(model, plan)
    return "-" if found is None else f"{found.tokens:,}"


def _requests(model: ModelPlan, plan: Plan) -> str:
    found = figures(model, plan)
    return "-" if found is None else f"{found.requests:.1f}"


_COLUMNS = (
    _Column("WEIGHTS", 9, lambda m, _: _size(m, "weights")),
    _Column("OTHER", 4, lambda m, _: _size(m, "overhead")),
    _Column("KiB/TOKEN", 5, _token),
    _Column("CONTEXT", 6, _length),
    _Column("NOW", 3, lambda m, _: f"{m.model.gpu_memory_utilization:g}"),
    _Column("LEAST", 8, lambda m, _: _fraction(m.proposal.smallest if m.proposal else None)),
    _Column("USE", 10, lambda m, _: _fraction(m.proposal.recommended if m.proposal else None)),
    _Column("TOKENS", 7, _tokens),
    _Column("REQUESTS", 2, _requests),
)


def _table(plan: Plan, width: int) -> list[Text]:
    widths = {c: max(len(c.title), *(len(c.figure(m, plan)) for m in plan.models)) for c in _COLUMNS}
    names = [clean(m.name) for m in plan.models]
    longest = max(len("MODEL"), *map(cell_len, names))
    kept = list(_COLUMNS)
    while kept and min(longest, NAME_AT_LEAST) + sum(widths[c] + len(GAP) for c in kept) > width:
        kept.remove(min(kept, key=lambda c: c.worth))
    name_width = max(min(longest, width - sum(widths[c] + len(GAP) for c in kept)), 1)
    title = _padded("MODEL", name_width) + "".join(GAP + c.title.rjust(widths[c]) for c in kept)
    result = [Text(title, style="bold")]
    for model, name in zip(plan.models, names, strict=True):
        row = Text(_padded(cut(name, name_width), name_width))
        row.append("".join(GAP + c.figure(model, plan).rjust(widths[c]) for c in kept))
        row.style = "" if model.works else "red"
        result.append(row)
    result.append(Text("GiB on each device; OTHER is for activations and CUDA graphs", style="dim"))
    words = "gpu_memory_utilization: NOW, the LEAST that works, what to USE (TOKENS fit then)"
    result.append(Text(words, style="dim"))
    if any(m.needs and (m.needs.weights.measured or m.needs.overhead.measured) for m in plan.models):
        result.append(Text("* measured on this machine; all else is an estimate", style="dim"))
    return result


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _together(plan: Plan) -> list[Text]:
    if len(plan.models) < 2 or not plan.then.pairs:
        return []
    then = plan.then
    fit = then.pairs - len(then.apart)
    title = Text("TOGETHER", style="bold").append(f"  {fit} of {then.pairs} pairs can be awake at once", "not bold")
    result = [title]
    if not fit:
        return [title.append(": one at a time", "not bold")]
    for chosen in then.sets[:SETS_AT_MOST]:
        result.append(Text("  " + " + ".join(clean(name) for name in chosen)))
    if (more := len(then.sets) - SETS_AT_MOST) > 0:
        result.append(Text(f"  … {more} more of {len(then.sets[0])} models", style="dim"))
    return result


def _sleep(plan: Plan) -> list[Text]:
    sizes = [(m.name, size) for m in plan.models if (size := sleep_bytes(m))]
    if not sizes:
        return []
    total = sum(size for _, size in sizes)
    host = plan.host
    title = Text("ASLEEP", style="bold").append(
        f"  {gib(total)} GiB of host RAM if all sleep; sleepers may take {gib(host.sleep_bytes)} "
        f"of this host's {gib(host.total_bytes)} GiB",
        "not bold",
    )
    return [title, Text("  " + ", ".join(f"{clean(name)} {gib(size)}" for name, size in sizes))]


def _quantised(plan: Plan, width: int) -> list[Text]:
    rows = [(m, sizes) for m in plan.models if m.works or m.sight if (sizes := quantised(m))]
    if not rows:
        return []
    result = [Text("QUANTISED", style="bold").append("  weights on each device, in GiB, would be", "not bold")]
    for model, sizes in rows:
        now = gib(model.needs.weights.bytes) if model.needs else "?"
        words = ", ".join(f"{gib(size)} in {WORDS[kind]}" for kind, size in sizes.items())
        result.append(Text(f"  {cut(clean(model.name), max(width // 3, NAME_AT_LEAST))}: {words} (now {now})"))
    return result


def _warnings(told: Sequence[Warning]) -> list[Text]:
    """What is the same for several models is said once."""
    about: dict[tuple[Weight, str], list[str]] = {}
    for warning in told:
        about.setdefault((warning.weight, warning.text), []).extend([] if warning.name is None else [warning.name])
    return [
        Text(f"{weight}: {', '.join(map(clean, names))}{': ' if names else ''}{clean(text)}", style=STYLES[weight])
        for (weight, text), names in about.items()
    ]
