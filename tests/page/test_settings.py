"""What the page does on servers that are set up in other ways, and in browsers that keep nothing."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.page.answers import saying
from tests.page.conftest import Tab
from tests.page.daemon import MODELS, HeldDaemon, held_daemon
from tests.page.visitor import Visitor

# As Chromium does where a person has blocked what sites keep.
BLOCKED = """for (const name of ["localStorage", "sessionStorage"]) {
    Object.defineProperty(window, name, { get() { throw new DOMException("blocked", "SecurityError"); } });
}"""


def test_without_two_models_there_are_no_battles(browser: Browser) -> None:
    with held_daemon({"alpha": MODELS["alpha"]}) as daemon, browser.new_context() as context:
        visitor = Visitor(context.new_page(), daemon.url)
        visitor.visit()
        expect(visitor.page.get_by_role("link", name="Blind battle")).to_have_count(0)
        expect(visitor.page.get_by_text("Two to four models answer")).to_be_visible()
        assert not visitor.faults


def test_a_browser_that_keeps_nothing_shows_battles_all_the_same(tab: Tab, daemon: HeldDaemon) -> None:
    daemon.engines(lambda e: setattr(e, "reply", saying(["yes"])))
    visitor = tab()
    visitor.page.add_init_script(BLOCKED)
    visitor.visit()
    visitor.ask("Is it so?")
    visitor.button("Both bad").click()
    expect(visitor.page.get_by_role("heading", name="A was")).to_be_visible()


def test_the_page_says_whether_texts_are_kept(browser: Browser) -> None:
    for kept, words in ((True, "are kept on this server"), (False, "and no texts")):
        with held_daemon(arena={"store_texts": kept}) as daemon, browser.new_context() as context:
            visitor = Visitor(context.new_page(), daemon.url)
            visitor.visit()
            expect(visitor.page.get_by_role("contentinfo")).to_contain_text(words)
