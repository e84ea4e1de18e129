"""The page without a mouse, without eyes, on a phone, in the dark."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.answers import cut, saying
from tests.page.conftest import Tab
from tests.page.daemon import HeldDaemon
from tests.page.visitor import Visitor

ANSWER = """## Answer

Some **text** with `code`, a [link](https://ok.example/) and a-very-long-word-%s.

```python
print("a line that is far too long for the screen of any phone, and has to be scrolled on its own instead")
```

| a | rather | wide | table | with | many | columns | and | even | more |
|---|--------|------|-------|------|------|---------|-----|------|------|
| 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
""" % ("x" * 200)
NAMED = {"button", "link", "textbox", "combobox", "checkbox", "spinbutton", "progressbar", "article", "region", "image"}
STATE = """async () => {
    const battle = await fetch(`/v1/arena/battles/${sessionStorage.getItem("arena.battle")}`);
    return (await battle.json()).state;
}"""

# Every text's colour against what lies behind it, by WCAG 2.2's formulas (relative luminance, contrast ratio).
CONTRASTS = r"""() => {
    const rgba = (text) => {
        const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
        return { rgb: [r, g, b], a };
    };
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (e) => {
        for (let at = e; at; at = at.parentElement) {
            const { rgb, a } = rgba(getComputedStyle(at).backgroundColor);
            if (a === 1) return rgb;
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const e = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest(":disabled, .unseen, svg")) continue;
        const [one, other] = [light(rgba(getComputedStyle(e).color).rgb), light(ground(e))].sort((a, b) => b - a);
        found.push([(one + 0.05) / (other + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
    }
    return found;
}"""


def answer_at_length(daemon: HeldDaemon) -> None:
    daemon.engines(lambda e: setattr(e, "reply", saying(cut(ANSWER, 50))))


def controls(page: Page) -> list[dict[str, Any]]:
    """What assistive technology is told of: role and name of everything with a role above."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    told = [{"role": n["role"]["value"], "name": n.get("name", {}).get("value", "")} for n in nodes if not n["ignored"]]
    return [n for n in told if n["role"] in NAMED]


def focused(page: Page) -> str:
    """The words of what has the keyboard."""
    words = page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.innerText")
    assert isinstance(words, str)
    return words


def test_a_battle_by_keyboard_alone(visitor: Visitor, daemon: HeldDaemon) -> None:
    answer_at_length(daemon)
    visitor.visit()
    keys = visitor.page.keyboard
    for _ in range(30):
        keys.press("Tab")
        if focused(visitor.page) == "Ask both models something":
            break
    keys.type("12 is not a vote")
    keys.press("Shift+Enter")
    keys.type("nor is this line")
    keys.press("Enter")
    votes = visitor.page.get_by_role("region", name="Which answer is better?")
    expect(votes).to_be_focused()
    expect(visitor.page.get_by_text("12 is not a vote\nnor is this line")).to_be_visible()
    keys.press("Tab")  # the switch of the keys
    keys.press("Tab")
    assert focused(visitor.page).startswith("A is better")
    keys.press("3")
    expect(visitor.page.get_by_role("heading", name=re.compile("^A was"))).to_be_focused()
    expect(visitor.page.get_by_text("You said: Tie")).to_be_visible()
    expect(visitor.announced).to_have_text(re.compile("^A was .*, B was .*"))
    for _ in range(9):
        keys.press("Tab")
        if focused(visitor.page) == "New battle":
            break
    keys.press("Enter")
    expect(visitor.box).to_be_focused()
    expect(visitor.page.get_by_text("Two models answer")).to_be_visible()


def test_keys_vote_only_where_they_are_meant_to(visitor: Visitor, daemon: HeldDaemon) -> None:
    answer_at_length(daemon)
    visitor.visit()
    visitor.ask("Who are you?")
    expect(visitor.button("Tie")).to_be_visible()
    visitor.box.press_sequentially("1234")
    visitor.page.get_by_role("link", name="Leaderboard").click()
    visitor.page.keyboard.press("1")
    visitor.page.get_by_role("link", name="Blind battle").click()
    visitor.page.get_by_label("keys 1 to 4 vote").uncheck()
    visitor.page.get_by_role("link", name="Blind battle").focus()
    visitor.page.keyboard.press("2")
    assert visitor.page.evaluate(STATE) == "open"
    visitor.page.get_by_label("keys 1 to 4 vote").check()
    visitor.page.get_by_role("link", name="Blind battle").focus()
    visitor.page.keyboard.press("2")
    expect(visitor.page.get_by_text("You said: B is better")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(tab: Tab, daemon: HeldDaemon, scheme: str) -> None:
    answer_at_length(daemon)
    daemon.do(lambda d: d.engines["beta"].fail_loads())
    visitor = tab(color_scheme=scheme, reduced_motion="reduce")
    visitor.visit()
    seen: list[tuple[float, str]] = []

    def look() -> None:
        seen.extend((ratio, text) for ratio, text in visitor.page.evaluate(CONTRASTS))
        nameless = [c for c in controls(visitor.page) if not c["name"].strip()]
        assert nameless == []

    look()
    visitor.page.get_by_label("Pair").select_option("chosen")
    visitor.page.locator(".view:visible").get_by_label("Second model").select_option("org/gamma")
    visitor.page.locator("summary:visible", has_text="Sampling settings").click()
    visitor.ask("Who are you?")
    expect(visitor.button("Tie")).to_be_visible()
    look()
    visitor.button("Tie").click()
    expect(visitor.page.get_by_role("heading", name=re.compile("^A was"))).to_be_visible()
    look()
    visitor.page.get_by_role("link", name="Side by side").click()
    visitor.ask("Who are you?")
    expect(visitor.answer("b").locator(".failure")).to_be_visible()
    look()
    visitor.page.get_by_role("link", name="Leaderboard").click()
    expect(visitor.page.get_by_role("heading", name="Leaderboard")).to_be_visible()
    look()
    assert sorted((r, t) for r, t in seen if r < 4.5) == []
    assert {"Arena", "Tie", "link", "python"} <= {text for _, text in seen}  # it has looked
    for landmark in ("banner", "navigation", "main", "contentinfo", "status"):
        expect(visitor.page.get_by_role(landmark)).to_have_count(1)


def test_nothing_is_wider_than_a_phone(tab: Tab, daemon: HeldDaemon) -> None:
    answer_at_length(daemon)
    visitor = tab(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = visitor.page

    def fits() -> None:
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
        assert page.evaluate("visualViewport.width") == 360  # else it was zoomed out to fit

    visitor.visit()
    fits()
    visitor.box.fill("x" * 300)
    visitor.button("Send").tap()
    expect(visitor.button("Tie")).to_be_visible()
    fits()
    first, second = visitor.answer("a").bounding_box(), visitor.answer("b").bounding_box()
    assert first is not None
    assert second is not None
    assert second["y"] >= first["y"] + first["height"]
    visitor.button("Tie").tap()
    expect(page.get_by_role("heading", name=re.compile("^A was"))).to_be_visible()
    fits()
    for name in ("Side by side", "Leaderboard"):
        page.get_by_role("link", name=name).tap()
        fits()


def test_who_reads_further_up_is_left_there(visitor: Visitor, daemon: HeldDaemon) -> None:
    daemon.engines(lambda e: setattr(e, "reply", saying(["line\n\n" * 60, "more\n\n" * 60, "end"])))
    daemon.engines(lambda e: e.chunks.hold())
    visitor.visit("compare")
    visitor.ask("Go on")
    daemon.wait(lambda d: d.engines["alpha"].inference and d.engines["beta"].inference, "both to be asked")
    daemon.engines(lambda e: e.chunks.release(1))
    page = visitor.page
    rest = "() => { const p = document.scrollingElement; return p.scrollHeight - p.scrollTop - p.clientHeight; }"
    expect(visitor.answer("b")).to_contain_text("line")
    expect(visitor.answer("a")).to_contain_text("line")
    assert page.evaluate(rest) < 150  # it followed
    page.evaluate("document.scrollingElement.scrollTop = 200")
    daemon.engines(lambda e: e.chunks.release())
    expect(visitor.announced).to_have_text("All answers are complete.")
    expect(visitor.answer("a")).to_contain_text("end")
    assert page.evaluate("document.scrollingElement.scrollTop") == 200


def test_nothing_moves_for_who_wants_it_still(tab: Tab, daemon: HeldDaemon) -> None:
    daemon.engines(lambda e: e.load_gate.hold())
    visitor = tab(reduced_motion="reduce")
    visitor.visit("compare")
    visitor.ask("Go on")
    expect(visitor.answer("a").get_by_role("progressbar")).to_be_visible()
    assert visitor.page.evaluate("document.getAnimations().length") == 0
