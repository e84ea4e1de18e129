"""Takes the pictures in docs/screenshots, for whoever changes how the page looks:

ARENA_SCREENSHOTS=docs/screenshots ./scripts/test tests/page/test_screenshots.py
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from arena_server.engine.base import LoadProgress
from arena_server.store.records import BattleRecord, ModelRecord, Vote
from tests.page.answers import cut, saying
from tests.page.daemon import ARENA, HeldDaemon, held_daemon
from tests.page.visitor import Visitor
from tests.support.daemon_app import FakeDaemon

MOST_BYTES = 150_000
# Names of no real models: nobody is to take this for a ranking of some.
STRENGTHS = {"birch-8b": 1120, "cedar-7b": 1060, "maple-7b": 980, "willow-9b": 840}
MODELS = {name: {"model": f"org/{name}", "gpu_memory_utilization": 0.4} for name in STRENGTHS}
VOTES = 200
LONG = """The sky is blue because of **Rayleigh scattering**:

1. Sunlight holds all colours.
2. Molecules of air scatter *short* waves far more than long ones.
3. So from everywhere in the sky, blue reaches your eye.

| Colour | Wavelength | Scattered |
|:-------|-----------:|----------:|
| red    |     700 nm |       1 × |
| blue   |     450 nm |     5.9 × |

```python
def scattered(wavelength_nm: float, against_nm: float = 700) -> float:
    return (against_nm / wavelength_nm) ** 4
```
"""
SHORT = """Sunlight is made of all colours. The air throws the blue ones about much more than the red ones, \
so blue comes from all over the sky.

> At dusk the light takes a longer way through the air, and what is left is red.
"""

Taker = Callable[[Visitor, str], None]

pytestmark = pytest.mark.skipif(
    "ARENA_SCREENSHOTS" not in os.environ, reason="ARENA_SCREENSHOTS does not say where to put the pictures"
)


@pytest.fixture
def take() -> Taker:
    directory = Path(os.environ["ARENA_SCREENSHOTS"])
    directory.mkdir(parents=True, exist_ok=True)

    def save(visitor: Visitor, name: str) -> None:
        path = directory / f"{name}.png"
        visitor.page.screenshot(path=path)
        assert path.stat().st_size < MOST_BYTES

    return save


@pytest.fixture
def server() -> Iterator[HeldDaemon]:
    # At a pace, so that answers are seen while they come.
    with held_daemon(MODELS, arena={**ARENA, "max_chars_per_s": 400}) as daemon:
        for name, text in zip(STRENGTHS, (LONG, SHORT, SHORT, LONG), strict=True):
            daemon.do(lambda d, name=name, text=text: setattr(d.engines[name], "reply", saying(cut(text, 4))))  # type: ignore[misc]
        daemon.engines(lambda e: e.chunks.hold())
        writing = daemon.do(lambda d: asyncio.get_running_loop().create_task(write(d)))
        yield daemon
        daemon.do(lambda _: writing.cancel())


async def write(daemon: FakeDaemon) -> None:
    """Let the engines write as fast as such models do."""
    while True:
        for speed, engine in enumerate(daemon.engines.values(), 2):
            if engine.inference and not engine.inference[-1].finished:
                engine.chunks.release(speed)
        await asyncio.sleep(0.04)


def vote_as_if(daemon: HeldDaemon) -> None:
    """Votes of people who know the strengths."""
    dice = random.Random(4)

    def record(number: int) -> tuple[BattleRecord, Vote]:
        a, b = dice.sample(sorted(STRENGTHS), 2)
        wins = dice.random() < 1 / (1 + 10 ** ((STRENGTHS[b] - STRENGTHS[a]) / 400))
        vote = dice.choices([Vote.A if wins else Vote.B, Vote.TIE, Vote.BOTH_BAD], [8, 1, 1])[0]
        one, other = (ModelRecord(name, f"org/{name}", None, {}) for name in (a, b))
        return BattleRecord(f"seen-{number}", datetime.now(UTC), one, other, 1 / 6, True, {}, []), vote

    for battle, vote in [record(i) for i in range(VOTES)]:
        daemon.run(lambda d, battle=battle: d.votes.record(battle))  # type: ignore[misc]
        daemon.run(lambda d, battle=battle, vote=vote: d.votes.vote(battle, vote, datetime.now(UTC)))  # type: ignore[misc]


def test_on_a_desk(browser: Browser, server: HeldDaemon, take: Taker) -> None:
    with browser.new_context(viewport={"width": 1200, "height": 800}, color_scheme="light") as context:
        vote_as_if(server)
        visitor = Visitor(context.new_page(), server.url)
        visitor.visit()
        visitor.page.get_by_label("Pair").select_option("chosen")
        visitor.page.locator(".view:visible").get_by_label("Second model").select_option("cedar-7b")
        visitor.ask("Why is the sky blue?")
        expect(visitor.answer("a")).to_contain_text("all colours")
        expect(visitor.button("Tie")).to_be_visible()
        take(visitor, "battle")
        visitor.button("A is better").click()
        expect(visitor.page.get_by_role("heading", name=re.compile("^A was"))).to_be_visible()
        take(visitor, "reveal")
        visitor.page.get_by_role("link", name="Leaderboard").click()
        expect(visitor.page.get_by_role("row")).to_have_count(1 + len(STRENGTHS))
        take(visitor, "leaderboard")


def test_in_the_dark(browser: Browser, server: HeldDaemon, take: Taker) -> None:
    options = {"color_scheme": "dark", "reduced_motion": "reduce"}  # no bar is taken in mid-move
    with browser.new_context(viewport={"width": 1200, "height": 800}, **options) as context:  # type: ignore[arg-type]
        visitor = Visitor(context.new_page(), server.url)
        visitor.visit("compare")
        server.engines(lambda e: e.load_gate.hold())
        visitor.ask("Why is the sky blue?")
        expect(visitor.answer("a")).to_contain_text("Loading")
        server.do(lambda d: setattr(d.engines["birch-8b"], "progress", LoadProgress("weights", 0.6)))
        expect(visitor.page.get_by_role("listitem").filter(has_text="60 %")).to_be_visible()
        take(visitor, "loading")
        server.engines(lambda e: e.load_gate.release())


def test_on_a_phone(browser: Browser, server: HeldDaemon, take: Taker) -> None:
    with browser.new_context(viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True) as context:
        visitor = Visitor(context.new_page(), server.url)
        visitor.visit()
        visitor.ask("Why is the sky blue?")
        expect(visitor.button("Tie")).to_be_visible()
        take(visitor, "phone")
